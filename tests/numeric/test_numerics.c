/* The process's numerics: what it says about itself, and the mending of OpenBLAS's choice.
 *
 * Re-executing needs a process of its own: run with the argument "mended" this program mends, then
 * reports the core it ended with and how often it started. */
#include <cblas.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "engine/plan.h"
#include "kd_test.h"

static void test_numerics_info(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_engine_info a = {0}, b = {0};
    kd_assert_ok(kd_engine_info_get(&a, &diag), &diag);
    /* Asked from a thread that may use more than one, the answer is the same. */
    omp_set_num_threads(2);
    kd_assert_ok(kd_engine_info_get(&b, &diag), &diag);
    assert_int_equal(omp_get_max_threads(), 2);
    kd_engine_thread();
    assert_true(kd_digest_equal(&a.numerics, &b.numerics));
    const kd_digest none = {0};
    assert_false(kd_digest_equal(&a.numerics, &none));
    assert_true(strlen(a.cpu) > 0 && strlen(a.isa) > 0);
    assert_string_equal(a.blas, openblas_get_corename());
    assert_int_equal(strncmp(a.onednn, "2.", 2), 0);
}

static void *digest_in_thread(void *arg)
{
    kd_engine_thread();
    kd_engine_info info = {0};
    if (kd_engine_info_get(&info, NULL) == 0)
        *(kd_digest *)arg = info.numerics;
    return NULL;
}

static void test_numerics_digest_is_the_same_in_threads(void **state)
{
    (void)state;
    kd_digest digests[2] = {0};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, digest_in_thread, &digests[i]), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    kd_diag diag = {0};
    kd_engine_info info = {0};
    kd_assert_ok(kd_engine_info_get(&info, &diag), &diag);
    for (int i = 0; i < 2; i++)
        assert_true(kd_digest_equal(&digests[i], &info.numerics));
}

static void test_numerics_thread_is_single_and_keeps_denormals(void **state)
{
    (void)state;
    omp_set_num_threads(2);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040U);
#endif
    kd_engine_thread();
    assert_int_equal(omp_get_max_threads(), 1);
    assert_int_equal(openblas_get_num_threads(), 1);
    volatile float tiny = 1e-38F;
    tiny /= 16;
    assert_true(tiny > 0);
}

/* Runs this program with "mended" and these settings of the environment ("NAME=value", NULL ends);
 * its one line of output into text. */
static void run_mended(const char *const *settings, char *text, size_t size)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        unsetenv("OPENBLAS_CORETYPE");
        unsetenv("OPENBLAS_NUM_THREADS");
        unsetenv("KD_BLAS_SET");
        for (; *settings; settings++) {
            const char *value = strchr(*settings, '=');
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)(value - *settings), *settings);
            setenv(name, value + 1, 1);
        }
        char *argv[] = {"test_numerics", "mended", NULL};
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(ends[1]);
    size_t len = 0;
    for (;;) {
        const ssize_t n = read(ends[0], text + len, size - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_numerics_mends_blas_once(void **state)
{
    (void)state;
    char text[256];
    const char *const nothing[] = {NULL};
    run_mended(nothing, text, sizeof text);
#if defined(__x86_64__)
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (wide)
        assert_non_null(strstr(text, "core=SkylakeX "));
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        assert_true(strstr(text, "core=Haswell ") || strstr(text, "core=Zen "));
#endif
    assert_non_null(strstr(text, "set=1 threads=1 args=mended\n"));
}

static void test_numerics_keeps_the_users_choice(void **state)
{
    (void)state;
    char text[256];
    const char *const both[] = {"OPENBLAS_CORETYPE=Nehalem", "OPENBLAS_NUM_THREADS=2", NULL};
    run_mended(both, text, sizeof text);
    assert_string_equal(text, "core=Nehalem set=- threads=2 args=mended\n");
    const char *const core[] = {"OPENBLAS_CORETYPE=Nehalem", NULL};
    run_mended(core, text, sizeof text);
    assert_string_equal(text, "core=Nehalem set=1 threads=1 args=mended\n");
    const char *const done[] = {"KD_BLAS_SET=1", NULL};
    run_mended(done, text, sizeof text);
    assert_non_null(strstr(text, "set=1 threads=-"));
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "mended") == 0) {
        kd_engine_mend_blas(argv);
        const char *set = getenv("KD_BLAS_SET"), *threads = getenv("OPENBLAS_NUM_THREADS");
        printf("core=%s set=%s threads=%s args=%s\n", openblas_get_corename(), set ? set : "-",
               threads ? threads : "-", argv[1]);
        return 0;
    }
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numerics_info),
        cmocka_unit_test(test_numerics_digest_is_the_same_in_threads),
        cmocka_unit_test(test_numerics_thread_is_single_and_keeps_denormals),
        cmocka_unit_test(test_numerics_mends_blas_once),
        cmocka_unit_test(test_numerics_keeps_the_users_choice),
    };
    return cmocka_run_group_tests_name("numerics", tests, NULL, NULL);
}
