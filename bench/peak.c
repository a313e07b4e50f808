#include "limit.h"

#include "kd/clock.h"

#include <stdlib.h>
#include <string.h>

#define SECONDS 0.05
enum { TRIES = 5, ROUNDS = 1 << 12, SUMS = 10 };

#if defined(__x86_64__)
#include <immintrin.h>

/* Ten sums hide an instruction's latency in both units. In assembly, since the compiler copies and
 * stores them in between. Zeros are multiplied. */
#define ROUND(name, instruction)                                                                   \
    __attribute__((target("avx512f"))) static void name(void)                                      \
    {                                                                                              \
        const __m512 zero = _mm512_setzero_ps();                                                   \
        __m512 a = zero, b = zero, c = zero, d = zero, e = zero, f = zero, g = zero, h = zero,     \
               i = zero, j = zero;                                                                 \
        for (int round = 0; round < ROUNDS; round++)                                               \
            __asm__ volatile(instruction                                                           \
                             " %10, %10, %0\n\t" instruction " %10, %10, %1\n\t" instruction       \
                             " %10, %10, %2\n\t" instruction " %10, %10, %3\n\t" instruction       \
                             " %10, %10, %4\n\t" instruction " %10, %10, %5\n\t" instruction       \
                             " %10, %10, %6\n\t" instruction " %10, %10, %7\n\t" instruction       \
                             " %10, %10, %8\n\t" instruction " %10, %10, %9"                       \
                             : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g),      \
                               "+v"(h), "+v"(i), "+v"(j)                                           \
                             : "v"(zero));                                                         \
    }
ROUND(float32_round, "vfmadd231ps")
ROUND(bfloat16_round, "vdpbf16ps")
ROUND(int8_round, "vpdpbusd")

typedef void one_round(void);

/* NULL = this CPU has no such instruction. ops: of one instruction. */
static one_round *round_of(enum kd_precision precision, double *ops)
{
    switch (precision) {
    case KD_FLOAT32:
        *ops = 32;
        return __builtin_cpu_supports("avx512f") ? float32_round : NULL;
    case KD_BFLOAT16:
        *ops = 64;
        return __builtin_cpu_supports("avx512bf16") ? bfloat16_round : NULL;
    case KD_INT8:
        *ops = 128;
        return __builtin_cpu_supports("avx512vnni") ? int8_round : NULL;
    case KD_PRECISION_AUTO:
        break;
    }
    return NULL;
}
#else
typedef void one_round(void);
static one_round *round_of(enum kd_precision precision, double *ops)
{
    (void)precision;
    *ops = 0;
    return NULL;
}
#endif

static double measured_peak(enum kd_precision precision)
{
    double ops = 0, best = 0;
    one_round *run = round_of(precision, &ops);
    for (int i = 0; run != NULL && i < TRIES; i++) {
        const double begin = kd_clock_s();
        double seconds = 0;
        int rounds = 0;
        for (; seconds < SECONDS; rounds++, seconds = kd_clock_s() - begin)
            run();
        best = KD_MAX(best, (double)rounds * ROUNDS * SUMS * ops / seconds);
    }
    return best;
}

double kd_peak(enum kd_precision precision)
{
    static double peaks[KD_PRECISION_AUTO];
    static bool known[KD_PRECISION_AUTO];
    if (!known[precision])
        peaks[precision] = measured_peak(precision);
    known[precision] = true;
    return peaks[precision];
}

static double measured_copy(size_t bytes)
{
    const size_t half = bytes / 2;
    char *from = kd_xalloc(half), *to = kd_xalloc(half);
    memset(from, 1, half);
    memset(to, 2, half);
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        const double begin = kd_clock_s();
        double seconds = 0;
        int rounds = 0;
        for (; seconds < SECONDS; rounds++, seconds = kd_clock_s() - begin) {
            memcpy(to, from, half);
            /* What was copied counts as read, so that no copy is left out. */
            __asm__ volatile("" : : "r"(to), "r"(from) : "memory");
        }
        best = KD_MAX(best, (double)rounds * (double)bytes / seconds);
    }
    free(from);
    free(to);
    return best;
}

double kd_copy_rate(size_t bytes)
{
    /* By powers of two; the smallest and the largest stand for what is beyond. */
    enum { LEAST = 14, MOST = 28 };
    static double rates[MOST + 1];
    int power = LEAST;
    while (power < MOST && (size_t)1 << (power + 1) <= bytes)
        power++;
    if (rates[power] == 0)
        rates[power] = measured_copy((size_t)1 << power);
    return rates[power];
}
