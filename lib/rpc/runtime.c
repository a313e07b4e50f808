#include "internal.h"

#include "kd/log.h"

#include <grpc/support/log.h>
#include <stdlib.h>
#include <string.h>

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
            op->done(op, ev.success != 0);
        }
    }
}

/* gRPC's own lines are about its insides: of use when looking for a fault, not before. */
static void forward_log(gpr_log_func_args *args)
{
    if (args->severity == GPR_LOG_SEVERITY_ERROR)
        kd_debug("grpc: %s (%s:%d)", args->message, args->file, args->line);
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
        while (grpc_completion_queue_next(rpc->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
               GRPC_QUEUE_SHUTDOWN) {
        }
    grpc_completion_queue_destroy(rpc->cq);
    grpc_shutdown();
    free(rpc->threads);
    free(rpc);
}

grpc_byte_buffer *kd_rpc_join(const struct iovec *parts, int n_parts, size_t *out_len)
{
    grpc_slice slices[8];
    KD_BUG_ON(n_parts < 0 || n_parts > (int)KD_COUNT(slices));
    size_t len = 0;
    for (int i = 0; i < n_parts; i++) {
        slices[i] = grpc_slice_from_copied_buffer(parts[i].iov_base ? parts[i].iov_base : "",
                                                  parts[i].iov_len);
        len += parts[i].iov_len;
    }
    grpc_byte_buffer *bb = grpc_raw_byte_buffer_create(slices, (size_t)n_parts);
    for (int i = 0; i < n_parts; i++)
        grpc_slice_unref(slices[i]);
    *out_len = len;
    return bb;
}

grpc_slice kd_rpc_contiguous(grpc_byte_buffer *bb)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, bb))
        return grpc_empty_slice();
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    return all;
}

gpr_timespec kd_rpc_deadline(int timeout_ms)
{
    if (timeout_ms <= 0)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

void kd_rpc_safe_text(const char *text, char out[KD_MAX_STATUS_TEXT + 1])
{
    size_t n = 0;
    for (const char *p = text ? text : ""; *p && n < KD_MAX_STATUS_TEXT; p++)
        out[n++] = (unsigned char)*p < 0x20 && *p != '\n' ? '?' : *p;
    /* Not in the middle of a UTF-8 sequence. */
    while (n == KD_MAX_STATUS_TEXT && n > 0 && ((unsigned char)out[n - 1] & 0x80))
        n--;
    out[n] = '\0';
}

void kd_rpc_service_of(const char *path, char *out, size_t size)
{
    const char *start = path[0] == '/' ? path + 1 : path;
    const char *end = strchr(start, '/');
    size_t n = end ? (size_t)(end - start) : strlen(start);
    n = KD_MIN(n, size - 1);
    memcpy(out, start, n);
    out[n] = '\0';
}
