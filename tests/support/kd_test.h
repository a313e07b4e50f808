/* What every cmocka test includes: cmocka itself and the few helpers it lacks. */
#ifndef KD_TEST_H
#define KD_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* cmocka.h needs those before it. */
#include <cmocka.h>

#include "kd/err.h"

/* |a-b| <= atol + rtol*|b|, and both finite: cmocka's own float assertion accepts NaN. */
#define kd_assert_close(a, b, rtol, atol)                                                          \
    kd_test_close((double)(a), (double)(b), rtol, atol, #a, #b, __FILE__, __LINE__)
void kd_test_close(double a, double b, double rtol, double atol, const char *text_a,
                   const char *text_b, const char *file, int line);
/* Compares arrays and reports the worst element. */
#define kd_assert_all_close(a, b, n, rtol, atol)                                                   \
    kd_test_all_close(a, b, n, rtol, atol, #a, __FILE__, __LINE__)
void kd_test_all_close(const float *a, const float *b, size_t n, double rtol, double atol,
                       const char *text, const char *file, int line);
/* rc must be 0; prints the diagnosis otherwise. */
#define kd_assert_ok(rc, diag) kd_test_ok(rc, diag, #rc, __FILE__, __LINE__)
void kd_test_ok(int rc, const kd_diag *diag, const char *text, const char *file, int line);
/* rc must be -code and the message must contain `part`. */
#define kd_assert_fails(rc, code, diag, part)                                                      \
    kd_test_fails(rc, code, diag, part, __FILE__, __LINE__)
void kd_test_fails(int rc, int code, const kd_diag *diag, const char *part, const char *file,
                   int line);

/* A fresh folder that kd_test_rmdir removes; caller frees the string. */
char *kd_test_mkdir(void);
void kd_test_rmdir(char *path);
/* $DISTILL_DATA, or NULL: the test then calls skip(). */
const char *kd_test_data(void);

#endif
