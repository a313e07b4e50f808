/* verify: computes a finished job once more, all of it or some steps, and compares digests. */
#include "args.h"
#include "json.h"
#include "output.h"
#include "replay.h"
#include "submission.h"
#include "verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const kd_opt g_opts[] = {
    {"steps", 0, "A..B", "only these steps of one stage, the first is 1"},
    {"stage", 0, "NAME", "the stage that --steps means (distill)"},
    {"timeout", 0, "DURATION", "give up waiting after 90s, 10m ...; exit code 124"},
    {"key", 0, "KEY", "makes a repeated command harmless: one key, one job (random)"},
    {"keep", 0, NULL, "keep the second run also when all is equal"},
};

struct verification {
    const char *stage; /* NULL = everything */
    uint64_t from, to;
    double timeout_s;
    bool keep;
    char key[KD_SUBMISSION_KEY + 1];
};

/* "A..B" or one step "A". */
static bool parse_steps(const char *text, uint64_t *from, uint64_t *to)
{
    char *end;
    if (text[0] < '1' || text[0] > '9')
        return false;
    *from = *to = strtoull(text, &end, 10);
    if (end[0] == '.' && end[1] == '.' && end[2] >= '1' && end[2] <= '9')
        *to = strtoull(end + 2, &end, 10);
    return *end == '\0' && *from <= *to && *to < INT64_MAX;
}

static int get_digests(kd_conn *c, const char *job, Distill__V1__DigestsReply **out)
{
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask_job(c, "Digests", job, &distill__v1__digests_reply__descriptor, &reply);
    if (rc == KD_EXIT_OK)
        *out = (Distill__V1__DigestsReply *)reply;
    return rc;
}

static const char *digest_at(const Distill__V1__DigestsReply *r, const char *stage, uint64_t step)
{
    for (size_t i = 0; i < r->n_digests; i++)
        if (r->digests[i]->step == step && strcmp(r->digests[i]->stage, stage) == 0)
            return r->digests[i]->digest;
    return NULL;
}

/* The first step from `to` on whose digest is known; 0 = none is. */
static uint64_t known_step(const Distill__V1__DigestsReply *r, const char *stage, uint64_t to)
{
    uint64_t found = 0;
    for (size_t i = 0; i < r->n_digests; i++) {
        const Distill__V1__VersionDigest *d = r->digests[i];
        if (strcmp(d->stage, stage) == 0 && d->step >= to && (!found || d->step < found))
            found = d->step;
    }
    return found;
}

struct tally {
    size_t compared, different;
};

static void add(json_t *list, struct tally *t, const char *stage, const char *what,
                const char *before, const char *after)
{
    bool equal = strcmp(before, after) == 0;
    t->compared++;
    t->different += !equal;
    (void)json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:o, s:b}", "stage",
                                                kd_json_text(stage), "version", kd_json_text(what),
                                                "old", kd_json_text(before), "new",
                                                kd_json_text(after), "equal", (int)equal));
}

/* Versions that both runs saved. People see those that differ, the last one, and how many there
 * are. */
static void compare_saved(const Distill__V1__DigestsReply *before,
                          const Distill__V1__DigestsReply *after, json_t *list, struct tally *t)
{
    for (size_t i = 0; i < after->n_digests; i++) {
        const Distill__V1__VersionDigest *d = after->digests[i];
        const char *old = digest_at(before, d->stage, d->step);
        char what[32];
        snprintf(what, sizeof what, "step %llu", (unsigned long long)d->step);
        if (old)
            add(list, t, d->stage, what, old, d->digest);
    }
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

#define SHOWN 3 /* versions of a stage that differ */

static void print_table(const kd_cli *cli, const json_t *list)
{
    kd_table t;
    size_t i, equal = 0, differ = 0;
    const json_t *o;
    kd_table_init(&t, "STAGE|VERSION|DIGEST BEFORE|DIGEST NOW|");
    json_array_foreach(list, i, o)
    {
        bool same = json_is_true(json_object_get(o, "equal"));
        const json_t *next = json_array_get(list, i + 1);
        bool saved = strncmp(text_of(o, "version"), "step ", 5) == 0;
        bool more = saved && next && strcmp(text_of(next, "stage"), text_of(o, "stage")) == 0;
        equal += saved && same;
        differ += saved && !same;
        if (!saved || (!same && differ <= SHOWN)) {
            kd_table_add(&t, KD_BOLD, "%s", text_of(o, "stage"));
            kd_table_add(&t, KD_PLAIN, "%s", text_of(o, "version"));
            kd_table_add(&t, KD_PLAIN, "%s", text_of(o, "old"));
            kd_table_add(&t, KD_PLAIN, "%s", text_of(o, "new"));
            kd_table_add(&t, same ? KD_GREEN : KD_RED, same ? "OK" : "DIFFERS");
        }
        if (saved && !more) {
            kd_table_add(&t, KD_BOLD, "%s", text_of(o, "stage"));
            kd_table_add(&t, KD_PLAIN, "saved versions");
            kd_table_add(&t, KD_PLAIN, "%zu of %zu equal", equal, equal + differ);
            kd_table_add(&t, KD_PLAIN, "up to %s", text_of(o, "version"));
            kd_table_add(&t, differ ? KD_RED : KD_GREEN, differ ? "DIFFERS" : "OK");
            equal = differ = 0;
        }
    }
    kd_table_print(cli, &t, 0);
}

/* Nobody needs a second run that came out the same. */
static void remove_run(kd_conn *c, const char *job)
{
    Distill__V1__JobRequest request = DISTILL__V1__JOB_REQUEST__INIT;
    request.job = (char *)job;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    if (kd_conn_call(c, "Remove", &request, &distill__v1__remove_reply__descriptor,
                     KD_CONN_TIMEOUT_MS, false, &reply, &why) != 0)
        kd_say(c->cli, "the second run stays: %s", why.text);
    kd_wire_free(reply);
}

static int tell(kd_conn *c, const Distill__V1__JobDetail *before,
                const Distill__V1__JobDetail *after, const struct verification *v, json_t *list,
                const struct tally *t)
{
    kd_cli *cli = c->cli;
    const char *old = before->summary->job, *new = after->summary->job;
    bool equal = t->compared > 0 && t->different == 0, removed = equal && !v->keep;
    int rc;
    if (cli->json) {
        json_t *o = json_pack("{s:o, s:o, s:b, s:O}", "job", kd_json_text(old), "run",
                              removed ? json_null() : kd_json_text(new), "equal", (int)equal,
                              "versions", list);
        rc = kd_json_print(cli, o, false);
    } else {
        print_table(cli, list);
        rc = kd_out_flush(cli);
        if (t->compared == 0)
            kd_error(cli, "there is nothing to compare: no digest of job %s is known there", old);
        else if (!equal)
            kd_error(cli, "%zu of %zu digests differ from job %s; the second run is job %s",
                     t->different, t->compared, old, new);
        else
            kd_say(cli, "job %s is verified: %zu digest%s equal", old, t->compared,
                   t->compared == 1 ? " is" : "s are");
    }
    if (removed)
        remove_run(c, new);
    return rc != KD_EXIT_OK ? rc : equal ? KD_EXIT_OK : KD_EXIT_FAILURE;
}

static int compare(kd_conn *c, const Distill__V1__JobDetail *before,
                   const Distill__V1__DigestsReply *saved, const char *job,
                   const struct verification *v)
{
    Distill__V1__JobDetail *after = NULL;
    Distill__V1__DigestsReply *now = NULL;
    struct tally t = {0};
    int rc = kd_wait_shown(c, job, v->timeout_s), different = 0;
    if (rc == KD_EXIT_OK)
        rc = kd_conn_job(c, job, &after);
    if (rc == KD_EXIT_OK)
        rc = get_digests(c, job, &now);
    if (rc == KD_EXIT_OK) {
        json_t *list = v->stage ? json_array() : kd_replay_compare(before, after, &different);
        t = (struct tally){json_array_size(list), (size_t)different};
        compare_saved(saved, now, list, &t);
        rc = tell(c, before, after, v, list, &t);
        json_decref(list);
    }
    if (now)
        kd_wire_free(&now->base);
    if (after)
        kd_wire_free(&after->base);
    return rc;
}

static int submit(kd_conn *c, const Distill__V1__JobDetail *before,
                  const Distill__V1__DigestsReply *saved, struct verification *v)
{
    Distill__V1__SubmitRequest request = DISTILL__V1__SUBMIT_REQUEST__INIT;
    Distill__V1__SubmitReply *reply = NULL;
    const char *job = before->summary->job;
    request.key = v->key;
    request.replay_job = (char *)job;
    if (v->stage) {
        uint64_t to = known_step(saved, v->stage, v->to);
        if (to == 0) {
            kd_error(c->cli, "no digest of job %s from step %llu of stage %s on is known", job,
                     (unsigned long long)v->to, v->stage);
            kd_hint(c->cli, "`distill show %s%s` tells its stages and their steps", job,
                    c->cli->server_flag);
            return KD_EXIT_CONFLICT;
        }
        if (to > v->to)
            kd_say(c->cli, "up to step %llu, the next one whose digest is known",
                   (unsigned long long)to);
        request.verify_stage = (char *)v->stage;
        request.verify_from = v->from;
        request.verify_to = to;
    }
    int rc = kd_submission_call(c, &request, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_say(c->cli, "job %s computes %s job %s again", reply->job, v->stage ? "steps of" : "all of",
           job);
    rc = compare(c, before, saved, reply->job, v);
    kd_wire_free(&reply->base);
    return rc;
}

static int verify(kd_conn *c, const char *job, struct verification *v)
{
    Distill__V1__JobDetail *before = NULL;
    Distill__V1__DigestsReply *saved = NULL;
    int rc = kd_conn_job(c, job, &before);
    if (rc == KD_EXIT_OK)
        rc = get_digests(c, before->summary->job, &saved);
    if (rc == KD_EXIT_OK)
        rc = submit(c, before, saved, v);
    if (saved)
        kd_wire_free(&saved->base);
    if (before)
        kd_wire_free(&before->base);
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    struct verification v = {.keep = kd_args_has(args, "keep")};
    const char *steps = kd_args_value(args, "steps"), *stage = kd_args_value(args, "stage");
    if (kd_args_duration(args, "timeout", &v.timeout_s, &diag) != 0)
        return kd_usage(cli, "verify", NULL, "%s", diag.msg);
    if (steps && !parse_steps(steps, &v.from, &v.to))
        return kd_usage(cli, "verify", NULL,
                        "--steps %s: two steps such as 100..200 are expected, the first is 1",
                        steps);
    if (stage && !steps)
        return kd_usage(cli, "verify", NULL, "--stage goes with --steps");
    v.stage = steps ? (stage ? stage : "distill") : NULL;
    int rc = kd_submission_key(cli, "verify", kd_args_value(args, "key"), v.key);
    kd_conn conn;
    if (rc == KD_EXIT_OK)
        rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = verify(&conn, args->operands[0], &v);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_verify = {
    .name = "verify",
    .operands = "JOB",
    .summary = "compute a finished job again and compare every digest",
    .help =
        "A second run of the recorded job, on the workers that are there now; compared are the\n"
        "digests of every stage's networks and of every version that both runs saved on the way, "
        "so\n"
        "that the first difference is found. The second run is removed when all is equal.\n"
        "--steps A..B runs only these steps of one stage, from the newest version before them "
        "that\n"
        "the coordinator still has (of the student and its twin the best one), else from the "
        "stage's\n"
        "beginning, up to the first step from B on whose digest is known.\n"
        "Exit code 0 all are equal, 1 one differs, 7 and 8 as with wait.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
