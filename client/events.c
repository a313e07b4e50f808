/* events: what happened to a job, told stage by stage. */
#include "args.h"
#include "event_list.h"
#include "format.h"
#include "output.h"
#include "views.h"

#include "kd/clock.h"

#include <stdio.h>
#include <string.h>

static const kd_opt g_opts[] = {
    {"follow", 'f', NULL, "go on with new events until the job ends"},
    {"all", 'a', NULL, "checkpoints too, which are left out for people"},
    {"from", 0, "SEQ", "begin with this sequence number (-o json shows them)"},
};

struct story {
    bool all;
    int64_t started_ms; /* 0 = not yet */
    bool told;          /* an event has said so */
    char stage[64];     /* whose heading was printed last */
};

static bool is(const Distill__V1__Event *e, const char *kind)
{
    return strcmp(e->kind, kind) == 0;
}

static bool wanted(const Distill__V1__Event *e, void *arg)
{
    (void)e;
    (void)arg;
    return true;
}

static void begin(const kd_cli *cli, const Distill__V1__JobDetail *d, void *arg)
{
    struct story *s = arg;
    const Distill__V1__JobSummary *j = d->summary;
    char at[KD_FMT];
    s->started_ms = j->started_ms;
    kd_out_clean(cli, "job %s %s, submitted %s; times since its start", j->job, j->name,
                 kd_fmt_clock(j->submitted_ms, kd_clock_wall_ms(), at));
}

/* "stage NAME rest": the name into out; what follows it, NULL if the text is another. */
static const char *stage_of(const char *text, char out[64])
{
    if (strncmp(text, "stage ", 6) != 0)
        return NULL;
    size_t n = strcspn(text + 6, " ");
    if (n == 0 || n >= 64 || text[6 + n] != ' ')
        return NULL;
    memcpy(out, text + 6, n);
    out[n] = '\0';
    return text + 6 + n + 1;
}

static void enter(const kd_cli *cli, struct story *s, const char *stage)
{
    if (strcmp(s->stage, stage) == 0)
        return;
    snprintf(s->stage, sizeof s->stage, "%s", stage);
    kd_out(cli, "%s", "");
    kd_out_clean(cli, "stage %s", stage);
}

static enum kd_color color_of(const Distill__V1__Event *e)
{
    if (is(e, "finished"))
        return kd_state_color(e->state);
    if (is(e, "quarantine"))
        return KD_RED;
    if (is(e, "recovery"))
        return KD_GREEN;
    if (is(e, "warning") || is(e, "slow") || is(e, "waiting") ||
        strncmp(e->text, "worker lost", 11) == 0)
        return KD_YELLOW;
    return is(e, "stage") || is(e, "started") ? KD_CYAN : KD_PLAIN;
}

/* What a person is told beside the time; the worker's name stands before it. */
static void say(const struct story *s, const Distill__V1__Event *e, kd_buf *out)
{
    char stage[64];
    const char *text = e->text, *rest = is(e, "stage") ? stage_of(text, stage) : NULL;
    size_t n = strlen(s->stage);
    if (rest)
        text = rest;
    else if (is(e, "epoch") && n > 0 && strncmp(text, s->stage, n) == 0 && text[n] == ' ')
        text += n + 1;
    if (is(e, "waiting") && strncmp(text, "wait", 4) != 0)
        (void)kd_buf_str(out, "waits: ");
    if (is(e, "warning"))
        (void)kd_buf_str(out, "warning: ");
    kd_text_clean(out, text);
}

static void print(const kd_cli *cli, const Distill__V1__Event *e, void *arg)
{
    struct story *s = arg;
    char at[KD_FMT], stage[64], a[KD_FMT];
    if (is(e, "checkpoint") && !s->all)
        return;
    /* The first one says that it started, one after a pause that it goes on. */
    bool again = is(e, "started") && s->told;
    if (is(e, "started")) {
        s->told = true;
        s->started_ms = s->started_ms ? s->started_ms : e->time_ms;
    }
    if (is(e, "stage") && stage_of(e->text, stage))
        enter(cli, s, stage);
    if (s->started_ms && e->time_ms >= s->started_ms)
        snprintf(at, sizeof at, "+%.40s",
                 kd_fmt_duration((double)(e->time_ms - s->started_ms) / 1000, a));
    else
        kd_fmt_clock(e->time_ms, e->time_ms, at);
    kd_buf line;
    kd_buf_init(&line, KD_MAX_CONTROL_BYTES);
    enum kd_color color = color_of(e);
    bool on = cli->color_out;
    (void)kd_buf_printf(&line, "%s%12s%s  %s", kd_color_start(KD_DIM, on), at, kd_color_end(on),
                        kd_color_start(color, on && color != KD_PLAIN));
    if (e->worker[0]) {
        kd_text_clean(&line, e->worker);
        (void)kd_buf_str(&line, ": ");
    }
    if (again)
        (void)kd_buf_str(&line, "goes on");
    else
        say(s, e, &line);
    (void)kd_buf_str(&line, kd_color_end(on && color != KD_PLAIN));
    kd_out(cli, "%s", line.data ? line.data : "");
    kd_buf_clear(&line);
}

static int run(kd_cli *cli, const kd_args *args)
{
    struct story story = {.all = kd_args_has(args, "all"), .told = kd_args_has(args, "from")};
    kd_event_list l = {.job = args->operands[0],
                       .follow = kd_args_has(args, "follow"),
                       .wanted = wanted,
                       .print = print,
                       .begin = begin,
                       .arg = &story};
    kd_diag diag = {0};
    if (kd_args_u64(args, "from", 1, INT64_MAX, 0, &l.from_seq, &diag) != 0)
        return kd_usage(cli, "events", NULL, "%s", diag.msg);
    return kd_event_list_run(cli, &l);
}

const kd_verb kd_verb_events = {.name = "events",
                                .operands = "JOB",
                                .summary = "tell what happened to a job, stage by stage",
                                .help = "Times since the job's start; faults with how long the "
                                        "recovery took and what it cost, slow\n"
                                        "workers, quarantines, pauses. With -o json: every event "
                                        "as one JSON object a line, with its\n"
                                        "figures under `data`.",
                                .opts = g_opts,
                                .n_opts = KD_COUNT(g_opts),
                                .lists = true,
                                .min_operands = 1,
                                .max_operands = 1,
                                .run = run};
