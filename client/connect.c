#include "connect.h"

#include "format.h"
#include "job/job.h"
#include "kd/clock.h"
#include "output.h"
#include "settings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLICE_MS 50

int kd_conn_open(kd_cli *cli, kd_conn *out)
{
    kd_diag diag = {0};
    *out = (kd_conn){.cli = cli};
    int rc = kd_settings_check(cli);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_login_choose(cli->credentials, cli->credentials_chosen, cli->insecure, cli->server,
                         &out->login, &diag);
    if (rc < 0) {
        kd_error(cli, "%s", diag.msg);
        if (rc == -KD_EAUTH || rc == -KD_ENOENT)
            kd_hint(cli, "`distill login TOKEN --server HOST:PORT` gets a certificate");
        return KD_EXIT_AUTH;
    }
    kd_rpc_tls tls = kd_login_tls(&out->login);
    bool secure = rc == 1;
    rc = kd_rpc_new(1, &out->rpc, &diag);
    if (rc == 0)
        rc = kd_rpc_channel_new(out->rpc, cli->server, secure ? &tls : NULL, KD_MAX_BULK_BYTES,
                                &out->channel, &diag);
    if (rc == 0)
        return KD_EXIT_OK;
    kd_error(cli, "%s", diag.msg);
    kd_conn_close(out);
    return rc == -KD_EINVAL ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
}

int kd_conn_start(kd_cli *cli, const char *job, kd_conn *out)
{
    int rc = job ? kd_conn_check_job(cli, job) : KD_EXIT_OK;
    if (rc == KD_EXIT_OK)
        rc = kd_conn_open(cli, out);
    if (rc == KD_EXIT_OK)
        kd_cli_catch_signals();
    return rc;
}

/* While the old one is good nothing depends on it; that it fails is worth a word. */
static void renew(kd_conn *c)
{
    kd_diag diag = {0};
    if (!c->login.dir || !kd_login_is_due(&c->login) || c->renewal_failed)
        return;
    if (kd_login_renew(c->channel, &c->login, &diag) == 0) {
        kd_rpc_tls tls = kd_login_tls(&c->login);
        kd_rpc_channel_set_tls(c->channel, &tls);
    } else {
        c->renewal_failed = true;
        kd_hint(c->cli, "your certificate ends soon and could not be renewed: %s", diag.msg);
    }
}

void kd_conn_close(kd_conn *c)
{
    kd_login_clear(&c->login);
    if (c->channel)
        kd_rpc_channel_free(c->channel);
    if (c->rpc)
        kd_rpc_free(c->rpc);
    *c = (kd_conn){0};
}

bool kd_conn_pause(int ms)
{
    kd_time_ms until = kd_clock_ms() + ms;
    while (kd_cli_signal() == 0) {
        kd_time_ms left = until - kd_clock_ms();
        if (left <= 0)
            return true;
        left = KD_MIN(left, SLICE_MS);
        nanosleep(&(struct timespec){.tv_nsec = left * 1000000}, NULL);
    }
    return false;
}

static int fail(kd_failure *why, int code, const char *text)
{
    *why = (kd_failure){.code = code, .grpc_status = kd_err_grpc(code)};
    snprintf(why->text, sizeof why->text, "%s", text);
    return code;
}

static bool interrupted(void *arg)
{
    (void)arg;
    return kd_cli_signal() != 0;
}

/* *out_bytes: caller frees. */
static int call(kd_conn *c, const char *method, const struct iovec *parts, int n_parts,
                int timeout_ms, bool wait_ready, uint8_t **out_bytes, size_t *out_len,
                kd_failure *why)
{
    char path[64];
    kd_rpc_result result;
    snprintf(path, sizeof path, "/distill.v1.%s%s", strchr(method, '/') ? "" : "Jobs/", method);
    const int rc = kd_rpc_unary_until(c->channel, path, parts, n_parts, timeout_ms, wait_ready,
                                      interrupted, NULL, &result);
    if (rc == -KD_ECANCELED && kd_cli_signal() != 0)
        return fail(why, rc, "interrupted");
    /* Whatever is answered by the far side, even a refusal, shows that there is one. */
    if (rc != -KD_EUNAVAIL && rc != -KD_ETIMEOUT && rc != -KD_ECANCELED)
        c->reached = true;
    if (rc == 0) {
        *out_bytes = result.bytes;
        *out_len = result.len;
        renew(c);
    } else {
        *why = (kd_failure){.code = rc, .grpc_status = result.grpc_status};
        snprintf(why->text, sizeof why->text, "%s", result.text);
    }
    return rc;
}

static int unpack(const ProtobufCMessageDescriptor *reply, const uint8_t *bytes, size_t len,
                  ProtobufCMessage **out, const uint8_t **payload, size_t *payload_len,
                  kd_failure *why)
{
    kd_diag diag = {0};
    int rc = payload ? kd_wire_unpack_bulk(reply, bytes, len, out, payload, payload_len, &diag)
                     : kd_wire_unpack_checked(reply, bytes, len, NULL, out, &diag);
    if (rc == 0)
        return 0;
    (void)kd_fail_at(&diag, rc, "the coordinator's answer makes no sense");
    return fail(why, -KD_EDATA, diag.msg);
}

int kd_conn_call(kd_conn *c, const char *method, const void *request,
                 const ProtobufCMessageDescriptor *reply, int timeout_ms, bool wait_ready,
                 ProtobufCMessage **out, kd_failure *why)
{
    kd_buf packed;
    kd_buf_init(&packed, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack_checked(request, &packed);
    if (rc != 0) {
        kd_buf_clear(&packed);
        return fail(why, rc,
                    rc == -KD_ELIMIT ? "the request is larger than 1 MiB" : kd_err_text(rc));
    }
    struct iovec part = {.iov_base = packed.data, .iov_len = packed.len};
    uint8_t *bytes = NULL;
    size_t len = 0;
    rc = call(c, method, &part, 1, timeout_ms, wait_ready, &bytes, &len, why);
    kd_buf_clear(&packed);
    if (rc == 0)
        rc = unpack(reply, bytes, len, out, NULL, NULL, why);
    free(bytes);
    return rc;
}

int kd_conn_call_bulk(kd_conn *c, const char *method, const void *head, const void *payload,
                      size_t payload_len, const ProtobufCMessageDescriptor *reply,
                      ProtobufCMessage **out, kd_failure *why)
{
    kd_buf packed;
    kd_buf_init(&packed, KD_MAX_CONTROL_BYTES);
    int rc = payload_len ? kd_wire_pack_bulk_head(head, payload_len, &packed)
                         : kd_wire_pack_checked(head, &packed);
    if (rc != 0) {
        kd_buf_clear(&packed);
        return fail(why, rc, kd_err_text(rc));
    }
    struct iovec parts[2] = {{.iov_base = packed.data, .iov_len = packed.len},
                             {.iov_base = (void *)payload, .iov_len = payload_len}};
    uint8_t *bytes = NULL;
    size_t len = 0;
    rc = call(c, method, parts, payload_len ? 2 : 1, 2 * KD_CONN_TIMEOUT_MS, false, &bytes, &len,
              why);
    kd_buf_clear(&packed);
    if (rc == 0)
        rc = unpack(reply, bytes, len, out, NULL, NULL, why);
    free(bytes);
    return rc;
}

int kd_conn_fetch_bulk(kd_conn *c, const char *method, const void *request,
                       const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out,
                       uint8_t **out_bytes, const uint8_t **out_payload, size_t *out_len,
                       kd_failure *why)
{
    kd_buf packed;
    kd_buf_init(&packed, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack_checked(request, &packed);
    if (rc != 0) {
        kd_buf_clear(&packed);
        return fail(why, rc, kd_err_text(rc));
    }
    struct iovec part = {.iov_base = packed.data, .iov_len = packed.len};
    uint8_t *bytes = NULL;
    size_t len = 0;
    rc = call(c, method, &part, 1, 2 * KD_CONN_TIMEOUT_MS, false, &bytes, &len, why);
    kd_buf_clear(&packed);
    if (rc == 0)
        rc = unpack(reply, bytes, len, out, out_payload, out_len, why);
    if (rc == 0)
        *out_bytes = bytes;
    else
        free(bytes);
    return rc;
}

bool kd_conn_passing(const kd_failure *why)
{
    return why->code == -KD_EUNAVAIL || why->code == -KD_ETIMEOUT;
}

int kd_conn_exit(int code, int grpc_status, bool reached)
{
    if (grpc_status == 16) /* UNAUTHENTICATED */
        return KD_EXIT_AUTH;
    switch (code) {
    case 0:
        return KD_EXIT_OK;
    case -KD_ENOENT:
        return KD_EXIT_NO_JOB;
    case -KD_EPERM:
    case -KD_EAUTH:
        return KD_EXIT_AUTH;
    case -KD_EEXIST:
    case -KD_ESTATE:
        return KD_EXIT_CONFLICT;
    case -KD_EINVAL:
        return KD_EXIT_USAGE;
    case -KD_EUNAVAIL:
        return KD_EXIT_UNREACHABLE;
    case -KD_ETIMEOUT:
        return reached ? KD_EXIT_TEMPORARY : KD_EXIT_UNREACHABLE;
    case -KD_ESTALE:
    case -KD_ELIMIT:
    case -KD_ENOMEM:
        return KD_EXIT_TEMPORARY;
    default:
        return KD_EXIT_FAILURE;
    }
}

int kd_conn_report(const kd_conn *c, const kd_failure *why, const char *job)
{
    const kd_cli *cli = c->cli;
    if (kd_cli_signal() != 0)
        return kd_cli_signal_exit();
    int rc = kd_conn_exit(why->code, why->grpc_status, c->reached);
    const char *text = why->text[0] ? why->text : kd_err_text(why->code);
    if (rc == KD_EXIT_UNREACHABLE) {
        if (why->code == -KD_ETIMEOUT)
            kd_error(cli, "cannot reach coordinator %s: no answer in time", cli->server);
        else if (strncmp(text, "cannot reach ", 13) == 0)
            kd_error(cli, "%s", text);
        else
            kd_error(cli, "cannot reach coordinator %s: %s", cli->server, text);
        if (strstr(text, "certificate") || strstr(text, "TLS"))
            kd_hint(cli,
                    "`distill login TOKEN --server HOST:PORT` with a token from its admin gets "
                    "a certificate and its CA");
        else
            kd_hint(cli,
                    "start one with `distilld --state-dir DIR`, or with `distill local up` to try "
                    "things out; or name another with --server or --context");
        return rc;
    }
    kd_error(cli, "%s", text);
    if (why->code == -KD_EUNSUP)
        kd_hint(cli, "`distill version --check-server` compares the two versions");
    else if (rc == KD_EXIT_NO_JOB && !strstr(text, "`distill "))
        kd_hint(cli, "`distill jobs` lists the jobs of %s", cli->server);
    else if (rc == KD_EXIT_CONFLICT && job)
        kd_hint(cli, "`distill show %s` tells its state", job);
    else if (rc == KD_EXIT_TEMPORARY)
        kd_hint(cli, "try again in a while");
    return rc;
}

const char *kd_conn_id(const Distill__V1__JobSummary *s, char out[KD_CONN_ID])
{
    snprintf(out, KD_CONN_ID, "%s", s->job);
    return out;
}

int kd_conn_check_job(const kd_cli *cli, const char *job)
{
    size_t n = strspn(job, KD_NAME_LETTERS);
    if (job[n] == '\0' && n >= 1 && n < KD_JOB_NAME)
        return KD_EXIT_OK;
    kd_error(cli,
             "no such job: %s (it is named by its id, the first 4 or more digits of it, or its "
             "name)",
             job);
    kd_hint(cli, "`distill jobs` lists the jobs");
    return KD_EXIT_NO_JOB;
}

int kd_conn_ask(kd_conn *c, const char *method, const void *request, const char *job,
                const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out)
{
    kd_failure why;
    if (kd_conn_call(c, method, request, reply, KD_CONN_TIMEOUT_MS, false, out, &why) != 0)
        return kd_conn_report(c, &why, job);
    return KD_EXIT_OK;
}

int kd_conn_run(kd_cli *cli, const kd_args *args, const char *method, const void *request,
                const ProtobufCMessageDescriptor *reply,
                int (*tell)(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply))
{
    kd_conn conn;
    ProtobufCMessage *got = NULL;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_conn_ask(&conn, method, request, NULL, reply, &got);
    if (rc == KD_EXIT_OK)
        rc = tell(cli, args, got);
    kd_wire_free(got);
    kd_conn_close(&conn);
    return rc;
}

int kd_conn_ask_job(kd_conn *c, const char *method, const char *job,
                    const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out)
{
    Distill__V1__JobRequest request = DISTILL__V1__JOB_REQUEST__INIT;
    request.job = (char *)job;
    return kd_conn_ask(c, method, &request, job, reply, out);
}

int kd_conn_job(kd_conn *c, const char *job, Distill__V1__JobDetail **out)
{
    int rc = kd_conn_check_job(c->cli, job);
    ProtobufCMessage *reply = NULL;
    if (rc == KD_EXIT_OK)
        rc = kd_conn_ask_job(c, "Get", job, &distill__v1__job_detail__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobDetail *detail = (Distill__V1__JobDetail *)reply;
    if (!detail->summary) {
        kd_error(c->cli, "the coordinator's answer makes no sense: a job without a summary");
        kd_wire_free(reply);
        return KD_EXIT_FAILURE;
    }
    *out = detail;
    return KD_EXIT_OK;
}

/* The last job of an answer that is of no sweep, "" = none. */
static char *oldest_of(const Distill__V1__ListReply *list)
{
    for (size_t i = list->n_jobs; i-- > 0;)
        if (!list->jobs[i]->sweep[0])
            return list->jobs[i]->job;
    return (char *)"";
}

int kd_conn_list(kd_conn *c, uint32_t limit, const Distill__V1__ListReply *behind,
                 Distill__V1__ListReply **out, bool *out_more)
{
    Distill__V1__ListRequest request = DISTILL__V1__LIST_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    request.limit = limit;
    if (behind)
        request.before = oldest_of(behind);
    int rc = kd_conn_ask(c, "List", &request, NULL, &distill__v1__list_reply__descriptor, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    *out = (Distill__V1__ListReply *)reply;
    *out_more = (*out)->more && *oldest_of(*out);
    return KD_EXIT_OK;
}
