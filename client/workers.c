/* workers: who trains. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "list.h"

#include <string.h>

static enum kd_color state_color(const char *state)
{
    if (strcmp(state, "lost") == 0 || strcmp(state, "quarantined") == 0)
        return KD_RED;
    if (strcmp(state, "draining") == 0 || strcmp(state, "drained") == 0)
        return KD_YELLOW;
    if (strcmp(state, "idle") == 0)
        return KD_PLAIN;
    return KD_CYAN;
}

static const kd_opt g_opts[] = {
    {"quiet", 'q', NULL, "print names only, as -o name"},
};

static void add_row(kd_table *t, const void *item, int64_t now)
{
    char a[KD_FMT];
    const Distill__V1__WorkerInfo *w = item;
    kd_table_add(t, KD_PLAIN, "%s", w->name);
    kd_table_add(t, state_color(w->state), "%s", w->state);
    kd_table_add(t, KD_PLAIN, "%s", w->job);
    kd_table_add(t, KD_PLAIN, "%u", w->threads);
    kd_table_add(t, KD_PLAIN, "%s",
                 w->units_per_second > 0 ? kd_fmt_figure(w->units_per_second, a) : "-");
    kd_table_add(t, w->slow ? KD_YELLOW : KD_PLAIN, "%s", w->slow ? kd_fmt_count(w->slow, a) : "-");
    kd_table_add(t, KD_PLAIN, "%s%s", kd_fmt_age(w->seen_ms, now, a), w->seen_ms ? " ago" : "");
    kd_table_add(t, KD_PLAIN, "%s",
                 w->resident_bytes ? kd_fmt_bytes((double)w->resident_bytes, a) : "");
    kd_table_add(t, KD_PLAIN, "%s", w->blas);
    kd_table_add(t, KD_PLAIN, "%s", w->isa);
    kd_table_add(t, KD_PLAIN, "%.8s", w->numerics);
    kd_table_add(t, KD_PLAIN, "%s", w->version);
    kd_table_add(t, KD_PLAIN, "%s", w->address);
    kd_table_add(t, KD_PLAIN, "%s", w->cpu);
}

static json_t *to_json(const void *item)
{
    return kd_json_worker(item);
}

static const kd_column g_columns[] = {
    {"NAME", "name", KD_ALWAYS},
    {"STATE", "state", KD_ALWAYS},
    {"JOB", "job", KD_ALWAYS},
    {"THREADS>", "threads", KD_ALWAYS},
    {"UNITS/S>", "units_per_second", KD_ALWAYS},
    {"SLOW>", "slow", KD_ALWAYS},
    {"SEEN>", "seen", KD_ALWAYS},
    {"MEMORY>", "resident_bytes", KD_WIDE},
    {"BLAS", "blas", KD_WIDE},
    {"ISA", "isa", KD_WIDE},
    {"NUMERICS", "numerics", KD_ALWAYS},
    {"VERSION", "version", KD_ALWAYS},
    {"ADDRESS", "address", KD_ALWAYS},
    {"CPU", "cpu", KD_WIDE},
};

static const kd_list g_list = {.key = "workers",
                               .name = "name",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *message)
{
    const Distill__V1__WorkersReply *reply = (const Distill__V1__WorkersReply *)message;
    if (kd_args_has(args, "quiet") && !cli->json)
        cli->format = KD_FORMAT_NAME;
    int rc =
        kd_list_print(cli, &g_list, (const void *const *)reply->workers, reply->n_workers, NULL);
    if (reply->n_workers == 0 && !cli->json) {
        kd_say(cli, "no workers have joined %s", cli->server);
        kd_hint(cli, "start one with `distill-worker --server %s --data-root DIR`", cli->server);
    }
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    Distill__V1__WorkersRequest request = DISTILL__V1__WORKERS_REQUEST__INIT;
    return kd_conn_run(cli, args, "Workers", &request, &distill__v1__workers_reply__descriptor,
                       tell);
}

const kd_verb kd_verb_workers = {
    .name = "workers",
    .operands = "",
    .summary = "list the workers and what they do",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .lists = true,
    .help =
        "Workers whose NUMERICS differ may not train one job together: their bits would differ.\n"
        "SLOW counts units of a worker that were given to others as well, since it took too long.\n"
        "STATE: idle, preparing (a stage), ready (for the next checkpoint), working, draining and\n"
        "drained (`distill drain`), quarantined (it computed wrong numbers: look after its memory\n"
        "and processor, then start it anew).",
    .run = run};
