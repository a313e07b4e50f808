#include "rpc_meter.h"

#include "metrics.h"
#include "rules.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define STATUSES 17 /* of gRPC, 0 to 16 */

struct cell {
    _Atomic uint64_t in[KD_HISTOGRAM_BOUNDS + 1], microseconds;
};

struct kd_rpc_meter {
    struct cell (*cells)[STATUSES]; /* [kd_n_rules] */
};

kd_rpc_meter *kd_rpc_meter_new(void)
{
    kd_rpc_meter *m = kd_xalloc(sizeof *m);
    m->cells = kd_xalloc(kd_n_rules * sizeof *m->cells);
    return m;
}

void kd_rpc_meter_free(kd_rpc_meter *m)
{
    if (m)
        free(m->cells);
    free(m);
}

void kd_rpc_meter_add(kd_rpc_meter *m, size_t rule, int code, double seconds)
{
    int status = kd_err_grpc(code);
    size_t i = 0;
    if (rule >= kd_n_rules || status < 0 || status >= STATUSES)
        return;
    struct cell *c = &m->cells[rule][status];
    while (i < KD_HISTOGRAM_BOUNDS && seconds > kd_histogram_bounds[i])
        i++;
    atomic_fetch_add_explicit(&c->in[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->microseconds, (uint64_t)(seconds * 1e6), memory_order_relaxed);
}

static void write_cell(kd_buf *b, const struct cell *c, const char *method, int status)
{
    static const char *const words[STATUSES] = {"OK",
                                                "CANCELLED",
                                                "UNKNOWN",
                                                "INVALID_ARGUMENT",
                                                "DEADLINE_EXCEEDED",
                                                "NOT_FOUND",
                                                "ALREADY_EXISTS",
                                                "PERMISSION_DENIED",
                                                "RESOURCE_EXHAUSTED",
                                                "FAILED_PRECONDITION",
                                                "ABORTED",
                                                "OUT_OF_RANGE",
                                                "UNIMPLEMENTED",
                                                "INTERNAL",
                                                "UNAVAILABLE",
                                                "DATA_LOSS",
                                                "UNAUTHENTICATED"};
    kd_histogram h = {.sum = (double)atomic_load(&c->microseconds) * 1e-6};
    uint64_t n = 0;
    char labels[160];
    for (size_t i = 0; i <= KD_HISTOGRAM_BOUNDS; i++)
        n += h.in[i] = atomic_load(&c->in[i]);
    if (n == 0)
        return;
    snprintf(labels, sizeof labels, "method=\"%s\",code=\"%s\"", method, words[status]);
    kd_metric_histogram(b, "distill_rpc_seconds", labels, &h);
}

void kd_rpc_meter_write(const kd_rpc_meter *m, kd_buf *out)
{
    kd_metric_family(out, "distill_rpc_seconds", "histogram",
                     "Calls by method and status, until they were over.");
    for (size_t r = 0; r < kd_n_rules; r++)
        for (int s = 0; s < STATUSES; s++)
            write_cell(out, &m->cells[r][s], kd_rules[r].path + 1, s);
}
