/* Folding batch norms, 8 bits after training: thresholds, the network that comes out, and the files
 * it goes through. */
#include "kd_test.h"

#include "compress_nets.h"

#include "compress/fold.h"
#include "compress/possible.h"
#include "compress/quantise.h"
#include "models/int8.h"
#include "models/loaded.h"
#include "models/onnx.h"

#include <stdio.h>

enum { PICTURES = 12, CALIBRATION = 40 };

static void test_fold_is_the_same_function(void **state)
{
    (void)state;
    static const char *const models[] = {"shallow_cnn",     "cheap_cnn", "mobilenet_v2",
                                         "efficientnet_b0", "resnet18",  "mlp"};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        zoo_net n = net_zoo(models[i], 64);
        kd_graph *g;
        float *v;
        kd_diag diag = {0};
        kd_assert_ok(kd_fold(n.g, n.vector, &g, &v, &diag), &diag);
        for (int k = 0; k < g->n_nodes; k++)
            assert_int_not_equal(g->nodes[k].op, KD_OP_BATCH_NORM);
        float *z = net_logits(&n, n.g, n.vector, PICTURES), *f = net_logits(&n, g, v, PICTURES);
        /* The engine folds in the same way. */
        kd_assert_all_close(f, z, PICTURES * NET_CLASSES, 0, 1e-6 * net_largest(z, PICTURES));
        free(z);
        free(f);
        free(v);
        kd_graph_free(g);
        net_free(&n);
    }
}

static void test_fold_keeps_what_it_must(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(8, 8, 3);
    const int pad[4] = {1, 1, 1, 1};
    kd_diag diag = {0};
    /* The convolution is read by another node, too: its norm stays. */
    int x = kd_graph_conv(g, 0, "a", 6, 3, 1, pad, 1, false, KD_INIT_HE_NORMAL);
    x = kd_graph_add(g, kd_graph_batch_norm(g, x, "n", 1e-3F), x);
    x = kd_graph_dropout(g, kd_graph_global_avg_pool(g, x), 0.5F);
    x = kd_graph_dense(g, kd_graph_flatten(g, x), "fc", NET_CLASSES, true, KD_INIT_HE_NORMAL);
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    zoo_net n = net_of(g, 4);
    kd_graph *f;
    float *v;
    kd_assert_ok(kd_fold(g, n.vector, &f, &v, &diag), &diag);
    int norms = 0, drops = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        norms += f->nodes[i].op == KD_OP_BATCH_NORM;
        drops += f->nodes[i].op == KD_OP_DROPOUT;
    }
    assert_int_equal(norms, 1);
    assert_int_equal(drops, 0);
    float *z = net_logits(&n, g, n.vector, PICTURES), *y = net_logits(&n, f, v, PICTURES);
    kd_assert_all_close(y, z, PICTURES * NET_CLASSES, 0, 1e-6 * net_largest(z, PICTURES));
    free(z);
    free(y);
    kd_graph_free(f);
    free(v);
    net_free(&n);
}

/* ---- units and thresholds */

static void test_int8_units_are_exact(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, 0, 0);
    for (int i = 0; i < 2000; i++) {
        const float largest = ldexpf(kd_rng_float(&r) + 0.001F, (int)kd_rng_below(&r, 40) - 20);
        const float unit = kd_int8_unit_for(largest, KD_INT8_WEIGHT);
        assert_true((double)unit * 127 >= (double)largest * (1 - 1e-7));
        assert_true((double)unit * 127 <= (double)largest * (1 + 4e-5));
        for (int code = 1; code <= 255; code += 2)
            assert_true((double)(unit * (float)code) == (double)unit * code);
        assert_true((unit * 127) / 127 == unit && (unit * 255) / 255 == unit);
    }
    assert_true(kd_int8_unit_for(0, KD_INT8_WEIGHT) == 1);
    /* Codes of what was made of codes are those codes. */
    float w[64], back[64], units[4], again[4];
    int8_t codes[64], same[64];
    for (int i = 0; i < 64; i++)
        w[i] = kd_rng_float(&r) - 0.5F;
    memset(w + 16, 0, 16 * sizeof *w);
    kd_int8_codes(w, 4, 16, codes, units);
    memcpy(back, w, sizeof back);
    kd_int8_round(back, 4, 16);
    kd_int8_codes(back, 4, 16, same, again);
    assert_memory_equal(codes, same, sizeof codes);
    assert_memory_equal(units, again, sizeof units);
    for (int i = 0; i < 64; i++) {
        assert_true(back[i] == units[i / 16] * (float)codes[i]);
        assert_true(fabsf(back[i] - w[i]) <= units[i / 16] * 0.5001F);
    }
}

static void test_thresholds(void **state)
{
    (void)state;
    kd_histogram *h = kd_xalloc(sizeof *h);
    h->largest = 100;
    float x[4] = {0, -0.01F, 250, 99.99F};
    kd_histogram_add(h, x, 4);
    assert_int_equal(h->count[0], 1); /* zero does not count */
    assert_int_equal(h->count[KD_HISTOGRAM_BINS - 1], 2);
    /* A thousand small values and one outlier: all but minmax give the outlier up. */
    memset(h->count, 0, sizeof h->count);
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, 1, 0);
    for (int i = 0; i < 100000; i++) {
        const float v = (float)kd_rng_normal(&r);
        kd_histogram_add(h, &v, 1);
    }
    const float far = 100;
    kd_histogram_add(h, &far, 1);
    assert_true(kd_histogram_threshold(h, KD_CALIBRATE_MINMAX, 127, 99) == 100);
    kd_assert_close(kd_histogram_threshold(h, KD_CALIBRATE_PERCENTILE, 127, 95), 1.96, 0.05, 0);
    const float mse = kd_histogram_threshold(h, KD_CALIBRATE_MSE, 127, 99);
    const float kl = kd_histogram_threshold(h, KD_CALIBRATE_KL, 127, 99);
    print_message("mse cuts at %.2f, kl at %.2f of 100\n", (double)mse, (double)kl);
    assert_true(mse > 2.5F && mse < 90);
    assert_true(kl > 2.5F && kl < 20);
    assert_int_equal(kd_calibrate_of("kl"), KD_CALIBRATE_KL);
    assert_int_equal(kd_calibrate_of("auto"), KD_CALIBRATE_AUTO);
    assert_int_equal(kd_calibrate_of("entropy"), -1);
    assert_string_equal(kd_calibrate_word(KD_CALIBRATE_PERCENTILE), "percentile");
    free(h);
}

/* ---- quantising */

static kd_quantised quantised(zoo_net *n, enum kd_calibrate method)
{
    kd_quantised q;
    kd_diag diag = {0};
    const kd_quantise_options opt = {
        .method = method, .percentile = 99.9, .n = CALIBRATION, .picture = zoo_give, .arg = n};
    kd_assert_ok(kd_quantise(n->g, n->vector, &opt, &q, &diag), &diag);
    return q;
}

static void test_quantise_zoo(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        int size;
        int least;    /* convolutions in 8 bits */
        double worst; /* share of the largest logit */
    } nets[] = {{"shallow_cnn", 64, 1, 0.05},
                {"cheap_cnn", 64, 4, 0.15},
                {"mobilenet_v2", 64, 50, 0.9},
                {"resnet18", 32, 18, 0.2}};
    for (size_t i = 0; i < KD_COUNT(nets); i++)
        for (int m = KD_CALIBRATE_MINMAX; m <= KD_CALIBRATE_KL; m++) {
            zoo_net n = net_zoo(nets[i].model, nets[i].size);
            kd_quantised q = quantised(&n, (enum kd_calibrate)m);
            float *z = net_logits(&n, n.g, n.vector, PICTURES);
            float *y = net_logits(&n, q.graph, q.vector, PICTURES);
            double off = 0;
            for (int k = 0; k < PICTURES * NET_CLASSES; k++)
                off = fmax(off, fabs((double)y[k] - (double)z[k]));
            off /= net_largest(z, PICTURES);
            print_message("%s, %s: %d of %d convolutions, off by %.3f, %zu of %d agree, KL %.5f\n",
                          nets[i].model, kd_calibrate_word((enum kd_calibrate)m), q.int8,
                          q.convolutions, off, q.agree, CALIBRATION, q.kl);
            assert_int_equal(q.method, m);
            assert_true(q.int8 >= nets[i].least);
            assert_true(off < nets[i].worst && off > 1e-6);
            assert_true(q.agree >= CALIBRATION * 3 / 4);
            assert_true(q.kl >= 0);
            free(z);
            free(y);
            kd_quantised_clear(&q);
            net_free(&n);
        }
}

/* Of all methods the one after which the answers are nearest to float32's: the same network as if
 * it had been named. EfficientNet's gates, sigmoids of means, are what methods differ most on. */
static void test_quantise_auto(void **state)
{
    (void)state;
    static const char *const models[] = {"efficientnet_b0", "cheap_cnn"};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        zoo_net n = net_zoo(models[i], 32);
        kd_quantised best = {.kl = INFINITY}, chosen = quantised(&n, KD_CALIBRATE_AUTO);
        for (int m = KD_CALIBRATE_MINMAX; m <= KD_CALIBRATE_KL; m++) {
            kd_quantised q = quantised(&n, (enum kd_calibrate)m);
            print_message("%s, %s: %zu of %d agree, KL %.5f\n", models[i],
                          kd_calibrate_word((enum kd_calibrate)m), q.agree, CALIBRATION, q.kl);
            if (q.kl < best.kl) {
                kd_quantised_clear(&best);
                best = q;
            } else {
                kd_quantised_clear(&q);
            }
        }
        assert_int_equal(chosen.method, best.method);
        assert_int_equal(chosen.agree, best.agree);
        assert_true(chosen.kl == best.kl);
        for (int k = 0; k < best.graph->n_nodes; k++)
            assert_true(chosen.graph->nodes[k].range == best.graph->nodes[k].range);
        assert_memory_equal(chosen.vector, best.vector,
                            best.graph->vector_len * sizeof *best.vector);
        /* Before the parameters are rounded it is known, too. */
        kd_quantised half;
        kd_diag diag = {0};
        const kd_quantise_options opt = {.method = KD_CALIBRATE_AUTO,
                                         .percentile = 99.9,
                                         .n = CALIBRATION,
                                         .picture = zoo_give,
                                         .arg = &n};
        kd_assert_ok(kd_quantise_calibrate(n.g, n.vector, &opt, &half, &diag), &diag);
        assert_int_equal(half.method, best.method);
        assert_true(half.kl == best.kl);
        kd_assert_ok(kd_quantise_round(half.graph, half.vector, &diag), &diag);
        assert_memory_equal(half.vector, best.vector, best.graph->vector_len * sizeof *half.vector);
        kd_quantised_clear(&half);
        kd_quantised_clear(&best);
        kd_quantised_clear(&chosen);
        net_free(&n);
    }
    const kd_quantised few = {.agree = 37}, enough = {.agree = 38};
    assert_true(kd_quantised_doubtful(&few, 40) && !kd_quantised_doubtful(&enough, 40));
}

struct asked {
    zoo_net *net;
    size_t n;
};

static int give_counted(void *arg, size_t i, float *input, kd_diag *diag)
{
    struct asked *a = arg;
    a->n++;
    return zoo_give(a->net, i, input, diag);
}

/* As far as there is room pictures are asked for once, and what comes out is the same. */
static void test_quantise_keeps_pictures(void **state)
{
    (void)state;
    zoo_net n = net_zoo("cheap_cnn", 32);
    kd_quantised want = quantised(&n, KD_CALIBRATE_AUTO);
    const size_t bytes = n.picture * sizeof(float);
    const struct {
        enum kd_calibrate method;
        size_t keep_bytes, asked;
    } cases[] = {{KD_CALIBRATE_AUTO, CALIBRATION * bytes, CALIBRATION},
                 {KD_CALIBRATE_AUTO, 15 * bytes + 1, 15 + 6 * (CALIBRATION - 15)},
                 {KD_CALIBRATE_AUTO, 0, 1 + 6 * (CALIBRATION - 1)}, /* the first is always kept */
                 {KD_CALIBRATE_KL, 0, 1 + 3 * (CALIBRATION - 1)},
                 {KD_CALIBRATE_MINMAX, 0, 1 + 2 * (CALIBRATION - 1)}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        struct asked asked = {.net = &n};
        const kd_quantise_options opt = {.method = cases[i].method,
                                         .percentile = 99.9,
                                         .n = CALIBRATION,
                                         .keep_bytes = cases[i].keep_bytes,
                                         .picture = give_counted,
                                         .arg = &asked};
        kd_quantised q;
        kd_diag diag = {0};
        kd_assert_ok(kd_quantise(n.g, n.vector, &opt, &q, &diag), &diag);
        assert_int_equal(asked.n, cases[i].asked);
        if (cases[i].method == KD_CALIBRATE_AUTO) {
            assert_true(q.method == want.method && q.kl == want.kl);
            assert_memory_equal(q.vector, want.vector, q.graph->vector_len * sizeof *q.vector);
        }
        kd_quantised_clear(&q);
    }
    kd_quantised_clear(&want);
    net_free(&n);
}

/* Written and read again, as either kind of file, it is the same network, bit for bit. */
static void test_quantised_files(void **state)
{
    (void)state;
    static const char *const models[] = {"shallow_cnn", "mobilenet_v2", "resnet18"};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        zoo_net n = net_zoo(models[i], 64);
        kd_quantised q = quantised(&n, KD_CALIBRATE_MSE);
        float *want = net_logits(&n, q.graph, q.vector, PICTURES);
        const size_t floats = q.graph->vector_len * sizeof(float);
        for (int onnx = 0; onnx < 2; onnx++) {
            kd_model_file_info info = {
                .model = "m", .has_preprocess = true, .size = 64, .job = "1234"};
            const kd_digest digest = kd_digest_of(q.vector, floats);
            kd_digest_hex(&digest, info.digest);
            const kd_onnx_write_options opt = {.opset = 13, .info = &info};
            kd_diag diag = {0};
            kd_loaded l;
            kd_buf b;
            kd_buf_init(&b, 64u << 20);
            kd_assert_ok(onnx ? kd_onnx_write(q.graph, q.vector, &opt, &b, &diag)
                              : kd_loaded_pack(q.graph, q.vector, &info, &b, &diag),
                         &diag);
            /* Names and numbers of the graph are the rest. */
            assert_true(b.len < floats / 2 + 200000);
            kd_assert_ok(kd_loaded_open((uint8_t *)b.data, b.len, "f", &l, &diag), &diag);
            assert_true(kd_graph_is_int8(l.graph));
            assert_int_equal(l.graph->n_nodes, q.graph->n_nodes);
            for (int k = 0; k < q.graph->n_nodes; k++)
                assert_true(l.graph->nodes[k].range == q.graph->nodes[k].range);
            assert_memory_equal(l.vector, q.vector, floats);
            for (int k = 0; k < l.graph->n_params; k++)
                assert_int_equal(l.types[k], l.graph->params[k].ndim > 1 ? KD_ST_I8 : KD_ST_F32);
            float *z = net_logits(&n, l.graph, l.vector, PICTURES);
            assert_memory_equal(z, want, PICTURES * NET_CLASSES * sizeof *z);
            free(z);
            kd_loaded_clear(&l);
            kd_buf_clear(&b);
        }
        free(want);
        kd_quantised_clear(&q);
        net_free(&n);
    }
}

static int give_one(void *arg, size_t i, float *input, kd_diag *diag)
{
    return zoo_give(arg, i % 8, input, diag);
}

static int give_alike(void *arg, size_t i, float *input, kd_diag *diag)
{
    const zoo_net *n = arg;
    zoo_give(arg, 0, input, diag);
    input[i % n->picture] += 0.001F;
    return 0;
}

static void test_quantise_refuses(void **state)
{
    (void)state;
    zoo_net n = net_zoo("shallow_cnn", 32);
    kd_quantised q;
    kd_diag diag = {0};
    kd_quantise_options opt = {.n = 31, .picture = zoo_give, .arg = &n};
    kd_assert_fails(kd_quantise(n.g, n.vector, &opt, &q, &diag), KD_EINVAL, &diag, "31 pictures");
    opt.n = 64;
    opt.picture = give_one;
    kd_assert_fails(kd_quantise(n.g, n.vector, &opt, &q, &diag), KD_EINVAL, &diag, "only 8 differ");
    opt.picture = give_alike;
    kd_assert_fails(kd_quantise(n.g, n.vector, &opt, &q, &diag), KD_EINVAL, &diag, "all alike");
    net_free(&n);
    n = net_zoo("mlp", 16);
    opt.picture = zoo_give;
    kd_assert_fails(kd_quantise(n.g, n.vector, &opt, &q, &diag), KD_EUNSUP, &diag,
                    "0 convolutions");
    net_free(&n);
}

/* ---- before anything is trained */

static int possible(const char *student, const char *steps, kd_diag *diag)
{
    char text[1000];
    kd_job *job = kd_xalloc(sizeof *job);
    kd_diag bad = {0};
    snprintf(
        text, sizeof text,
        "name: n\ndata: {labelled: {path: p, val_share: 0.2, size: 32}}\n"
        "teacher: {model: mobilenet_v2, weights: w.safetensors}\nstudent: %s\ncompress: [%s]\n",
        student, steps);
    kd_assert_ok(kd_job_load(text, strlen(text), "job", NULL, 0, job, &bad), &bad);
    *diag = (kd_diag){0};
    const int rc = kd_compress_possible(job, diag);
    free(job);
    return rc;
}

static void test_possible(void **state)
{
    (void)state;
    kd_diag diag;
    kd_assert_fails(possible("{model: mlp}", "{quantize: int8}", &diag), KD_EINVAL, &diag,
                    "compress[0]: none of the network's 0 convolutions can run in 8 bits");
    kd_assert_fails(possible("{model: lenet}", "{prune: 0.5}, {quantize: int8}", &diag), KD_EINVAL,
                    &diag, "compress[1]: none of the network's 2 convolutions");
    kd_assert_fails(
        possible("{model: shallow_cnn}", "{channels: {share: 0.1, multiple: 512}}", &diag),
        KD_EINVAL, &diag, "compress[0]: none of the network's channels can go");
    kd_assert_ok(possible("{model: lenet}", "{prune: 0.5}, {weights: bfloat16}", &diag), &diag);
    kd_assert_ok(possible("{model: shallow_cnn}",
                          "{quantize: int8}, {channels: 0.5}, {prune: 0.5}, "
                          "{channels: {share: 0.25, from: student}}, {quantize: int8}",
                          &diag),
                 &diag);
    /* What a step before has left is what counts: one channel a layer. */
    kd_assert_fails(possible("{model: shallow_cnn}", "{channels: 0.999}, {channels: 0.9}", &diag),
                    KD_EINVAL, &diag, "compress[1]: none of the network's channels can go");
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    kd_engine_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fold_is_the_same_function),
        cmocka_unit_test(test_fold_keeps_what_it_must),
        cmocka_unit_test(test_int8_units_are_exact),
        cmocka_unit_test(test_thresholds),
        cmocka_unit_test(test_quantise_zoo),
        cmocka_unit_test(test_quantise_auto),
        cmocka_unit_test(test_quantise_keeps_pictures),
        cmocka_unit_test(test_quantised_files),
        cmocka_unit_test(test_quantise_refuses),
        cmocka_unit_test(test_possible),
    };
    return cmocka_run_group_tests_name("compress", tests, NULL, NULL);
}
