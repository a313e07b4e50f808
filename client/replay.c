/* replay: runs a finished job again and compares what came out. */
#include "replay.h"

#include "args.h"
#include "json.h"
#include "output.h"
#include "submission.h"
#include "verbs.h"
#include "views.h"

#include <string.h>

static const kd_opt g_opts[] = {
    {"no-wait", 0, NULL, "submit only; compare later with `distill show`"},
    {"timeout", 0, "DURATION", "give up waiting after 90s, 10m ...; exit code 124"},
    {"key", 0, "KEY", "makes a repeated command harmless: one key, one job (random)"},
};

static const Distill__V1__StageRecord *stage_of(const Distill__V1__JobDetail *d, const char *name)
{
    for (size_t i = 0; i < d->n_stages; i++)
        if (strcmp(d->stages[i]->name, name) == 0)
            return d->stages[i];
    return NULL;
}

static void add(json_t *list, const char *stage, const char *version, const char *before,
                const char *after, int *different)
{
    if (!before[0] && !after[0])
        return;
    bool equal = strcmp(before, after) == 0;
    *different += !equal;
    (void)json_array_append_new(list,
                                json_pack("{s:o, s:s, s:o, s:o, s:b}", "stage", kd_json_text(stage),
                                          "version", version, "old", kd_json_text(before), "new",
                                          kd_json_text(after), "equal", (int)equal));
}

json_t *kd_replay_compare(const Distill__V1__JobDetail *before, const Distill__V1__JobDetail *after,
                          int *out_different)
{
    json_t *list = json_array();
    *out_different = 0;
    for (size_t i = 0; i < before->n_stages; i++) {
        const Distill__V1__StageRecord *a = before->stages[i], *b = stage_of(after, a->name);
        add(list, a->name, "last", a->digest, b ? b->digest : "", out_different);
        add(list, a->name, "best", a->best_digest, b ? b->best_digest : "", out_different);
    }
    for (size_t i = 0; i < after->n_stages; i++)
        if (!stage_of(before, after->stages[i]->name))
            add(list, after->stages[i]->name, "last", "", after->stages[i]->digest, out_different);
    return list;
}

static int print(kd_cli *cli, const Distill__V1__JobDetail *before,
                 const Distill__V1__JobDetail *after)
{
    int different = 0, rc;
    json_t *list = kd_replay_compare(before, after, &different);
    bool any = json_array_size(list) > 0;
    if (cli->json) {
        rc = kd_json_print(cli,
                           json_pack("{s:o, s:o, s:b, s:O}", "job",
                                     kd_json_text(after->summary->job), "replayed",
                                     kd_json_text(before->summary->job), "equal",
                                     any && different == 0, "stages", list),
                           false);
    } else {
        kd_table t;
        size_t i;
        const json_t *o;
        kd_table_init(&t, "STAGE|VERSION|DIGEST BEFORE|DIGEST NOW|");
        json_array_foreach(list, i, o)
        {
            bool equal = json_is_true(json_object_get(o, "equal"));
            static const char *const keys[] = {"stage", "version", "old", "new"};
            for (size_t k = 0; k < KD_COUNT(keys); k++)
                kd_table_add(&t, KD_PLAIN, "%s", json_string_value(json_object_get(o, keys[k])));
            kd_table_add(&t, equal ? KD_GREEN : KD_RED, equal ? "equal" : "DIFFERENT");
        }
        kd_table_print(cli, &t, 0);
        rc = kd_out_flush(cli);
        if (!any)
            kd_error(cli, "there is nothing to compare: no stage has a digest");
        else if (different > 0)
            kd_error(cli, "%d digest%s differ%s from job %s", different, different == 1 ? "" : "s",
                     different == 1 ? "s" : "", before->summary->job);
        else
            kd_say(cli, "job %s came out bit for bit as job %s", after->summary->job,
                   before->summary->job);
    }
    json_decref(list);
    return rc != KD_EXIT_OK ? rc : any && different == 0 ? KD_EXIT_OK : KD_EXIT_DIFFERENT;
}

/* Waits for the new job and compares. */
static int compare(kd_conn *c, const Distill__V1__JobDetail *before, const char *job,
                   double timeout_s)
{
    Distill__V1__JobDetail *after = NULL;
    int rc = kd_wait_shown(c, job, timeout_s);
    if (rc == KD_EXIT_OK)
        rc = kd_conn_job(c, job, &after);
    if (rc == KD_EXIT_OK) {
        rc = print(c->cli, before, after);
        kd_wire_free(&after->base);
    }
    return rc;
}

static int replay(kd_conn *c, const kd_args *args, char *key, double timeout_s)
{
    Distill__V1__SubmitRequest request = DISTILL__V1__SUBMIT_REQUEST__INIT;
    Distill__V1__SubmitReply *reply = NULL;
    Distill__V1__JobDetail *before = NULL;
    bool wait = !kd_args_has(args, "no-wait");
    int rc = kd_conn_job(c, args->operands[0], &before);
    if (rc != KD_EXIT_OK)
        return rc;
    request.key = key;
    request.replay_job = before->summary->job;
    rc = kd_submission_call(c, &request, &reply);
    if (rc == KD_EXIT_OK && !wait) {
        kd_submission_style style = {.quiet = false};
        rc = kd_submission_print(c, reply, key, &style);
    } else if (rc == KD_EXIT_OK) {
        kd_say(c->cli, "job %s runs job %s again", reply->job, before->summary->job);
        rc = compare(c, before, reply->job, timeout_s);
    }
    if (reply)
        kd_wire_free(&reply->base);
    kd_wire_free(&before->base);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    double timeout_s;
    char key[KD_SUBMISSION_KEY + 1];
    if (kd_args_duration(args, "timeout", &timeout_s, &diag) != 0)
        return kd_usage(cli, "replay", NULL, "%s", diag.msg);
    int rc = kd_submission_key(cli, "replay", kd_args_value(args, "key"), key);
    kd_conn conn;
    if (rc == KD_EXIT_OK)
        rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = replay(&conn, args, key, timeout_s);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_replay = {
    .name = "replay",
    .operands = "JOB",
    .summary = "run a finished job again and compare the digests",
    .help = "The recorded job, with every default as it was filled in, is run once more from the\n"
            "beginning; then the digests of all stages are compared. Exit code 0 all are equal,\n"
            "9 one differs, 7 and 8 as with wait.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
