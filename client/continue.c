/* continue: a finished job with more epochs, from where it ended. */
#include "args.h"
#include "output.h"
#include "submission.h"

static const kd_opt g_opts[] = {
    {"epochs", 'e', "N", "epochs to add to the distillation, 1 to 10000"},
    {"watch", 'w', NULL, "then watch the new job until it ends"},
    {"wait", 0, NULL, "then wait without a word; the exit code tells how it ended"},
    {"timeout", 0, "DURATION", "with --wait: give up after 90s, 10m ...; exit code 124"},
    {"key", 0, "KEY", "makes a repeated command harmless: one key, one job (random)"},
    {"quiet", 'q', NULL, "print the new job's id and no hints"},
};

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    kd_submission_after after;
    uint64_t epochs;
    char key[KD_SUBMISSION_KEY + 1];
    if (!kd_args_has(args, "epochs"))
        return kd_usage(cli, "continue", "for example --epochs 10",
                        "continue needs --epochs N, how many to add");
    if (kd_args_u64(args, "epochs", 1, 10000, 0, &epochs, &diag) != 0)
        return kd_usage(cli, "continue", NULL, "%s", diag.msg);
    int rc = kd_submission_flags(cli, "continue", args, &after);
    if (rc == KD_EXIT_OK)
        rc = kd_submission_key(cli, "continue", kd_args_value(args, "key"), key);
    kd_conn conn;
    if (rc == KD_EXIT_OK)
        rc = kd_conn_start(cli, args->operands[0], &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__SubmitRequest request = DISTILL__V1__SUBMIT_REQUEST__INIT;
    request.key = key;
    request.continue_job = (char *)args->operands[0];
    request.continue_epochs = (uint32_t)epochs;
    rc = kd_submission_make(&conn, &request, &after, kd_args_has(args, "quiet"));
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_continue = {
    .name = "continue",
    .operands = "JOB",
    .summary = "train a finished job for more epochs",
    .help = "A new job, which begins with the student, optimiser state and epoch count that JOB\n"
            "ended with; JOB itself stays as it is.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
