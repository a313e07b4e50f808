/* bench: how fast a network from a file is on this machine. */
#include "args.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "predict_model.h"
#include "timing.h"

static const kd_opt g_opts[] = {
    {"size", 0, "N", "pixels a side, where an ONNX model leaves it open"},
    {"seconds", 0, "N", "how long each of the two measurements takes (2)"},
};

static int print_json(kd_cli *cli, const char *model, const kd_loaded *net, const kd_timing *t)
{
    json_t *o =
        json_pack("{s:o, s:i, s:i, s:I, s:i, s:{s:f, s:f, s:f, s:f}, s:i, s:f, s:I, s:i, s:s, s:s}",
                  "model", kd_json_text(model), "size", net->size, "threads", 1, "macs",
                  (json_int_t)kd_graph_macs(net->graph), "runs", t->runs, "latency_ms", "p50",
                  t->p50, "p90", t->p90, "p99", t->p99, "mean", t->mean, "batch", KD_TIMING_BATCH,
                  "throughput", t->throughput, "arena_bytes", (json_int_t)t->arena,
                  "int8_convolutions", t->int8_tasks, "cpu", t->cpu, "isa", t->isa);
    return kd_json_print(cli, o, false);
}

static void print_table(kd_cli *cli, const kd_loaded *net, const kd_timing *t)
{
    char a[KD_FMT], b[KD_FMT];
    const double macs = (double)kd_graph_macs(net->graph);
    kd_out(cli,
           "one picture of %dx%d: %.3f ms (median of %d), 90 %% within %.3f ms, 99 %% within "
           "%.3f ms",
           net->size, net->size, t->p50, t->runs, t->p90, t->p99);
    kd_out(cli, "batches of %d: %s pictures a second, %s million multiply-adds a second",
           KD_TIMING_BATCH, kd_fmt_figure(t->throughput, a),
           kd_fmt_figure(macs * t->throughput / 1e6, b));
    kd_out(cli, "%s of memory for one picture; %d convolution%s in 8 bits; one thread of %s (%s)",
           kd_fmt_bytes((double)t->arena, a), t->int8_tasks, t->int8_tasks == 1 ? "" : "s", t->cpu,
           t->isa);
}

static int start(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    kd_loaded net;
    kd_timing t;
    uint64_t seconds;
    if (kd_args_u64(args, "seconds", 1, 600, 2, &seconds, &diag) != 0)
        return kd_usage(cli, "bench", NULL, "%s", diag.msg);
    int rc = kd_model_start(cli, "bench", args, &net);
    if (rc != KD_EXIT_OK)
        return rc;
    if (kd_timing_run(&net, (double)seconds, &t, &diag) != 0) {
        kd_error(cli, "%s", diag.msg);
        rc = KD_EXIT_FAILURE;
    } else if (cli->json) {
        rc = print_json(cli, args->operands[0], &net, &t);
    } else {
        print_table(cli, &net, &t);
    }
    kd_loaded_clear(&net);
    return rc;
}

const kd_verb kd_verb_bench = {
    .name = "bench",
    .operands = "MODEL",
    .summary = "latency and throughput of a model on this machine, on one thread",
    .help =
        "Percentiles of one picture by itself, and pictures a second in batches of 64, after a\n"
        "warm-up, on made-up pictures. Close other programs first. No coordinator is asked.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = start};
