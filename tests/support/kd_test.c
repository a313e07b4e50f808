#include "kd_test.h"

#include "kd/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void kd_test_close(double a, double b, double rtol, double atol, const char *text_a,
                   const char *text_b, const char *file, int line)
{
    if (isfinite(a) && isfinite(b) && fabs(a - b) <= atol + rtol * fabs(b))
        return;
    print_error("%s = %.9g, %s = %.9g, difference %.3g\n", text_a, a, text_b, b, fabs(a - b));
    _fail(file, line);
}

void kd_test_all_close(const float *a, const float *b, size_t n, double rtol, double atol,
                       const char *text, const char *file, int line)
{
    double worst = 0;
    size_t at = 0;
    bool bad = false;
    for (size_t i = 0; i < n; i++) {
        double excess = fabs((double)a[i] - b[i]) - (atol + rtol * fabs((double)b[i]));
        if (!isfinite(a[i]) || !isfinite(b[i]))
            excess = INFINITY;
        if (excess > 0)
            bad = true;
        if (excess > worst) {
            worst = excess;
            at = i;
        }
    }
    if (!bad)
        return;
    print_error("%s: element %zu of %zu is %.9g, expected %.9g\n", text, at, n, (double)a[at],
                (double)b[at]);
    _fail(file, line);
}

void kd_test_ok(int rc, const kd_diag *diag, const char *text, const char *file, int line)
{
    if (rc >= 0)
        return;
    print_error("%s = -%s: %s\n", text, kd_err_name(rc), diag ? diag->msg : "");
    _fail(file, line);
}

void kd_test_fails(int rc, int code, const kd_diag *diag, const char *part, const char *file,
                   int line)
{
    if (rc == -code && strstr(diag->msg, part))
        return;
    print_error("got %d (%s) \"%s\", expected %s with \"%s\"\n", rc, kd_err_name(rc), diag->msg,
                kd_err_name(code), part);
    _fail(file, line);
}

char *kd_test_mkdir(void)
{
    char *path = kd_xstrdup("/tmp/kd-test-XXXXXX");
    KD_BUG_ON(!mkdtemp(path));
    return path;
}

void kd_test_rmdir(char *path)
{
    kd_diag diag = {0};
    KD_BUG_ON(kd_file_remove_tree(path, &diag) != 0);
    free(path);
}

const char *kd_test_data(void)
{
    const char *path = getenv("DISTILL_DATA");
    return path && *path ? path : NULL;
}
