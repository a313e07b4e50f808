#include "kd/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *text;
    int grpc;
    bool retry;
} g_errors[KD_ERR_COUNT] = {[KD_OK] = {"OK", "success", 0, false},
#define KD_ERR_ROW(n, t, g, r) [KD_##n] = {#n, t, g, r},
                            KD_ERR_MAP(KD_ERR_ROW)
#undef KD_ERR_ROW
};

static int index_of(int code)
{
    int i = code < 0 ? -code : code;
    return i < KD_ERR_COUNT ? i : -1;
}

const char *kd_err_name(int code)
{
    int i = index_of(code);
    return i < 0 ? "EUNKNOWN" : g_errors[i].name;
}

const char *kd_err_text(int code)
{
    int i = index_of(code);
    return i < 0 ? "unknown error" : g_errors[i].text;
}

int kd_err_grpc(int code)
{
    int i = index_of(code);
    return i < 0 ? 2 : g_errors[i].grpc;
}

bool kd_err_retry(int code)
{
    int i = index_of(code);
    return i < 0 ? false : g_errors[i].retry;
}

int kd_err_from_grpc(int grpc_status)
{
    if (grpc_status == 0)
        return 0;
    for (int i = 1; i < KD_ERR_COUNT; i++)
        if (g_errors[i].grpc == grpc_status)
            return -i;
    return -KD_EINTERNAL;
}

static KD_PRINTF(2, 0) void put_message(kd_diag *diag, const char *fmt, va_list ap)
{
    int n = vsnprintf(diag->msg, sizeof diag->msg, fmt, ap);
    if (n >= (int)sizeof diag->msg)
        memcpy(diag->msg + sizeof diag->msg - 4, "...", 4);
}

int kd_fail(kd_diag *diag, int code, const char *fmt, ...)
{
    if (diag) {
        va_list ap;
        va_start(ap, fmt);
        diag->code = code;
        put_message(diag, fmt, ap);
        va_end(ap);
    }
    return code;
}

int kd_fail_at(kd_diag *diag, int code, const char *fmt, ...)
{
    if (!diag)
        return code;
    kd_diag old = *diag;
    va_list ap;
    va_start(ap, fmt);
    put_message(diag, fmt, ap);
    va_end(ap);
    diag->code = old.code ? old.code : code;
    size_t n = strlen(diag->msg);
    snprintf(diag->msg + n, sizeof diag->msg - n, ": %s", old.code ? old.msg : kd_err_text(code));
    return diag->code;
}

void kd_bug(const char *file, int line, const char *what)
{
    fprintf(stderr, "BUG: %s:%d: %s\n", file, line, what);
    abort();
}

void *kd_xalloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);
    if (!p) {
        fprintf(stderr, "out of memory (%zu bytes at start-up)\n", size);
        abort();
    }
    return p;
}

char *kd_xstrdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(kd_xalloc(n), s, n);
}
