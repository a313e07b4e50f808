/* Error codes and diagnostics.
 *
 * Functions return 0 or a negative -KD_E...; a positive value only where their header says what it
 * counts. One list holds code, text, gRPC status number and whether a caller may try again, so that
 * logs, wire status and retry rules cannot drift apart.
 *
 * kd_diag carries the sentence for a person: filled on failure by the function that knows what went
 * wrong, extended on the way up, untouched on success. Threads: a diag belongs to one thread. */
#ifndef KD_ERR_H
#define KD_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KD_MUST_CHECK __attribute__((warn_unused_result))
#define KD_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/*  X(name, text, gRPC status, retry) */
#define KD_ERR_MAP(X)                                                                              \
    X(EINVAL, "invalid argument", 3, false)                                                        \
    X(ENOENT, "not found", 5, false)                                                               \
    X(EEXIST, "already exists", 6, false)                                                          \
    X(ESTATE, "wrong state", 9, false)                                                             \
    X(ESTALE, "stale step, version or generation", 10, false)                                      \
    X(ELIMIT, "limit exceeded", 8, false)                                                          \
    X(ENOMEM, "out of memory", 8, true)                                                            \
    X(EIO, "input/output error", 13, false)                                                        \
    X(EDATA, "corrupt data", 15, false)                                                            \
    X(EUNAVAIL, "peer unavailable", 14, true)                                                      \
    X(ETIMEOUT, "deadline exceeded", 4, true)                                                      \
    X(ECANCELED, "cancelled", 1, false)                                                            \
    X(EUNSUP, "not supported", 12, false)                                                          \
    X(EPERM, "not permitted", 7, false)                                                            \
    X(EAUTH, "not authenticated", 16, false)                                                       \
    X(EINTERNAL, "internal error", 13, false)

enum {
    KD_OK = 0,
#define KD_ERR_ENUM(name, text, grpc, retry) KD_##name,
    KD_ERR_MAP(KD_ERR_ENUM)
#undef KD_ERR_ENUM
        KD_ERR_COUNT
};

/* All four accept either sign. Unknown codes: "unknown error", UNKNOWN (2), false. */
const char *kd_err_name(int code); /* "EINVAL" */
const char *kd_err_text(int code);
int kd_err_grpc(int code);
bool kd_err_retry(int code);
/* Our code for a gRPC status number: 0 for OK, else a negative -KD_E.... */
int kd_err_from_grpc(int grpc_status);

#define KD_DIAG_MAX 1024
typedef struct kd_diag {
    int code;              /* negative -KD_E..., 0 = nothing recorded */
    char msg[KD_DIAG_MAX]; /* one or more sentences, NUL-terminated, cut at the limit */
} kd_diag;

/* Records code and message; returns code, so that `return kd_fail(d, -KD_EINVAL, "...")` works.
 * diag may be NULL. */
int kd_fail(kd_diag *diag, int code, const char *fmt, ...) KD_PRINTF(3, 4);
/* Puts "context: " before the message that is there. Returns diag->code (or code if diag is NULL).
 */
int kd_fail_at(kd_diag *diag, int code, const char *fmt, ...) KD_PRINTF(3, 4);

/* A bug in us: prints where and aborts, in every build. */
#define KD_BUG_ON(cond)                                                                            \
    do {                                                                                           \
        if (__builtin_expect(!!(cond), 0))                                                         \
            kd_bug(__FILE__, __LINE__, #cond);                                                     \
    } while (0)
_Noreturn void kd_bug(const char *file, int line, const char *what);

/* Overflow-checked size arithmetic: true on success, *out untouched otherwise. */
static inline bool kd_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* For small fixed start-up allocations only: abort when memory is out. Anything sized from outside
 * is checked by its caller and uses malloc. All memory is zeroed. */
void *kd_xalloc(size_t size);
char *kd_xstrdup(const char *s);

#define KD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define KD_MAX(a, b) ((a) > (b) ? (a) : (b))
#define KD_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
