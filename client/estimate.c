/* estimate: how long a job would take, and how much memory, as an idle worker measures it. */
#include "estimate.h"

#include "args.h"
#include "connect.h"
#include "format.h"
#include "output.h"
#include "verbs.h"

#include <string.h>

#define MAX_TEXT (64u << 10) /* of the whole table */

static const kd_opt g_opts[] = {
    {"set", 0, "KEY=VALUE", "override a key of the job file, e.g. distill.epochs=3 (repeatable)"},
};

static const char g_old[] = "the coordinator is of a version that estimates nothing";

static void add_row(kd_table *t, const Distill__V1__StageEstimate *s)
{
    char a[KD_FMT];
    const bool tried = !s->problem[0];
    kd_table_add(t, KD_BOLD, "%s", s->stage);
    kd_table_add(t, KD_PLAIN, "%s", s->samples ? kd_fmt_count(s->samples, a) : "");
    kd_table_add(t, KD_PLAIN, "%s", s->steps ? kd_fmt_count(s->epochs, a) : "");
    kd_table_add(t, KD_PLAIN, "%s", s->steps ? kd_fmt_count(s->steps, a) : "");
    kd_table_add(t, KD_PLAIN, "%s", s->teacher_views ? kd_fmt_count(s->teacher_views, a) : "");
    kd_table_add(t, KD_PLAIN, "%s", tried ? kd_fmt_duration(s->seconds, a) : "");
    kd_table_add(t, KD_PLAIN, "%s",
                 s->memory_bytes ? kd_fmt_bytes((double)s->memory_bytes, a) : "");
    kd_table_add(t, tried ? KD_PLAIN : KD_YELLOW, "%s%s",
                 tried ? "" : "not tried: ", tried ? s->note : s->problem);
}

/* What all of it comes to. */
static void add_sum(const Distill__V1__Estimate *e, kd_buf *out)
{
    char a[KD_FMT];
    size_t untried = 0;
    for (size_t i = 0; i < e->n_stages; i++)
        untried += e->stages[i]->problem[0] != '\0';
    kd_buf_printf(out, "about %s", kd_fmt_duration(e->seconds, a));
    if (untried)
        kd_buf_printf(out, " and %zu stage%s that could not be tried", untried,
                      untried == 1 ? "" : "s");
    kd_buf_printf(out, " on %u worker%s of %u thread%s", e->workers, e->workers == 1 ? "" : "s",
                  e->threads, e->threads == 1 ? "" : "s");
    if (e->memory_bytes)
        kd_buf_printf(out, ", up to %s each", kd_fmt_bytes((double)e->memory_bytes, a));
    kd_buf_str(out, ", as worker ");
    kd_text_clean(out, e->worker);
    kd_buf_str(out, " measured it\n");
    if (e->connected < e->workers)
        kd_buf_printf(out, "it waits until %u workers are there; now it could have %u\n",
                      e->workers, e->connected);
    if (e->jobs)
        kd_buf_printf(out, "that is the first of the sweep's %u jobs; they share what is alike\n",
                      e->jobs);
}

int kd_estimate_exit(const Distill__V1__Estimate *e)
{
    return !e || e->why[0] ? KD_EXIT_TEMPORARY : e->problem[0] ? KD_EXIT_CONFIG : KD_EXIT_OK;
}

json_t *kd_estimate_json(const Distill__V1__Estimate *e)
{
    Distill__V1__Estimate none = DISTILL__V1__ESTIMATE__INIT;
    none.why = (char *)g_old;
    return kd_json_estimate(e ? e : &none);
}

int kd_estimate_tell(const kd_cli *cli, const Distill__V1__Estimate *e, bool talk)
{
    const int rc = kd_estimate_exit(e);
    if (rc == KD_EXIT_TEMPORARY)
        kd_say(cli, "no estimate: %s", e ? e->why : g_old);
    else if (rc == KD_EXIT_CONFIG)
        kd_error(cli, "worker %s tried the job and says: %s", e->worker, e->problem);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_table t;
    kd_buf text;
    kd_table_init(&t, "STAGE|SAMPLES>|EPOCHS>|STEPS>|TAUGHT>|TIME>|MEMORY>|NOTE");
    for (size_t i = 0; i < e->n_stages; i++)
        add_row(&t, e->stages[i]);
    for (int i = 1; i < t.n_columns; i++)
        t.hidden[i] = kd_table_is_blank(&t, i);
    kd_buf_init(&text, MAX_TEXT);
    if (kd_table_render(&t, 0, talk ? cli->color_err : cli->color_out, &text) == 0)
        add_sum(e, &text);
    kd_table_clear(&t);
    if (text.failed || !text.len)
        kd_error(cli, "no memory for the table");
    else if (talk)
        kd_say(cli, "%.*s", (int)text.len - 1, text.data); /* its last line ends by itself */
    else
        kd_out_text(cli, text.data);
    kd_buf_clear(&text);
    return KD_EXIT_OK;
}

static int tell(kd_cli *cli, const Distill__V1__SubmitReply *r)
{
    if (!cli->json) {
        const int rc = kd_estimate_tell(cli, r->estimate, false), out = kd_out_flush(cli);
        return rc != KD_EXIT_OK ? rc : out;
    }
    const int rc = kd_json_print(cli, kd_estimate_json(r->estimate), false);
    return rc != KD_EXIT_OK ? rc : kd_estimate_exit(r->estimate);
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_submit *s = NULL;
    kd_conn conn;
    Distill__V1__SubmitReply *reply = NULL;
    kd_cli_catch_signals();
    int rc = kd_submit_read(cli, "estimate", args, &s);
    if (rc == KD_EXIT_OK)
        rc = kd_conn_open(cli, &conn);
    if (rc != KD_EXIT_OK) {
        kd_submit_free(s);
        return rc;
    }
    rc = kd_submit_try(&conn, s, &reply);
    if (rc == KD_EXIT_OK)
        rc = tell(cli, reply);
    if (reply)
        kd_wire_free(&reply->base);
    kd_conn_close(&conn);
    kd_submit_free(s);
    return rc;
}

const kd_verb kd_verb_estimate = {
    .name = "estimate",
    .operands = "FILE",
    .summary = "how long a job would take here, and how much memory",
    .help =
        "Has an idle worker try FILE for some seconds, a minute at most: it opens the data, makes\n"
        "each stage's networks and measures what units, teachers and evaluations take. The time\n"
        "is that on the workers which are connected and which the job would have, with a logit\n"
        "bank that is empty; what a slow line between machines adds comes besides.\n"
        "TAUGHT: views that teachers are shown. MEMORY: of a worker that has the job alone.\n"
        "Nothing is stored or uploaded, and a job that comes takes the worker at once. Exit code\n"
        "75 if nobody could try it, 78 if the worker found something wrong with job or data.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
