/* retry: a job that failed or was cancelled, once more as it was submitted. */
#include "args.h"
#include "connect.h"
#include "output.h"
#include "submission.h"
#include "sweep.h"
#include "views.h"

static const kd_opt g_opts[] = {
    {"set", 0, "KEY=VALUE", "override a key of the job file, e.g. distill.epochs=3 (repeatable)"},
    {"watch", 'w', NULL, "then watch the new job until it ends"},
    {"wait", 0, NULL, "then wait without a word; the exit code tells how it ended"},
    {"timeout", 0, "DURATION", "with --wait: give up after 90s, 10m ...; exit code 124"},
    {"key", 0, "KEY", "makes a repeated command harmless: one key, one job (random)"},
    {"quiet", 'q', NULL, "print the new job's id and no hints"},
};
#define MAX_SETS 64

/* Submits what the job resolved to: uploaded files are named in it by their digests. */
static int submit(kd_conn *conn, const kd_args *args, const char *key, const char *text,
                  const kd_submission_after *after)
{
    const char *sets[MAX_SETS];
    int n = kd_args_values(args, "set", sets, MAX_SETS);
    if (n > MAX_SETS)
        return kd_usage(conn->cli, "retry", NULL, "--set may be given %d times", MAX_SETS);
    Distill__V1__SubmitRequest request = DISTILL__V1__SUBMIT_REQUEST__INIT;
    request.key = (char *)key;
    request.text = (char *)text;
    request.file_name = "retried job";
    request.set = (char **)sets;
    request.n_set = (size_t)n;
    return kd_submission_make(conn, &request, after, kd_args_has(args, "quiet"));
}

static int check(const kd_cli *cli, const Distill__V1__JobSummary *s)
{
    if (kd_is_sweep(s)) {
        kd_error(cli, "job %s is a sweep; retry those of its jobs that failed", s->job);
        kd_hint(cli, "`distill jobs --sweep %s --state failed -q` lists them", s->job);
        return KD_EXIT_CONFLICT;
    }
    if (!kd_state_ended(s->state)) {
        kd_error(cli, "job %s is %s; only a job that is over can be retried", s->job,
                 kd_summary_word(s));
        kd_hint(cli, "`distill cancel %s` stops it", s->job);
        return KD_EXIT_CONFLICT;
    }
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_submission_after after;
    char key[KD_SUBMISSION_KEY + 1];
    int rc = kd_submission_flags(cli, "retry", args, &after);
    if (rc == KD_EXIT_OK)
        rc = kd_submission_key(cli, "retry", kd_args_value(args, "key"), key);
    kd_conn conn;
    if (rc == KD_EXIT_OK)
        rc = kd_conn_start(cli, args->operands[0], &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobDetail *detail = NULL;
    rc = kd_conn_job(&conn, args->operands[0], &detail);
    if (rc == KD_EXIT_OK)
        rc = check(cli, detail->summary);
    if (rc == KD_EXIT_OK)
        rc = submit(&conn, args, key, detail->resolved, &after);
    if (detail)
        kd_wire_free(&detail->base);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_retry = {
    .name = "retry",
    .operands = "JOB",
    .summary = "submit a job that is over once more",
    .help = "A new job of the same file, from the beginning; JOB stays as it is. What the teacher\n"
            "has said of the pictures is in the bank. To compare digests use replay.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
