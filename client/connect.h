/* The connection to the coordinator: typed calls, and failures as sentences and exit codes.
 *
 * A call waits in slices, so that Ctrl-C ends it. Threads: the main thread. */
#ifndef KD_CLI_CONNECT_H
#define KD_CLI_CONNECT_H

#include "cli.h"
#include "distill.pb-c.h"
#include "login/login.h"
#include "rpc/rpc.h"
#include "wire/wire.h"

#define KD_CONN_TIMEOUT_MS 15000

typedef struct kd_conn {
    kd_cli *cli; /* borrowed */
    kd_rpc *rpc;
    kd_rpc_channel *channel;
    kd_login login; /* empty with plain text; renewed after a call, when it is time */
    bool renewal_failed;
    bool reached; /* some call was answered by a coordinator */
} kd_conn;

/* Why a call did not succeed. */
typedef struct kd_failure {
    int code; /* negative -KD_E... */
    int grpc_status;
    char text[1024];
} kd_failure;

/* Makes no connection yet. Returns an exit code. */
int kd_conn_open(kd_cli *cli, kd_conn *out) KD_MUST_CHECK;
/* How most verbs begin: refuses what cannot be a job (NULL = none is named), opens the
 * connection and catches signals from then on. Returns an exit code. */
int kd_conn_start(kd_cli *cli, const char *job, kd_conn *out) KD_MUST_CHECK;
void kd_conn_close(kd_conn *c);

/* Calls distill.v1.Jobs/METHOD, or distill.v1.Access/METHOD for "Access/METHOD". *out as
 * kd_wire_unpack gives it, to be freed with kd_wire_free. wait_ready: wait for the coordinator
 * instead of failing at once. */
int kd_conn_call(kd_conn *c, const char *method, const void *request,
                 const ProtobufCMessageDescriptor *reply, int timeout_ms, bool wait_ready,
                 ProtobufCMessage **out, kd_failure *why) KD_MUST_CHECK;
/* One such call that fails at once if there is no coordinator, and its report (below). Returns an
 * exit code. job: as for kd_conn_report. */
int kd_conn_ask(kd_conn *c, const char *method, const void *request, const char *job,
                const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out) KD_MUST_CHECK;
/* Likewise where the request is nothing but the job. */
int kd_conn_ask_job(kd_conn *c, const char *method, const char *job,
                    const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out) KD_MUST_CHECK;
/* All of a verb that is one such call: tell prints the answer and returns an exit code. */
int kd_conn_run(kd_cli *cli, const kd_args *args, const char *method, const void *request,
                const ProtobufCMessageDescriptor *reply,
                int (*tell)(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply));
/* Sends a message whose field 15 is `payload` [len], borrowed during the call. */
int kd_conn_call_bulk(kd_conn *c, const char *method, const void *head, const void *payload,
                      size_t len, const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out,
                      kd_failure *why) KD_MUST_CHECK;
/* The answer's payload lies in *out_bytes, which the caller frees after use. */
int kd_conn_fetch_bulk(kd_conn *c, const char *method, const void *request,
                       const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out,
                       uint8_t **out_bytes, const uint8_t **out_payload, size_t *out_len,
                       kd_failure *why) KD_MUST_CHECK;

/* Prints `error:` and one `hint:` for a failed call and returns the exit code. job: what the user
 * called it, for the hint; NULL if the call names none. A signal is no error: nothing is printed.
 */
int kd_conn_report(const kd_conn *c, const kd_failure *why, const char *job);
/* The exit code alone. reached: see kd_conn. */
int kd_conn_exit(int code, int grpc_status, bool reached);
/* May the same call do better a little later? */
bool kd_conn_passing(const kd_failure *why);

/* Get of one job. Returns an exit code; *out with kd_wire_free. Refuses what cannot be a job. */
int kd_conn_job(kd_conn *c, const char *job, Distill__V1__JobDetail **out) KD_MUST_CHECK;
/* List of at most `limit` jobs, the newest, or those before the last one of the answer `behind`
 * (NULL = none). *out_more: there are jobs before these. Returns an exit code; *out with
 * kd_wire_free. */
int kd_conn_list(kd_conn *c, uint32_t limit, const Distill__V1__ListReply *behind,
                 Distill__V1__ListReply **out, bool *out_more) KD_MUST_CHECK;
/* The id of a job, of which only so much is taken as an id has. */
#define KD_CONN_ID 16
const char *kd_conn_id(const Distill__V1__JobSummary *s, char out[KD_CONN_ID]);
/* Could be an id, the beginning of one or a name: what names are made of. Else prints and returns
 * exit code 3. */
int kd_conn_check_job(const kd_cli *cli, const char *job) KD_MUST_CHECK;

/* Sleeps, but not through a signal: false when one has come. */
bool kd_conn_pause(int ms);

#endif
