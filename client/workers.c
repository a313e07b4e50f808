/* workers: who trains. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"

#include "kd/clock.h"

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
    {"quiet", 'q', NULL, "print names only"},
};

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *message)
{
    const Distill__V1__WorkersReply *reply = (const Distill__V1__WorkersReply *)message;
    if (kd_args_has(args, "quiet")) {
        for (size_t i = 0; i < reply->n_workers; i++)
            kd_out_clean(cli, "%s", reply->workers[i]->name);
        return kd_out_flush(cli);
    }
    if (cli->json) {
        json_t *all = json_array();
        for (size_t i = 0; i < reply->n_workers; i++)
            (void)json_array_append_new(all, kd_json_worker(reply->workers[i]));
        return kd_json_print(cli, json_pack("{s:o}", "workers", all), false);
    }
    if (reply->n_workers == 0) {
        kd_say(cli, "no workers have joined %s", cli->server);
        kd_hint(cli, "start one with `distill-worker --server %s --data-root DIR`", cli->server);
        return KD_EXIT_OK;
    }
    kd_table t;
    char a[KD_FMT], b[KD_FMT];
    kd_table_init(
        &t, "NAME|STATE|JOB|THREADS>|UNITS/S>|SLOW>|SEEN>|BLAS|ISA|NUMERICS|VERSION|ADDRESS|CPU");
    int64_t now = kd_clock_wall_ms();
    for (size_t i = 0; i < reply->n_workers; i++) {
        const Distill__V1__WorkerInfo *w = reply->workers[i];
        kd_table_add(&t, KD_PLAIN, "%s", w->name);
        kd_table_add(&t, state_color(w->state), "%s", w->state);
        kd_table_add(&t, KD_PLAIN, "%s", w->job);
        kd_table_add(&t, KD_PLAIN, "%u", w->threads);
        kd_table_add(&t, KD_PLAIN, "%s",
                     w->units_per_second > 0 ? kd_fmt_figure(w->units_per_second, a) : "-");
        kd_table_add(&t, w->slow ? KD_YELLOW : KD_PLAIN, "%s",
                     w->slow ? kd_fmt_count(w->slow, a) : "-");
        kd_table_add(&t, KD_PLAIN, "%s%s", kd_fmt_age(w->seen_ms, now, b),
                     w->seen_ms ? " ago" : "");
        kd_table_add(&t, KD_PLAIN, "%s", w->blas);
        kd_table_add(&t, KD_PLAIN, "%s", w->isa);
        kd_table_add(&t, KD_PLAIN, "%.8s", w->numerics);
        kd_table_add(&t, KD_PLAIN, "%s", w->version);
        kd_table_add(&t, KD_PLAIN, "%s", w->address);
        kd_table_add(&t, KD_PLAIN, "%s", w->cpu);
    }
    kd_table_print(cli, &t, 0);
    return kd_out_flush(cli);
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
    .help =
        "Workers whose NUMERICS differ may not train one job together: their bits would differ.\n"
        "SLOW counts units of a worker that were given to others as well, since it took too long.\n"
        "STATE: idle, preparing (a stage), ready (for the next checkpoint), working, draining and\n"
        "drained (`distill drain`), quarantined (it computed wrong numbers: look after its memory\n"
        "and processor, then start it anew).",
    .run = run};
