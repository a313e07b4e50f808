#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#include <dnnl.h>

#include "engine/ops/gemm.h"
#include "engine/plan.h"
#include "kd/rng.h"

/* The OpenBLAS kernels that fit this CPU; NULL = leave the choice to the library. By features, not
 * by model, so that CPUs of one kind compute the same bits. */
static const char *blas_core(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return __builtin_cpu_is("amd") ? "Zen" : "Haswell";
#endif
    return NULL;
}

void kd_engine_mend_blas(char **argv)
{
    const char *core = blas_core();
    const bool set_core = core && !getenv("OPENBLAS_CORETYPE");
    const bool set_threads = !getenv("OPENBLAS_NUM_THREADS");
    if (getenv("KD_BLAS_SET") || (!set_core && !set_threads))
        return;
    if (setenv("KD_BLAS_SET", "1", 1) || (set_core && setenv("OPENBLAS_CORETYPE", core, 1)) ||
        (set_threads && setenv("OPENBLAS_NUM_THREADS", "1", 1)))
        return;
    /* If it fails the program goes on with the kernels it has; the log of kd_engine_info tells. */
    execv("/proc/self/exe", argv);
}

void kd_engine_thread(void)
{
    omp_set_num_threads(1);
    openblas_set_num_threads(1);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() & ~0x8040U); /* flush-to-zero and denormals-are-zero off */
#endif
}

/* ---- the battery */

static kd_graph *finished(kd_graph *g, int output, kd_diag *diag)
{
    if (kd_graph_finish(g, output, diag) == 0)
        return g;
    kd_graph_free(g);
    return NULL;
}

/* The kernel families of small networks once: strided, depthwise, 1x1 and plain convolutions, both
 * batch norms, pools, residual, dense. */
static kd_graph *battery_plain(kd_diag *diag)
{
    kd_graph *g = kd_graph_new(33, 33, 3);
    const int same2[4] = {0, 0, 1, 1}, same[4] = {1, 1, 1, 1}, none[4] = {0, 0, 0, 0};
    int x = kd_graph_conv(g, 0, "stem", 32, 3, 2, same2, 1, false, KD_INIT_HE_NORMAL);
    x = kd_graph_relu6(g, kd_graph_batch_norm(g, x, "stem_bn", 1e-3F));
    x = kd_graph_conv(g, x, "depthwise", 32, 3, 1, same, 32, false, KD_INIT_HE_NORMAL);
    x = kd_graph_relu6(g, kd_graph_batch_norm(g, x, "depthwise_bn", 1e-3F));
    x = kd_graph_conv(g, x, "project", 24, 1, 1, none, 1, false, KD_INIT_HE_NORMAL);
    const int skip = kd_graph_batch_norm(g, x, "project_bn", 1e-3F);
    x = kd_graph_conv(g, skip, "expand", 24, 3, 1, same, 1, false, KD_INIT_HE_NORMAL);
    x = kd_graph_add(g, kd_graph_batch_norm(g, x, "expand_bn", 1e-3F), skip);
    x = kd_graph_relu(g,
                      kd_graph_conv(g, x, "wide", 64, 3, 1, none, 1, true, KD_INIT_TORCH_UNIFORM));
    x = kd_graph_max_pool(g, x, 2);
    x = kd_graph_flatten(g, kd_graph_global_avg_pool(g, x));
    x = kd_graph_relu(g, kd_graph_dense(g, x, "hidden", 96, false, KD_INIT_GLOROT_UNIFORM));
    x = kd_graph_dense(g, x, "head", 10, true, KD_INIT_GLOROT_UNIFORM);
    return finished(g, x, diag);
}

/* The others: activations that need exp, squeeze-excite, large depthwise and dilated kernels,
 * windows that overlap, broadcasts, softmax; a convolution that Winograd's algorithm does. */
static kd_graph *battery_rich(kd_diag *diag)
{
    kd_graph *g = kd_graph_new(33, 33, 3);
    const int same[4] = {1, 1, 1, 1}, two[4] = {2, 2, 2, 2}, none[4] = {0, 0, 0, 0};
    const kd_conv_spec dilated = {.out_channels = 32,
                                  .kernel_h = 3,
                                  .kernel_w = 3,
                                  .dilation_h = 2,
                                  .dilation_w = 2,
                                  .pad = {2, 2, 2, 2}};
    const kd_pool_spec max = {
        .kernel_h = 3, .kernel_w = 3, .stride_h = 2, .stride_w = 2, .pad = {1, 1, 1, 1}};
    kd_pool_spec average = max;
    average.average = true;
    int x = kd_graph_conv(g, 0, "stem", 32, 3, 2, same, 1, false, KD_INIT_HE_NORMAL);
    x = kd_graph_silu(g, kd_graph_batch_norm(g, x, "stem_bn", 1e-3F));
    x = kd_graph_conv(g, x, "depthwise", 32, 5, 1, two, 32, false, KD_INIT_HE_NORMAL);
    x = kd_graph_hard_swish(g, kd_graph_batch_norm(g, x, "depthwise_bn", 1e-3F));
    int s = kd_graph_global_avg_pool(g, x);
    s = kd_graph_tanh(g, kd_graph_conv(g, s, "squeeze", 8, 1, 1, none, 1, true, KD_INIT_HE_NORMAL));
    s = kd_graph_conv(g, s, "excite", 32, 1, 1, none, 1, true, KD_INIT_HE_NORMAL);
    x = kd_graph_mul(g, x, kd_graph_sigmoid(g, s));
    x = kd_graph_relu(g, kd_graph_conv(g, x, "square", 32, 3, 1, same, 1, true, KD_INIT_HE_NORMAL));
    const int y = kd_graph_leaky_relu(g, kd_graph_conv2(g, x, "dilated", &dilated), 0.1F);
    x = kd_graph_concat(g, kd_graph_pool(g, x, &max), kd_graph_pool(g, y, &average), KD_AXIS_C);
    x = kd_graph_div(g, kd_graph_softmax(g, x), kd_graph_sigmoid(g, x));
    x = kd_graph_flatten(g, x);
    x = kd_graph_dense(g, x, "head", 10, true, KD_INIT_GLOROT_UNIFORM);
    return finished(g, x, diag);
}

enum { BATTERY_BATCH = 4, BATTERY_CLASSES = 10, BATTERY_PICTURE = 33 * 33 * 3 };

/* A plan's logits and, in training, its gradient. Takes the plan. vector NULL: it is loaded. */
static int battery_plan(kd_plan *p, const kd_graph *g, bool train, const float *vector,
                        const float *input, float *gradient, kd_hasher *h, kd_diag *diag)
{
    float logits[BATTERY_BATCH * BATTERY_CLASSES];
    int rc = vector ? kd_plan_load(p, vector, diag) : 0;
    if (!rc)
        rc = kd_plan_forward(p, input, logits, diag);
    if (!rc)
        kd_hasher_add(h, logits, sizeof logits);
    if (!rc && train)
        rc = kd_plan_backward(p, logits, 1, gradient, diag);
    if (!rc && train)
        kd_hasher_add(h, gradient, g->vector_len * sizeof *gradient);
    kd_plan_free(p);
    return rc;
}

/* A machine may have no kernels for narrow numbers, and compute the rest. */
static int unless_missing(int rc)
{
    return rc == -KD_EUNSUP ? 0 : rc;
}

static int battery_run(const kd_graph *g, enum kd_plan_use use, const float *vector,
                       const float *input, float *gradient, kd_hasher *h, kd_diag *diag)
{
    const bool train = use != KD_PLAN_INFER;
    float *largest = kd_xalloc((size_t)g->n_nodes * sizeof *largest);
    kd_plan *p = NULL;
    int rc = kd_plan_new(g, BATTERY_BATCH, use, &p, diag), made;
    if (!rc && !train)
        kd_plan_watch(p, largest);
    if (!rc)
        rc = battery_plan(p, g, train, vector, input, gradient, h, diag);
    if (!rc && !train) {
        made = kd_plan_new_int8(g, BATTERY_BATCH, vector, largest, NULL, &p, diag);
        rc =
            made ? unless_missing(made) : battery_plan(p, g, train, NULL, input, gradient, h, diag);
    }
    if (!rc) {
        made = kd_plan_new_bfloat16(g, BATTERY_BATCH, use, &p, diag);
        rc = made ? unless_missing(made)
                  : battery_plan(p, g, train, vector, input, gradient, h, diag);
    }
    free(largest);
    return rc;
}

static void battery_math(kd_rng *r, kd_hasher *h)
{
    for (int i = 0; i < 256; i++) {
        const double x = 8 * kd_rng_double(r) - 4;
        const double values[] = {exp(x), log(fabs(x) + 1e-3)};
        const float narrow[] = {expf((float)x), logf((float)fabs(x) + 1e-3F)};
        kd_hasher_add(h, values, sizeof values);
        kd_hasher_add(h, narrow, sizeof narrow);
    }
}

static int battery_gemm(kd_rng *r, kd_hasher *h, kd_diag *diag)
{
    enum { M = 48, N = 80, K = 300 };
    float *a = malloc(sizeof(float) * (M * K + K * N + M * N));
    if (!a)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for the numeric fingerprint.");
    float *b = a + M * K, *c = b + K * N;
    for (int i = 0; i < M * K + K * N; i++)
        a[i] = kd_rng_float(r) - 0.5F;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, N, K, 1, a, K, b, N, 0, c, N);
    kd_hasher_add(h, c, sizeof(float) * M * N);
    if (kd_gemm_supported()) {
        kd_gemm_run(&(kd_gemm){.m = M,
                               .n = N,
                               .k = K,
                               .a = a,
                               .a_row = K,
                               .a_column = 1,
                               .b = b,
                               .b_row = N,
                               .c = c,
                               .c_row = N});
        kd_hasher_add(h, c, sizeof(float) * M * N);
    }
    free(a);
    return 0;
}

/* Takes the graph, NULL with the reason in diag. */
static int battery_net(kd_graph *g, kd_rng *r, kd_hasher *h, kd_diag *diag)
{
    static const enum kd_plan_use uses[] = {KD_PLAN_INFER, KD_PLAN_TRAIN, KD_PLAN_TRAIN_FROZEN_BN};
    if (!g)
        return diag && diag->code ? diag->code : -KD_EINTERNAL;
    const size_t inputs = (size_t)BATTERY_BATCH * BATTERY_PICTURE;
    float *vector = malloc(sizeof(float) * (2 * g->vector_len + inputs));
    int rc = vector ? 0 : kd_fail(diag, -KD_ENOMEM, "Out of memory for the fingerprint.");
    if (!rc) {
        float *gradient = vector + g->vector_len, *input = gradient + g->vector_len;
        kd_graph_init(g, 1, vector);
        for (size_t i = 0; i < inputs; i++)
            input[i] = 2 * kd_rng_float(r) - 1;
        for (size_t i = 0; !rc && i < KD_COUNT(uses); i++)
            rc = battery_run(g, uses[i], vector, input, gradient, h, diag);
    }
    free(vector);
    kd_graph_free(g);
    return rc;
}

static int battery(kd_digest *out, kd_diag *diag)
{
    kd_hasher *h = kd_hasher_new();
    if (!h)
        return kd_fail(diag, -KD_ENOMEM, "Out of memory for the fingerprint.");
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_PROBE, 0, 0);
    int rc = battery_net(battery_plain(diag), &r, h, diag);
    if (!rc)
        rc = battery_net(battery_rich(diag), &r, h, diag);
    if (!rc)
        rc = battery_gemm(&r, h, diag);
    battery_math(&r, h);
    if (!rc)
        *out = kd_hasher_digest(h);
    kd_hasher_free(h);
    return rc;
}

/* ---- names */

static void cpu_name(char *out, size_t size)
{
    snprintf(out, size, "unknown CPU");
#if defined(__x86_64__)
    unsigned brand[12];
    if ((unsigned)__get_cpuid_max(0x80000000U, NULL) < 0x80000004U)
        return;
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002U + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2],
                    &brand[4 * i + 3]);
    char text[sizeof brand + 1];
    memcpy(text, brand, sizeof brand);
    text[sizeof brand] = '\0';
    const char *start = text + strspn(text, " ");
    size_t len = strlen(start);
    while (len > 0 && start[len - 1] == ' ')
        len--;
    snprintf(out, size, "%.*s", (int)len, start);
#endif
}

static const char *isa_name(dnnl_cpu_isa_t isa)
{
    switch (isa) {
    case dnnl_cpu_isa_sse41:
        return "sse4.1";
    case dnnl_cpu_isa_avx:
        return "avx";
    case dnnl_cpu_isa_avx2:
        return "avx2";
    case dnnl_cpu_isa_avx2_vnni:
        return "avx2 vnni";
    case dnnl_cpu_isa_avx512_core:
        return "avx512";
    case dnnl_cpu_isa_avx512_core_vnni:
        return "avx512 vnni";
    case dnnl_cpu_isa_avx512_core_bf16:
        return "avx512 bf16";
    case dnnl_cpu_isa_avx512_core_amx:
        return "avx512 amx";
    case dnnl_cpu_isa_all:
        break;
    default: /* older members of the enum differ between oneDNN's versions */
        break;
    }
    return "other";
}

int kd_engine_info_get(kd_engine_info *out, kd_diag *diag)
{
    kd_engine_info info = {0};
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    openblas_set_num_threads(1); /* for the whole process, and nothing here ever wants more */
    const int rc = battery(&info.numerics, diag);
    omp_set_num_threads(threads);
    if (rc)
        return rc;
    const dnnl_version_t *v = dnnl_version();
    cpu_name(info.cpu, sizeof info.cpu);
    snprintf(info.blas, sizeof info.blas, "%s", openblas_get_corename());
    snprintf(info.isa, sizeof info.isa, "%s", isa_name(dnnl_get_effective_cpu_isa()));
    snprintf(info.onednn, sizeof info.onednn, "%d.%d.%d", v->major, v->minor, v->patch);
    *out = info;
    return 0;
}
