/* scale: other bounds on the workers of a job. */
#include "args.h"
#include "connect.h"
#include "json.h"
#include "output.h"

#define MAX_WORKERS 4096 /* as in the job file */

static const kd_opt g_opts[] = {
    {"min", 0, "N", "workers to wait for, at least 1"},
    {"max", 0, "N", "workers to take at most, at least 1"},
};

static int scale(kd_conn *c, const char *job, uint32_t min, uint32_t max)
{
    Distill__V1__ScaleRequest request = DISTILL__V1__SCALE_REQUEST__INIT;
    request.job = (char *)job;
    request.min_workers = min;
    request.max_workers = max;
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask(c, "Scale", &request, job, &distill__v1__job_summary__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__JobSummary *s = (const Distill__V1__JobSummary *)reply;
    if (c->cli->json)
        rc = kd_json_print(c->cli, kd_json_summary(s), false);
    else
        kd_out_clean(c->cli, "job %s takes %u to %u workers", s->job, s->min_workers,
                     s->max_workers);
    kd_wire_free(reply);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    uint64_t min, max;
    if (kd_args_u64(args, "min", 1, MAX_WORKERS, 0, &min, &diag) != 0 ||
        kd_args_u64(args, "max", 1, MAX_WORKERS, 0, &max, &diag) != 0)
        return kd_usage(cli, "scale", NULL, "%s", diag.msg);
    if (min == 0 && max == 0)
        return kd_usage(cli, "scale", NULL, "scale to what? --min N, --max N or both are needed");
    if (min > 0 && max > 0 && min > max)
        return kd_usage(cli, "scale", NULL, "--min %llu is more than --max %llu",
                        (unsigned long long)min, (unsigned long long)max);
    kd_conn conn;
    int rc = kd_conn_start(cli, args->operands[0], &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = scale(&conn, args->operands[0], (uint32_t)min, (uint32_t)max);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_scale = {
    .name = "scale",
    .operands = "JOB",
    .summary = "change how many workers a job takes",
    .help =
        "What the job file says under cluster.min_workers and cluster.max_workers, while the job\n"
        "waits or runs. With a smaller --max the workers that are too many leave when the step is\n"
        "done; with a greater one idle workers come in. The result stays the same. A sweep: all\n"
        "its jobs that are not over.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
