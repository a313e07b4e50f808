/* What the verbs that make jobs share: the key, the call, the answer. */
#ifndef KD_CLI_SUBMISSION_H
#define KD_CLI_SUBMISSION_H

#include "connect.h"
#include "json.h"

#define KD_SUBMISSION_KEY 64

/* Takes `given`, or makes a random key when it is NULL. Returns an exit code. */
int kd_submission_key(const kd_cli *cli, const char *verb, const char *given,
                      char key[KD_SUBMISSION_KEY + 1]) KD_MUST_CHECK;
/* Calls Submit. The same key makes every repeat harmless, so an answer that was lost is asked for
 * again. Returns an exit code; *out with kd_wire_free. */
int kd_submission_call(kd_conn *c, const Distill__V1__SubmitRequest *request,
                       Distill__V1__SubmitReply **out) KD_MUST_CHECK;

typedef struct kd_submission_style {
    bool quiet;   /* the id only */
    bool stays;   /* the verb goes on: no hints */
    bool compact; /* JSON on one line, of kind `accepted` */
} kd_submission_style;
/* Tells what was accepted; of a sweep also its children. Returns an exit code. */
int kd_submission_print(kd_conn *c, const Distill__V1__SubmitReply *r, const char *key,
                        const kd_submission_style *style) KD_MUST_CHECK;
/* What the coordinator has to remark, as talk or as an array. */
void kd_submission_notes(const kd_cli *cli, const Distill__V1__SubmitReply *r);
json_t *kd_submission_notes_json(const Distill__V1__SubmitReply *r);

/* The flags --watch, --wait and --timeout of such verbs. */
typedef struct kd_submission_after {
    bool watch, wait;
    double timeout_s; /* < 0 = none */
} kd_submission_after;
/* Returns an exit code. */
int kd_submission_flags(const kd_cli *cli, const char *verb, const kd_args *args,
                        kd_submission_after *out) KD_MUST_CHECK;
/* Calls, tells what was accepted, then watches or waits as asked. Returns an exit code. */
int kd_submission_make(kd_conn *c, const Distill__V1__SubmitRequest *request,
                       const kd_submission_after *after, bool quiet) KD_MUST_CHECK;
/* Watches or waits as asked. */
int kd_submission_follow(kd_conn *c, const char *job, const kd_submission_after *after,
                         bool quiet) KD_MUST_CHECK;

#endif
