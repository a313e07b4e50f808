/* explain: a key of the job file in words, or all of them for an editor. */
#include "args.h"
#include "cli.h"
#include "job/job.h"
#include "json.h"
#include "output.h"

#include <stdlib.h>

static const kd_opt g_opts[] = {
    {"json-schema", 0, NULL, "print the JSON Schema of job files, for editors"},
};

/* rc of a function of job.h that failed. Returns an exit code. */
static int fail(const kd_cli *cli, int rc, const kd_diag *diag)
{
    kd_error(cli, "%s", diag->code ? diag->msg : "no memory for the schema");
    if (rc == -KD_ENOENT)
        kd_hint(cli, "`distill explain` lists the keys, `distill help job` all of them");
    return rc == -KD_ENOENT ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *key = args->n_operands ? args->operands[0] : NULL;
    kd_diag diag = {0};
    char *text = NULL;
    bool schema = kd_args_has(args, "json-schema");
    if (schema && key)
        return kd_usage(cli, "explain", NULL, "--json-schema is of the whole file, not of a key");
    int rc = schema      ? kd_job_json_schema(&text)
             : cli->json ? kd_job_explain_json(key, &text, &diag)
                         : kd_job_explain(key, &text, &diag);
    if (rc != 0)
        return fail(cli, rc, &diag);
    if (!schema && cli->json)
        rc = kd_json_print(cli, kd_json_parse(text), false);
    else
        kd_out_text(cli, text);
    if (schema)
        kd_out_text(cli, "\n");
    free(text);
    if (!key && !schema && !cli->json)
        kd_say(cli,
               "\nmore: distill explain KEY, as in `distill explain distill.loss.temperature`");
    return rc != KD_EXIT_OK ? rc : kd_out_flush(cli);
}

const kd_verb kd_verb_explain = {
    .name = "explain",
    .operands = "[KEY]",
    .summary = "explain a key of the job file",
    .help =
        "KEY is written with dots: data.labelled.size. With --json-schema an editor checks job\n"
        "files as they are written: in VS Code's YAML extension, for example, the first line\n"
        "`# yaml-language-server: $schema=job.schema.json`.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .max_operands = 1,
    .run = run};
