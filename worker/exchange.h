/* The Exchange service as a worker calls it: push a node, gather values, await
 * a sum or a slice, publish, and the logit bank and blobs beside them. The step
 * flow (runner.c) knows only this interface, so that another transport can take
 * gRPC's place.
 *
 * Answers of the waiting calls come on gRPC's threads through kd_exchange_done.
 * Threads: any. */
#ifndef KD_WORKER_EXCHANGE_H
#define KD_WORKER_EXCHANGE_H

#include "kd/buf.h"
#include "part.h"
#include "rpc/rpc.h"

typedef struct kd_stage_ref {
    char job[13];
    uint32_t stage;
    uint64_t generation;
    uint64_t process; /* names this process, Hello.incarnation */
} kd_stage_ref;

typedef struct kd_bank_ref {
    char teacher[33], precision[33], numerics[33], data[33], view_rule[1024];
    uint32_t classes;
    uint64_t wanted; /* records that this stage would have of it, 0 = not known before */
} kd_bank_ref;

/* code 0: payload is the answer's bulk data, borrowed during the call, its CRC32C checked:
 * float32s, of AwaitSum bfloat16s in a job whose gradients travel so. Otherwise code and text say
 * why. */
typedef struct kd_exchange_answer {
    int code;
    const char *text;
    const uint8_t *payload;
    size_t len;
    bool checkpoint;  /* of AwaitSum: publish with optimiser state */
    float scale;      /* of the trained elements of the sum */
    uint64_t version; /* of AwaitSlice and FetchState; of AwaitSum the step */
    uint32_t chunk;   /* of these three */
    bool want_state;  /* of Publish: not taken, wanted with optimiser state */
} kd_exchange_answer;
typedef void (*kd_exchange_done)(void *arg, const kd_exchange_answer *a);

/* Each starts a call; done comes exactly once iff 0 is returned. What is sent is copied.
 * push: a todo of kind PUSH, whose data [floats] travel as its bfloat16 says; n_terms: of its sums.
 */
int kd_exchange_push(kd_rpc_channel *ch, const kd_stage_ref *ref, const kd_todo *push, int n_terms,
                     kd_exchange_done done, void *arg) KD_MUST_CHECK;
int kd_exchange_await_sum(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t step,
                          uint32_t chunk, kd_exchange_done done, void *arg) KD_MUST_CHECK;
int kd_exchange_await_slice(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                            uint32_t chunk, kd_exchange_done done, void *arg) KD_MUST_CHECK;
int kd_exchange_fetch_state(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                            uint32_t chunk, kd_exchange_done done, void *arg) KD_MUST_CHECK;
/* data: slice, then state_vectors state vectors when with_state. */
int kd_exchange_publish(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                        uint32_t chunk, const float *data, size_t floats, bool with_state,
                        kd_exchange_done done, void *arg) KD_MUST_CHECK;

/* Blocking calls; diag says what went wrong. */
/* rows [samples][columns] of an evaluation unit. */
int kd_exchange_gather(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version, uint32_t unit,
                       const float *rows, size_t samples, int columns, double learning_rate,
                       kd_diag *diag) KD_MUST_CHECK;
/* Values of one slot for a batch-coupled loss; await_values (not blocking) then brings those of all
 * slots. */
int kd_exchange_push_values(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t step,
                            uint32_t slot, const float *values, size_t floats,
                            kd_diag *diag) KD_MUST_CHECK;
int kd_exchange_await_values(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t step,
                             kd_exchange_done done, void *arg) KD_MUST_CHECK;
/* Averaged parameters of a chunk at a version that is evaluated: the last of `vectors` state
 * vectors, into out [floats]. */
int kd_exchange_get_average(kd_rpc_channel *ch, const kd_stage_ref *ref, uint64_t version,
                            uint32_t chunk, float *out, size_t floats, uint32_t vectors,
                            kd_diag *diag) KD_MUST_CHECK;
/* Hands a file of the job to the coordinator. */
int kd_exchange_put_artefact(kd_rpc_channel *ch, const char *job, uint32_t stage, const char *name,
                             const void *bytes, size_t len, kd_diag *diag) KD_MUST_CHECK;
/* Asks what the job's teacher goes by, or with a value (not "") settles it; why: for people. out
 * [33]: "" while another worker measures; *out_measure: this one shall, and call again. */
int kd_exchange_decide(kd_rpc_channel *ch, const kd_stage_ref *ref, uint32_t teacher,
                       const char *value, const char *why, char out[33], bool *out_measure,
                       kd_diag *diag) KD_MUST_CHECK;
/* Appends the records (sample, view, logits) that the bank has of n wanted
 * pairs. */
int kd_exchange_get_logits(kd_rpc_channel *ch, const kd_stage_ref *ref, const kd_bank_ref *bank,
                           const uint32_t *pairs, size_t n, kd_buf *out,
                           kd_diag *diag) KD_MUST_CHECK;
int kd_exchange_put_logits(kd_rpc_channel *ch, const kd_stage_ref *ref, const kd_bank_ref *bank,
                           const void *records, size_t len, kd_diag *diag) KD_MUST_CHECK;
/* For who cannot go on without the bank, after one of these two failed with rc: true when it may be
 * asked again, after a pause; false when rc will not pass, or no answer is wanted any more. */
#define KD_EXCHANGE_PAUSE_MS 200
bool kd_exchange_again(int rc, bool (*stopped)(void *arg), void *arg);
/* Whole file by its digest, which is checked; caller frees. */
int kd_exchange_get_blob(kd_rpc_channel *ch, const char *job, const char *digest, uint8_t **out,
                         size_t *out_len, kd_diag *diag) KD_MUST_CHECK;

#endif
