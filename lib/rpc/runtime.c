#include "internal.h"

#include "kd/log.h"

#include <grpc/compression.h>
#include <grpc/support/log.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#else
#define __tsan_release(p) (void)(p)
#define __tsan_acquire(p) (void)(p)
#endif

void kd_rpc_hand_over(struct kd_op *op)
{
    __tsan_release(op);
}

void kd_rpc_start_batch(grpc_call *call, const grpc_op *ops, size_t n, struct kd_op *op)
{
    kd_rpc_hand_over(op);
    KD_BUG_ON(grpc_call_start_batch(call, ops, n, op, NULL) != GRPC_CALL_OK);
}

static void *poll_queue(void *arg)
{
    kd_rpc *rpc = arg;
    for (;;) {
        grpc_event ev =
            grpc_completion_queue_next(rpc->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (ev.type == GRPC_OP_COMPLETE) {
            struct kd_op *op = ev.tag;
            __tsan_acquire(op);
            op->done(op, ev.success != 0);
        }
    }
}

/* A taken port and a refused connection are told to the caller in our own words; saying them twice
 * would only alarm. Handshakes fail at anybody's wish, who could fill the log. */
static bool is_told_elsewhere(const char *message)
{
    static const char *const parts[] = {
        "No address added",       "Failed to add",    "onnection refused", "ailed to connect",
        "Address already in use", "Handshake failed", "handshake failed"};
    for (size_t i = 0; i < KD_COUNT(parts); i++)
        if (strstr(message, parts[i]))
            return true;
    return false;
}

static void forward_log(gpr_log_func_args *args)
{
    const char *slash = strrchr(args->file, '/');
    bool loud = args->severity == GPR_LOG_SEVERITY_ERROR && !is_told_elsewhere(args->message);
    kd_log(loud ? KD_LOG_WARN : KD_LOG_DEBUG, "grpc: %s (%s:%d)", args->message,
           slash ? slash + 1 : args->file, args->line);
}

int kd_rpc_new(int threads, kd_rpc **out, kd_diag *diag)
{
    if (threads < 1 || threads > 64)
        return kd_fail(diag, -KD_EINVAL, "an RPC runtime needs 1 to 64 threads, not %d", threads);
    gpr_set_log_function(forward_log);
    grpc_init();
    kd_rpc *rpc = kd_xalloc(sizeof *rpc);
    rpc->cq = grpc_completion_queue_create_for_next(NULL);
    rpc->threads = kd_xalloc((size_t)threads * sizeof *rpc->threads);
    while (rpc->n_threads < threads &&
           pthread_create(&rpc->threads[rpc->n_threads], NULL, poll_queue, rpc) == 0)
        rpc->n_threads++;
    if (rpc->n_threads < threads) {
        kd_rpc_free(rpc);
        return kd_fail(diag, -KD_ELIMIT, "the system gives no more threads");
    }
    *out = rpc;
    return 0;
}

void kd_rpc_free(kd_rpc *rpc)
{
    if (!rpc)
        return;
    grpc_completion_queue_shutdown(rpc->cq);
    for (int i = 0; i < rpc->n_threads; i++)
        pthread_join(rpc->threads[i], NULL);
    if (rpc->n_threads == 0)
        poll_queue(rpc);
    grpc_completion_queue_destroy(rpc->cq);
    grpc_shutdown();
    free(rpc->threads);
    free(rpc);
}

gpr_timespec kd_rpc_deadline(int timeout_ms)
{
    if (timeout_ms <= 0)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

grpc_arg kd_rpc_int_arg(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

size_t kd_rpc_common_args(size_t max_message, grpc_arg *args)
{
    KD_BUG_ON(max_message == 0 || max_message > INT_MAX);
    const struct {
        const char *key;
        int value;
    } all[] = {
        {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max_message},
        {GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)max_message},
        {GRPC_ARG_MAX_METADATA_SIZE, 16384},
        {GRPC_ARG_KEEPALIVE_TIME_MS, KD_KEEPALIVE_MS},
        {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KD_KEEPALIVE_TIMEOUT_MS},
        {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
        {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
        /* Only identity: a small compressed message could otherwise become a large one here. */
        {GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE},
    };
    _Static_assert(KD_COUNT(all) <= KD_RPC_COMMON_ARGS, "room for all of them");
    for (size_t i = 0; i < KD_COUNT(all); i++)
        args[i] = kd_rpc_int_arg(all[i].key, all[i].value);
    return KD_COUNT(all);
}
