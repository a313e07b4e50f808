#include "submission.h"

#include "args.h"
#include "output.h"
#include "verbs.h"

#include "kd/clock.h"
#include "kd/failpoint.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define PATIENCE_MS 30000 /* for the answer, once the coordinator has been reached */
#define TRIAL_MS 70000    /* for one that waits for a worker's trial */

int kd_submission_key(const kd_cli *cli, const char *verb, const char *given,
                      char key[KD_SUBMISSION_KEY + 1])
{
    if (given) {
        size_t n = strlen(given);
        bool plain = n >= 1 && n <= KD_SUBMISSION_KEY;
        for (size_t i = 0; plain && i < n; i++)
            plain = given[i] > ' ' && given[i] < 0x7f;
        if (!plain)
            return kd_usage(cli, verb, NULL,
                            "--key: 1 to %d printable ASCII characters without blanks are expected",
                            KD_SUBMISSION_KEY);
        snprintf(key, KD_SUBMISSION_KEY + 1, "%s", given);
        return KD_EXIT_OK;
    }
    uint8_t random[12];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        kd_error(cli, "the system gives no random numbers for the job's key; name one with --key");
        return KD_EXIT_FAILURE;
    }
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(key + 2 * i, 3, "%02x", random[i]);
    return KD_EXIT_OK;
}

int kd_submission_call(kd_conn *c, const Distill__V1__SubmitRequest *request,
                       Distill__V1__SubmitReply **out)
{
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    kd_time_ms begun = kd_clock_ms();
    int pause_ms = 500;
    bool sent = false; /* an answer may have been lost on its way */
    const char *other = request->continue_job[0] ? request->continue_job
                        : request->replay_job[0] ? request->replay_job
                                                 : NULL;
    const int timeout_ms = request->trial ? TRIAL_MS : 2 * KD_CONN_TIMEOUT_MS;
    KD_FAILPOINT("client.submit");
    while (kd_conn_call(c, "Submit", request, &distill__v1__submit_reply__descriptor, timeout_ms,
                        false, &reply, &why) != 0) {
        sent = sent || why.code == -KD_ETIMEOUT || c->reached;
        bool again = kd_conn_passing(&why) && sent && kd_clock_ms() - begun < PATIENCE_MS;
        if (again && kd_conn_pause(pause_ms)) {
            pause_ms = KD_MIN(pause_ms * 2, 5000);
            continue;
        }
        if (why.code == -KD_EINVAL && !other && kd_cli_signal() == 0) {
            kd_error(c->cli, "%s", why.text);
            kd_hint(c->cli, "`distill help job` lists the keys");
            return KD_EXIT_CONFIG;
        }
        int rc = kd_conn_report(c, &why, other);
        if (sent && (kd_conn_passing(&why) || kd_cli_signal() != 0) && !request->dry_run)
            kd_say(c->cli,
                   "it may have been stored all the same: repeat with --key %s to be sure that "
                   "there is one job only",
                   request->key);
        return rc;
    }
    KD_FAILPOINT("client.submitted");
    *out = (Distill__V1__SubmitReply *)reply;
    return KD_EXIT_OK;
}

void kd_submission_notes(const kd_cli *cli, const Distill__V1__SubmitReply *r)
{
    for (size_t i = 0; i < r->n_notes; i++)
        kd_say(cli, "note: %s", r->notes[i]);
}

json_t *kd_submission_notes_json(const Distill__V1__SubmitReply *r)
{
    json_t *notes = json_array();
    for (size_t i = 0; i < r->n_notes; i++)
        (void)json_array_append_new(notes, kd_json_text(r->notes[i]));
    return notes;
}

static int print_json(kd_cli *cli, const Distill__V1__SubmitReply *r, const char *key, bool compact)
{
    json_t *children = json_array(), *o = json_object();
    for (size_t i = 0; i < r->n_children; i++)
        (void)json_array_append_new(children, kd_json_text(r->children[i]));
    json_object_set_new(o, "job", kd_json_text(r->job));
    json_object_set_new(o, "key", kd_json_text(key));
    json_object_set_new(o, "existed", json_boolean(r->existed));
    json_object_set_new(o, "queue_position", json_integer(r->queue_position));
    json_object_set_new(o, "notes", kd_submission_notes_json(r));
    if (r->n_children > 0)
        json_object_set_new(o, "children", children);
    else
        json_decref(children);
    if (compact)
        json_object_set_new(o, "kind", json_string("accepted"));
    else
        json_object_set_new(o, "resolved", kd_json_parse(r->resolved));
    return kd_json_print(cli, o, compact);
}

/* The children's labels are known to the sweep. */
static int print_children(kd_conn *c, const Distill__V1__SubmitReply *r)
{
    Distill__V1__JobDetail *d = NULL;
    kd_table t;
    int rc = kd_conn_job(c, r->job, &d);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_table_init(&t, "JOB|VALUES");
    for (size_t i = 0; i < d->n_jobs; i++) {
        kd_table_add(&t, KD_BOLD, "%s", d->jobs[i]->job);
        kd_table_add(&t, KD_PLAIN, "%s", d->jobs[i]->label);
    }
    kd_table_print(c->cli, &t, 2);
    kd_wire_free(&d->base);
    return KD_EXIT_OK;
}

int kd_submission_print(kd_conn *c, const Distill__V1__SubmitReply *r, const char *key,
                        const kd_submission_style *style)
{
    kd_cli *cli = c->cli;
    if (cli->json)
        return print_json(cli, r, key, style->compact);
    if (style->quiet) {
        kd_out_clean(cli, "%s", r->job);
        return kd_out_flush(cli);
    }
    kd_submission_notes(cli, r);
    char place[48] = "", what[48] = "job";
    if (r->queue_position)
        snprintf(place, sizeof place, "   queue position %u", r->queue_position);
    if (r->n_children > 0)
        snprintf(what, sizeof what, "sweep of %zu jobs", r->n_children);
    kd_out_clean(cli, "%s %s %s (durable, key %s)%s", what, r->job,
                 r->existed ? "was submitted before" : "accepted", key, place);
    int rc = r->n_children > 0 ? print_children(c, r) : KD_EXIT_OK;
    int flushed = kd_out_flush(cli);
    rc = rc != KD_EXIT_OK ? rc : flushed;
    if (!style->stays)
        kd_say(cli,
               "  watch  distill watch %s%s\n  logs   distill logs %s -f%s\n"
               "  fetch  distill fetch %s%s\n  stop   distill cancel %s%s",
               r->job, cli->server_flag, r->job, cli->server_flag, r->job, cli->server_flag, r->job,
               cli->server_flag);
    return rc;
}

int kd_submission_flags(const kd_cli *cli, const char *verb, const kd_args *args,
                        kd_submission_after *out)
{
    kd_diag diag = {0};
    *out = (kd_submission_after){.watch = kd_args_has(args, "watch"),
                                 .wait = kd_args_has(args, "wait")};
    if (out->watch && out->wait)
        return kd_usage(cli, verb, NULL, "--watch and --wait exclude each other");
    if (kd_args_duration(args, "timeout", &out->timeout_s, &diag) != 0)
        return kd_usage(cli, verb, NULL, "%s", diag.msg);
    if (out->timeout_s >= 0 && !out->wait)
        return kd_usage(cli, verb, NULL, "--timeout goes with --wait");
    return KD_EXIT_OK;
}

int kd_submission_follow(kd_conn *c, const char *job, const kd_submission_after *after, bool quiet)
{
    if (after->watch)
        return kd_watch_run(c, job, !quiet);
    if (after->wait)
        return kd_wait_run(c, job, after->timeout_s, !quiet && !c->cli->json);
    return KD_EXIT_OK;
}

int kd_submission_make(kd_conn *c, const Distill__V1__SubmitRequest *request,
                       const kd_submission_after *after, bool quiet)
{
    Distill__V1__SubmitReply *reply = NULL;
    kd_submission_style style = {
        .quiet = quiet, .stays = after->watch || after->wait, .compact = after->watch};
    int rc = kd_submission_call(c, request, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_submission_print(c, reply, request->key, &style);
    if (rc == KD_EXIT_OK)
        rc = kd_submission_follow(c, reply->job, after, quiet);
    kd_wire_free(&reply->base);
    return rc;
}
