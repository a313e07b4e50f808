/* ONNX in and out: models in the manner of PyTorch and TensorFlow against ONNX Runtime's answers,
 * what is refused, new heads, external data, and everything that our graphs have there and back. */
#include "kd_test.h"

#include "kd_golden.h"
#include "kd_onnx_made.h"
#include "nets_ops.h"

#include "models/graph_json.h"
#include "models/models.h"
#include "models/onnx_model.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "tests/golden/onnx"
#define SIZE 12
#define BATCH 2

static const kd_onnx_read_options as_it_is = {.folder_fd = -1};

static char *read_file(const char *path, size_t *out_len)
{
    char *bytes;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, 64u << 20, &bytes, out_len, &diag), &diag);
    return bytes;
}

/* Reads a golden model and compares its logits with ONNX Runtime's. Float32 sums of some hundred
 * terms in another order, through at most six layers: 1e-4 is far above that. */
static onnx_read check_golden(const char *name, const kd_onnx_read_options *opt)
{
    char path[256];
    size_t len;
    onnx_read r;
    snprintf(path, sizeof path, FOLDER "/%s.onnx", name);
    char *bytes = read_file(path, &len);
    kd_assert_ok(onnx_read_bytes(bytes, len, opt, &r), &r.diag);
    free(bytes);
    json_t *all = kd_golden_load(FOLDER "/expected.json");
    const json_t *one = kd_golden_get(all, name);
    enum { PIXELS = SIZE * SIZE, VALUES = 3 * PIXELS };
    float in[BATCH * VALUES], nhwc[BATCH * VALUES], want[BATCH * 16];
    kd_golden_floats(one, "input", in, BATCH * VALUES);
    const size_t classes = (size_t)r.g->nodes[r.g->output].c;
    kd_golden_floats(one, "logits", want, BATCH * classes);
    for (size_t b = 0; b < BATCH; b++)
        for (size_t p = 0; p < PIXELS; p++)
            for (size_t c = 0; c < 3; c++)
                nhwc[b * VALUES + p * 3 + c] =
                    r.info.nhwc ? in[b * VALUES + p * 3 + c] : in[b * VALUES + c * PIXELS + p];
    float *got = onnx_run(r.g, r.vector, nhwc, BATCH);
    kd_assert_all_close(got, want, BATCH * classes, 1e-4, 1e-5);
    /* The test would see a network that says the same to all. */
    assert_true(fabsf(want[0] - want[classes]) > 1e-3f);
    free(got);
    json_decref(all);
    return r;
}

static void assert_param(const kd_graph *g, const char *name, enum kd_param_kind kind, bool head)
{
    const kd_param *p = kd_graph_param(g, name);
    if (!p)
        fail_msg("there is no parameter %s", name);
    assert_int_equal(p->kind, kind);
    assert_int_equal(p->head, head);
}

static int count_op(const kd_graph *g, enum kd_op op)
{
    int n = 0;
    for (int i = 0; i < g->n_nodes; i++)
        n += g->nodes[i].op == op;
    return n;
}

static void test_onnx_torch_style(void **state)
{
    (void)state;
    const kd_onnx_read_options opt = {.folder_fd = -1, .size = SIZE};
    onnx_read r = check_golden("torch_style", &opt);
    assert_false(r.info.nhwc || r.info.softmax || r.new_head);
    assert_int_equal(r.info.size, SIZE);
    assert_false(r.info.file.has_preprocess || r.info.ours);
    assert_param(r.g, "stem.0.weight", KD_PARAM_TRAINED, false);
    assert_param(r.g, "stem.1.weight", KD_PARAM_TRAINED, false);
    assert_param(r.g, "stem.1.running_mean", KD_PARAM_STATISTIC, false);
    assert_param(r.g, "stem.1.running_var", KD_PARAM_STATISTIC, false);
    assert_param(r.g, "block.dw.bias", KD_PARAM_TRAINED, false);
    assert_param(r.g, "fc1.weight", KD_PARAM_TRAINED, false);
    assert_param(r.g, "fc2.weight", KD_PARAM_TRAINED, true);
    assert_param(r.g, "fc2.bias", KD_PARAM_TRAINED, true);
    /* A convolution without bias gets none; x * sigmoid(x) is one operator; the shape's tail left
     * nothing; dropout stays for training. */
    assert_null(kd_graph_param(r.g, "stem.0.bias"));
    assert_int_equal(count_op(r.g, KD_OP_SILU), 1);
    assert_int_equal(count_op(r.g, KD_OP_RELU6), 1);
    assert_int_equal(count_op(r.g, KD_OP_DROPOUT), 1);
    assert_int_equal(count_op(r.g, KD_OP_RESHAPE), 0);
    onnx_read_clear(&r);
}

static void test_onnx_tf_style(void **state)
{
    (void)state;
    onnx_read r = check_golden("tf_style", &as_it_is);
    assert_true(r.info.nhwc && r.info.softmax);
    assert_int_equal(r.info.size, SIZE);
    assert_param(r.g, "sequential/conv/kernel:0.weight", KD_PARAM_TRAINED, false);
    assert_param(r.g, "sequential/dense/kernel:0.weight", KD_PARAM_TRAINED, true);
    /* The additions became biases, the padding part of its convolution, transposes nothing. */
    assert_param(r.g, "sequential/conv2/kernel:0.bias", KD_PARAM_TRAINED, false);
    assert_param(r.g, "sequential/dense/kernel:0.bias", KD_PARAM_TRAINED, true);
    assert_param(r.g, "scale.value", KD_PARAM_FIXED, false);
    assert_param(r.g, "shift.value", KD_PARAM_FIXED, false);
    assert_int_equal(count_op(r.g, KD_OP_ADD), 0);
    assert_int_equal(count_op(r.g, KD_OP_PAD), 0);
    assert_int_equal(count_op(r.g, KD_OP_PERMUTE), 0);
    assert_int_equal(count_op(r.g, KD_OP_SOFTMAX), 0);
    onnx_read_clear(&r);
}

static void test_onnx_size(void **state)
{
    (void)state;
    size_t len;
    char *bytes = read_file(FOLDER "/torch_style.onnx", &len);
    onnx_read r;
    kd_onnx_read_options opt = as_it_is;
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_EINVAL, &r.diag,
                    "--size in a command");
    /* Its dense layer was made for 12 pixels: 24 are told apart from a fitting size. */
    opt.size = 24;
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_EDATA, &r.diag, "fc1");
    free(bytes);
    bytes = read_file(FOLDER "/tf_style.onnx", &len);
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_EINVAL, &r.diag,
                    "12 pixels a side, not 24");
    free(bytes);
}

/* ---- external data */

static void copy_file(const char *from, const char *folder, const char *to)
{
    char path[512];
    size_t len;
    kd_diag diag = {0};
    char *bytes = read_file(from, &len);
    snprintf(path, sizeof path, "%s/%s", folder, to);
    kd_assert_ok(kd_file_write(path, bytes, len, &diag), &diag);
    free(bytes);
}

static void test_onnx_external(void **state)
{
    (void)state;
    const int fd = open(FOLDER, O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0);
    kd_onnx_read_options opt = {.folder_fd = fd};
    onnx_read r = check_golden("external", &opt);
    onnx_read_clear(&r);
    close(fd);
    size_t len;
    char *bytes = read_file(FOLDER "/external.onnx", &len);
    kd_assert_fails(onnx_read_bytes(bytes, len, &as_it_is, &r), KD_EUNSUP, &r.diag, "external.bin");
    /* A link out of the folder, a file that is too short, a pipe, a folder, nothing. */
    char *folder = kd_test_mkdir(), path[512];
    mkdir((snprintf(path, sizeof path, "%s/in", folder), path), 0700);
    copy_file(FOLDER "/external.bin", folder, "secret.bin");
    opt.folder_fd = open(path, O_RDONLY | O_DIRECTORY);
    assert_true(opt.folder_fd >= 0);
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_ENOENT, &r.diag, "external.bin");
    snprintf(path, sizeof path, "%s/in/external.bin", folder);
    assert_int_equal(symlink("../secret.bin", path), 0);
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_EPERM, &r.diag, "leads out");
    assert_int_equal(unlink(path), 0);
    copy_file(FOLDER "/external.bin", folder, "in/external.bin");
    kd_assert_ok(onnx_read_bytes(bytes, len, &opt, &r), &r.diag);
    onnx_read_clear(&r);
    assert_int_equal(truncate(path, 5183), 0);
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_EDATA, &r.diag, "beyond the end");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_EDATA, &r.diag, "plain file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    kd_assert_fails(onnx_read_bytes(bytes, len, &opt, &r), KD_EDATA, &r.diag, "plain file");
    free(bytes);
    /* Paths that leave by themselves. */
    static const char *const out[] = {"../secret.bin", "/etc/passwd", "a/../../secret.bin"};
    for (size_t i = 0; i < KD_COUNT(out); i++) {
        onnx_made *m = made_new(13, 4, (const int64_t[]){1, 3, 2, 2});
        Onnx__TensorProto *t = made_weight(m, "w", 2, (const int64_t[]){3, 12});
        Onnx__StringStringEntryProto entry = ONNX__STRING_STRING_ENTRY_PROTO__INIT,
                                     *entries = &entry;
        entry.key = made_text(m, "location");
        entry.value = made_text(m, out[i]);
        t->has_raw_data = false;
        t->has_data_location = true;
        t->data_location = 1;
        t->external_data = &entries;
        t->n_external_data = 1;
        made_node(m, "Flatten", "input", "f");
        made_int(m, made_node(m, "Gemm", "f w", "out"), "transB", 1);
        kd_buf b = made_bytes(m);
        const int rc = onnx_read_bytes(b.data, b.len, &opt, &r);
        assert_true(rc == -KD_EPERM || rc == -KD_ENOENT);
        assert_non_null(strstr(r.diag.msg, out[i]));
        kd_buf_clear(&b);
        made_free(m);
    }
    close(opt.folder_fd);
    kd_test_rmdir(folder);
}

/* ---- refusals */

static void assert_refused(onnx_made *m, int code, const char *part)
{
    onnx_read r;
    kd_buf b = made_bytes(m);
    kd_assert_fails(onnx_read_bytes(b.data, b.len, &as_it_is, &r), code, &r.diag, part);
    kd_buf_clear(&b);
    made_free(m);
}

static onnx_made *image_model(int opset)
{
    return made_new(opset, 4, (const int64_t[]){0, 3, 8, 8});
}

static void test_onnx_refusals(void **state)
{
    (void)state;
    onnx_made *m = image_model(13);
    made_node(m, "Hadamard", "input", "out");
    assert_refused(m, KD_EUNSUP, "node out (Hadamard): the operator Hadamard is not supported");

    m = image_model(13);
    made_node(m, "Relu", "input", "out")->domain = made_text(m, "com.example");
    assert_refused(m, KD_EUNSUP, "com.example");

    m = image_model(13);
    made_int(m, made_node(m, "Relu", "input", "out"), "sparsity", 1);
    assert_refused(m, KD_EUNSUP, "node out (Relu): the attribute sparsity");

    m = image_model(13);
    made_list(m, "p", 8, (const int64_t[]){0, 0, 1, 1, 0, 0, 1, 1});
    made_word(m, made_node(m, "Pad", "input p", "out"), "mode", "reflect");
    assert_refused(m, KD_EUNSUP, "node out (Pad): mode reflect");

    m = image_model(13);
    Onnx__NodeProto *n = made_node(m, "MaxPool", "input", "out");
    made_ints(m, n, "kernel_shape", 2, (const int64_t[]){2, 2});
    made_ints(m, n, "dilations", 2, (const int64_t[]){2, 2});
    assert_refused(m, KD_EUNSUP, "dilations");

    m = image_model(13);
    made_node(m, "Flatten", "later", "out");
    made_node(m, "Relu", "input", "later");
    assert_refused(m, KD_EDATA, "a later node");

    m = image_model(13);
    made_node(m, "Relu", "nothing", "out");
    assert_refused(m, KD_EDATA, "nothing makes its input nothing");

    m = image_model(13);
    made_node(m, "Relu", "input", "a");
    made_node(m, "Relu", "input", "a");
    made_node(m, "Flatten", "a", "out");
    assert_refused(m, KD_EDATA, "two things are named a");

    m = image_model(13);
    made_node(m, "Relu", "out", "out");
    assert_refused(m, KD_EDATA, "later node");

    m = image_model(8);
    made_node(m, "Flatten", "input", "out");
    assert_refused(m, KD_EUNSUP, "opset 8");
    m = image_model(18);
    made_node(m, "Flatten", "input", "out");
    assert_refused(m, KD_EUNSUP, "opset 18");

    m = made_new(13, 4, (const int64_t[]){0, 7, 8, 8});
    made_node(m, "Flatten", "input", "out");
    assert_refused(m, KD_EUNSUP, "channels of a picture");

    m = made_new(13, 4, (const int64_t[]){0, 3, 8, 9});
    made_node(m, "Flatten", "input", "out");
    assert_refused(m, KD_EUNSUP, "8 by 9");

    m = made_new(13, 2, (const int64_t[]){0, 192});
    made_node(m, "Relu", "input", "out");
    assert_refused(m, KD_EUNSUP, "2 axes");

    m = image_model(13);
    made_node(m, "Relu", "input", "out");
    assert_refused(m, KD_EUNSUP, "3 axes longer than 1");

    /* A batch norm with a negative variance, a weight that is no number. */
    m = image_model(13);
    made_weight(m, "s", 1, (const int64_t[]){3});
    made_node(m, "BatchNormalization", "input s s s s", "b");
    made_node(m, "Flatten", "b", "out");
    assert_refused(m, KD_EDATA, "value 0 of s");

    m = image_model(13);
    Onnx__TensorProto *t = made_weight(m, "w", 4, (const int64_t[]){5, 3, 8, 8});
    memcpy(t->raw_data.data + 40, &(float){NAN}, 4);
    made_node(m, "Conv", "input w", "c");
    made_node(m, "Flatten", "c", "out");
    assert_refused(m, KD_EDATA, "value 10 of w");

    m = image_model(13);
    t = made_weight(m, "w", 4, (const int64_t[]){5, 3, 8, 8});
    t->raw_data.len--;
    made_node(m, "Conv", "input w", "c");
    made_node(m, "Flatten", "c", "out");
    assert_refused(m, KD_EDATA, "tensor w has 3839 bytes");

    m = image_model(13);
    t = made_weight(m, "w", 4, (const int64_t[]){5, 3, 8, 8});
    t->dims[0] = (int64_t)1 << 62;
    made_node(m, "Conv", "input w", "c");
    made_node(m, "Flatten", "c", "out");
    assert_refused(m, KD_ELIMIT, "tensor w");

    m = image_model(13);
    made_weight(m, "w", 4, (const int64_t[]){5, 2, 3, 3});
    made_node(m, "Conv", "input w", "c");
    made_node(m, "Flatten", "c", "out");
    assert_refused(m, KD_EDATA, "does not go with 3 channels");
}

/* A list may come packed: its elements count all the same. */
static void test_onnx_packed_dims(void **state)
{
    (void)state;
    uint8_t file[] = {0x42, 2,  0x10, 13,                       /* opset 13 */
                      0x3a, 13, 0x2a, 11,                       /* graph, its initialiser */
                      0x0a, 9,  1,    1,  1, 1, 1, 1, 1, 1, 1}; /* nine dims */
    onnx_read r;
    kd_assert_fails(onnx_read_bytes(file, sizeof file, &as_it_is, &r), KD_ELIMIT, &r.diag,
                    "TensorProto.dims");
    file[5] = 12; /* eight are read, and the model is refused for what it lacks */
    file[7] = 10;
    file[9] = 8;
    kd_assert_fails(onnx_read_bytes(file, sizeof file - 1, &as_it_is, &r), KD_EDATA, &r.diag,
                    "no output");
    file[9] = 9;
    kd_assert_fails(onnx_read_bytes(file, sizeof file - 1, &as_it_is, &r), KD_EDATA, &r.diag,
                    "cut off in TensorProto.dims");
}

/* The batch stays the batch: what would mix pictures is refused. */
static void test_onnx_batch(void **state)
{
    (void)state;
    onnx_made *m = image_model(13);
    made_ints(m, made_node(m, "ReduceMean", "input", "out"), "axes", 2, (const int64_t[]){0, 2});
    assert_refused(m, KD_EUNSUP, "across the batch");

    m = made_new(13, 4, (const int64_t[]){2, 3, 8, 8});
    made_list(m, "s", 2, (const int64_t[]){6, 64});
    made_node(m, "Reshape", "input s", "out");
    assert_refused(m, KD_EUNSUP, "not the batch");

    m = made_new(13, 4, (const int64_t[]){2, 3, 8, 8});
    made_weight(m, "k", 4, (const int64_t[]){2, 3, 1, 1});
    made_node(m, "Add", "input k", "a");
    made_node(m, "Flatten", "a", "out");
    assert_refused(m, KD_EUNSUP, "differs along the batch");

    m = image_model(13);
    made_int(m, made_node(m, "Concat", "input input", "c"), "axis", 0);
    made_node(m, "Flatten", "c", "out");
    assert_refused(m, KD_EUNSUP, "batch");

    m = image_model(12);
    made_ints(m, made_node(m, "Squeeze", "input", "out"), "axes", 1, (const int64_t[]){0});
    assert_refused(m, KD_EUNSUP, "batch");

    /* A fixed batch, written into a reshape as exporters do, is any batch here. */
    m = made_new(13, 4, (const int64_t[]){2, 3, 8, 8});
    made_list(m, "s", 2, (const int64_t[]){2, -1});
    made_weight(m, "w", 2, (const int64_t[]){192, 4});
    made_node(m, "Reshape", "input s", "f");
    made_node(m, "MatMul", "f w", "out");
    kd_buf b = made_bytes(m);
    onnx_read r;
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &as_it_is, &r), &r.diag);
    float in[3 * 192];
    for (size_t i = 0; i < KD_COUNT(in); i++)
        in[i] = (float)(i % 17) - 8;
    float *three = onnx_run(r.g, r.vector, in, 3), *one = onnx_run(r.g, r.vector, in + 384, 1);
    kd_assert_all_close(one, three + 8, 4, 1e-6, 1e-6);
    free(three);
    free(one);
    onnx_read_clear(&r);
    kd_buf_clear(&b);
    made_free(m);
}

/* Every cut of a good file is refused or read, never more; so is each with one byte changed. */
static void test_onnx_torn(void **state)
{
    (void)state;
    size_t len;
    char *bytes = read_file(FOLDER "/tf_style.onnx", &len);
    for (size_t cut = 0; cut < len; cut += 1 + cut / 512) {
        uint8_t *copy = malloc(cut ? cut : 1);
        memcpy(copy, bytes, cut);
        onnx_read r;
        assert_int_not_equal(onnx_read_bytes(copy, cut, &as_it_is, &r), 0);
        assert_true(r.diag.msg[0] != '\0');
        free(copy);
    }
    free(bytes);
}

/* ---- heads */

static void test_onnx_new_head(void **state)
{
    (void)state;
    static const char *const files[] = {"torch_style", "tf_style"};
    static const char *const heads[] = {"fc2", "sequential/dense/kernel:0"};
    for (size_t f = 0; f < 2; f++) {
        char path[256], name[96];
        size_t len;
        snprintf(path, sizeof path, FOLDER "/%s.onnx", files[f]);
        char *bytes = read_file(path, &len);
        kd_onnx_read_options opt = {.folder_fd = -1, .size = SIZE};
        onnx_read old, new, other, same;
        kd_assert_ok(onnx_read_bytes(bytes, len, &opt, &old), &old.diag);
        opt.classes = old.g->nodes[old.g->output].c;
        kd_assert_ok(onnx_read_bytes(bytes, len, &opt, &same), &same.diag);
        assert_false(same.new_head);
        assert_memory_equal(old.vector, same.vector, old.g->vector_len * sizeof(float));
        opt.classes = 7;
        opt.seed = 1;
        kd_assert_ok(onnx_read_bytes(bytes, len, &opt, &new), &new.diag);
        opt.seed = 2;
        kd_assert_ok(onnx_read_bytes(bytes, len, &opt, &other), &other.diag);
        free(bytes);
        assert_true(new.new_head && !old.new_head);
        assert_int_equal(new.g->nodes[new.g->output].c, 7);
        for (int i = 0; i < new.g->n_params; i++) {
            const kd_param *p = &new.g->params[i], *q = kd_graph_param(old.g, p->name);
            assert_non_null(q);
            assert_int_equal(p->head, q->head);
            if (p->head) {
                assert_int_equal(p->shape[0], 7);
                continue;
            }
            assert_memory_equal(new.vector + p->offset, old.vector + q->offset,
                                p->count * sizeof(float));
        }
        snprintf(name, sizeof name, "%s.weight", heads[f]);
        const kd_param *w = kd_graph_param(new.g, name);
        assert_memory_not_equal(new.vector + w->offset, other.vector + w->offset,
                                w->count * sizeof(float));
        float *start = kd_xalloc(new.g->vector_len * sizeof *start);
        kd_graph_init(new.g, 1, start);
        assert_memory_equal(new.vector + w->offset, start + w->offset, w->count * sizeof(float));
        free(start);
        onnx_read_clear(&old);
        onnx_read_clear(&new);
        onnx_read_clear(&other);
        onnx_read_clear(&same);
    }
}

/* A classifier convolution, its classes written into a reshape behind it. */
static void test_onnx_new_head_convolution(void **state)
{
    (void)state;
    onnx_made *m = image_model(13);
    made_weight(m, "last.weight", 4, (const int64_t[]){10, 3, 1, 1});
    made_weight(m, "last.bias", 1, (const int64_t[]){10});
    made_list(m, "s", 2, (const int64_t[]){1, 10});
    made_node(m, "Conv", "input last.weight last.bias", "c");
    made_node(m, "Relu", "c", "r");
    made_node(m, "GlobalAveragePool", "r", "g");
    made_node(m, "Reshape", "g s", "v");
    made_int(m, made_node(m, "Softmax", "v", "out"), "axis", 1);
    kd_buf b = made_bytes(m);
    onnx_read r;
    kd_onnx_read_options opt = {.folder_fd = -1, .classes = 4};
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &opt, &r), &r.diag);
    assert_true(r.new_head && r.info.softmax);
    assert_int_equal(r.g->nodes[r.g->output].c, 4);
    assert_int_equal(kd_graph_param(r.g, "last.weight")->shape[0], 4);
    assert_true(kd_graph_param(r.g, "last.bias")->head);
    onnx_read_clear(&r);
    kd_buf_clear(&b);
    made_free(m);

    /* One constant a class behind the last layer has no values for other classes. */
    m = image_model(13);
    made_weight(m, "w", 2, (const int64_t[]){10, 192});
    made_weight(m, "k", 1, (const int64_t[]){10});
    made_node(m, "Flatten", "input", "f");
    made_int(m, made_node(m, "Gemm", "f w", "g"), "transB", 1);
    made_node(m, "Mul", "g k", "out");
    b = made_bytes(m);
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &as_it_is, &r), &r.diag);
    onnx_read_clear(&r);
    kd_assert_fails(onnx_read_bytes(b.data, b.len, &opt, &r), KD_EINVAL, &r.diag,
                    "cannot follow from 10 to 4");
    kd_buf_clear(&b);
    made_free(m);
}

/* A weight that two layers share is two parameters from then on; a bias is only taken into a layer
 * that nobody else reads. */
static void test_onnx_shared(void **state)
{
    (void)state;
    onnx_made *m = image_model(13);
    made_weight(m, "w", 4, (const int64_t[]){3, 3, 1, 1});
    made_weight(m, "b", 3, (const int64_t[]){3, 1, 1});
    made_node(m, "Conv", "input w", "c1");
    made_node(m, "Add", "c1 b", "a1"); /* c1 is read again below */
    made_node(m, "Conv", "a1 w", "c2");
    made_node(m, "Add", "c2 c1", "s");
    made_node(m, "GlobalAveragePool", "s", "g");
    made_node(m, "Flatten", "g", "out");
    kd_buf b = made_bytes(m);
    onnx_read r;
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &as_it_is, &r), &r.diag);
    assert_non_null(kd_graph_param(r.g, "w.weight"));
    assert_non_null(kd_graph_param(r.g, "w_2.weight"));
    assert_null(kd_graph_param(r.g, "w.bias"));
    assert_param(r.g, "b.value", KD_PARAM_FIXED, false);
    const float *w = r.vector + kd_graph_param(r.g, "w.weight")->offset;
    const float *k = r.vector + kd_graph_param(r.g, "b.value")->offset;
    float in[192];
    for (size_t i = 0; i < 192; i++)
        in[i] = (float)(i % 13) / 13;
    float *got = onnx_run(r.g, r.vector, in, 1), want[3], x[3] = {0}, y[3];
    for (size_t i = 0; i < 192; i++)
        x[i % 3] += in[i] / 64; /* everything is linear: the mean picture does */
    for (int o = 0; o < 3; o++)
        y[o] = w[3 * o] * x[0] + w[3 * o + 1] * x[1] + w[3 * o + 2] * x[2];
    for (int o = 0; o < 3; o++)
        want[o] = y[o] + w[3 * o] * (y[0] + k[0]) + w[3 * o + 1] * (y[1] + k[1]) +
                  w[3 * o + 2] * (y[2] + k[2]);
    kd_assert_all_close(got, want, 3, 1e-5, 1e-5);
    free(got);
    onnx_read_clear(&r);
    kd_buf_clear(&b);
    made_free(m);
}

/* ---- 8 bits as others write them */

/* Quantised input, quantised 1x1 convolution of 3 to 4 channels, its mean over the picture. */
static onnx_made *quantised_model(float scale, int type, int zero, int64_t axis)
{
    static int8_t codes[12] = {127, 0, -127, 1, 2, 3, -4, -5, -6, 64, 32, 16};
    static const float units[4] = {0.5F, 0.25F, 0.125F, 1};
    onnx_made *m = image_model(13);
    uint8_t *nought = made_get(m, 1);
    float *unit = made_get(m, sizeof *unit);
    *nought = (uint8_t)zero;
    *unit = scale;
    made_tensor(m, "unit", KD_ONNX_FLOAT, 0, NULL, unit, sizeof *unit);
    made_tensor(m, "zero", type, 0, NULL, nought, 1);
    made_tensor(m, "w", KD_ONNX_INT8, 4, (const int64_t[]){4, 3, 1, 1}, codes, sizeof codes);
    made_tensor(m, "units", KD_ONNX_FLOAT, 1, (const int64_t[]){4}, units, sizeof units);
    made_node(m, "QuantizeLinear", "input unit zero", "q");
    made_node(m, "DequantizeLinear", "q unit zero", "x");
    made_int(m, made_node(m, "DequantizeLinear", "w units", "wf"), "axis", axis);
    made_node(m, "Conv", "x wf", "y");
    made_node(m, "GlobalAveragePool", "y", "g");
    made_int(m, made_node(m, "Flatten", "g", "out"), "axis", 1);
    return m;
}

static void test_onnx_quantised(void **state)
{
    (void)state;
    static const struct {
        int type, zero;
        float range;
    } kinds[] = {{KD_ONNX_INT8, 0, 127 * 0.25F},
                 {KD_ONNX_UINT8, 128, 127 * 0.25F},
                 {KD_ONNX_UINT8, 0, 255 * 0.25F}};
    for (size_t i = 0; i < KD_COUNT(kinds); i++) {
        onnx_made *m = quantised_model(0.25F, kinds[i].type, kinds[i].zero, 0);
        kd_buf b = made_bytes(m);
        onnx_read r;
        kd_assert_ok(onnx_read_bytes(b.data, b.len, &as_it_is, &r), &r.diag);
        assert_true(kd_graph_is_int8(r.g));
        assert_true(r.g->nodes[0].range == kinds[i].range);
        const float *w = r.vector + kd_graph_param(r.g, "w.weight")->offset;
        assert_true(w[0] == 63.5F && w[2] == -63.5F && w[4] == 0.5F && w[6] == -0.5F &&
                    w[11] == 16);
        kd_plan *p;
        float in[8 * 8 * 3], z[4];
        kd_diag diag = {0};
        for (int k = 0; k < 8 * 8 * 3; k++)
            in[k] = k % 3 == 0 ? 4 : k % 3 == 1 ? 8 : 1.1F; /* 16, 32, and 4 units */
        kd_engine_thread();
        kd_assert_ok(kd_plan_new_infer(r.g, 1, r.vector, &p, &diag), &diag);
        assert_int_equal(kd_plan_int8_tasks(p), 1);
        if (kinds[i].range < 60) { /* without a sign it is rounded to another unit here */
            kd_assert_ok(kd_plan_forward(p, in, z, &diag), &diag);
            kd_assert_close(z[0], 4 * 63.5 - 63.5, 1e-6, 0);
            /* The largest code of this row is not 127: it gets finer ones here. */
            kd_assert_close(z[3], 4 * 64 + 8 * 32 + 16, 0.01, 0);
        }
        kd_plan_free(p);
        onnx_read_clear(&r);
        kd_buf_clear(&b);
        made_free(m);
    }
    assert_refused(quantised_model(0.25F, KD_ONNX_UINT8, 100, 0), KD_EUNSUP,
                   "node q (QuantizeLinear): its zero point is 100");
    assert_refused(quantised_model(0.25F, KD_ONNX_INT8, 3, 0), KD_EUNSUP, "its zero point is 3");
    assert_refused(quantised_model(-1, KD_ONNX_INT8, 0, 0), KD_EDATA, "scale 0 is -1");
    assert_refused(quantised_model(NAN, KD_ONNX_INT8, 0, 0), KD_EDATA, "scale 0 is");
    assert_refused(quantised_model(0.25F, KD_ONNX_INT8, 0, 1), KD_EDATA,
                   "node wf (DequantizeLinear): 4 scales for an axis of 3");
    assert_refused(quantised_model(0.25F, KD_ONNX_INT8, 0, 7), KD_EDATA, "axis");
}

/* What a model holds its parameters as, also where it turns or casts them first. */
static void test_onnx_types(void **state)
{
    (void)state;
    uint16_t ones[16], brains[16];
    int8_t codes[8] = {127, 1, 2, 3, 4, 5, 6, 7};
    for (size_t i = 0; i < KD_COUNT(ones); i++) {
        ones[i] = 0x3c00;
        brains[i] = 0x3f80;
    }
    const float unit = 0.5F;
    onnx_made *m = image_model(13);
    made_tensor(m, "w16", KD_ONNX_FLOAT16, 4, (const int64_t[]){4, 3, 1, 1}, ones, 24);
    made_weight(m, "b", 1, (const int64_t[]){4});
    made_tensor(m, "wb", KD_ONNX_BFLOAT16, 4, (const int64_t[]){1, 1, 4, 4}, brains, 32);
    made_tensor(m, "added", KD_ONNX_FLOAT16, 3, (const int64_t[]){4, 1, 1}, ones, 8);
    made_tensor(m, "w8", KD_ONNX_INT8, 4, (const int64_t[]){2, 4, 1, 1}, codes, sizeof codes);
    made_tensor(m, "unit", KD_ONNX_FLOAT, 0, NULL, &unit, sizeof unit);
    made_weight(m, "w32", 4, (const int64_t[]){3, 2, 1, 1});
    made_node(m, "Conv", "input w16 b", "c1");
    made_int(m, made_node(m, "Cast", "wb", "cast"), "to", KD_ONNX_FLOAT);
    made_ints(m, made_node(m, "Transpose", "cast", "turned"), "perm", 4,
              (const int64_t[]){2, 3, 0, 1});
    made_node(m, "Conv", "c1 turned", "c2");
    made_node(m, "Add", "c2 added", "a2");
    made_node(m, "DequantizeLinear", "w8 unit", "wf");
    made_node(m, "Conv", "a2 wf", "c3");
    made_node(m, "Conv", "c3 w32", "c4");
    made_node(m, "GlobalAveragePool", "c4", "g");
    made_node(m, "Flatten", "g", "out");
    static const struct {
        const char *name;
        enum kd_st_type type;
    } want[] = {{"w16.weight", KD_ST_F16}, {"w16.bias", KD_ST_F32}, {"c2.weight", KD_ST_BF16},
                {"c2.bias", KD_ST_F16},    {"w8.weight", KD_ST_I8}, {"w32.weight", KD_ST_F32}};
    kd_buf b = made_bytes(m);
    onnx_read r;
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &as_it_is, &r), &r.diag);
    assert_int_equal(r.g->n_params, KD_COUNT(want));
    for (size_t i = 0; i < KD_COUNT(want); i++) {
        const kd_param *p = kd_graph_param(r.g, want[i].name);
        assert_non_null(p);
        assert_int_equal(r.info.types[p - r.g->params], want[i].type);
    }
    onnx_read_clear(&r);
    /* A head for other classes is nobody's. */
    const kd_onnx_read_options other = {.folder_fd = -1, .classes = 5};
    m->tensors[m->graph.n_initializer - 1]->data_type = KD_ONNX_FLOAT16;
    m->tensors[m->graph.n_initializer - 1]->raw_data.len /= 2;
    kd_buf_clear(&b);
    b = made_bytes(m);
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &other, &r), &r.diag);
    assert_true(r.new_head);
    const kd_param *head = kd_graph_param(r.g, "w32.weight");
    assert_int_equal(r.info.types[head - r.g->params], KD_ST_F32);
    onnx_read_clear(&r);
    kd_buf_clear(&b);
    made_free(m);
}

/* In files of others the words of our metadata may mean something else. */
static void test_onnx_foreign_metadata(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"size", "[640, 640]"}, {"classes", "a,,b"}, {"preprocess", "imagenet"}};
    Onnx__StringStringEntryProto e[3], *all[3] = {&e[0], &e[1], &e[2]};
    onnx_made *m = image_model(13);
    for (size_t i = 0; i < 3; i++) {
        onnx__string_string_entry_proto__init(&e[i]);
        e[i].key = made_text(m, pairs[i][0]);
        e[i].value = made_text(m, pairs[i][1]);
    }
    made_node(m, "GlobalAveragePool", "input", "g");
    made_node(m, "Flatten", "g", "out");
    m->model.metadata_props = all;
    m->model.n_metadata_props = 3;
    kd_buf b = made_bytes(m);
    onnx_read r;
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &as_it_is, &r), &r.diag);
    assert_true(r.info.file.has_preprocess && r.info.file.preprocess == KD_PRE_IMAGENET);
    assert_true(!r.info.ours && !r.info.file.size && !r.info.file.classes);
    onnx_read_clear(&r);
    kd_buf_clear(&b);
    /* What distilld wrote must be right, and preprocessing is never guessed. */
    m->model.producer_name = made_text(m, "distilld");
    b = made_bytes(m);
    kd_assert_fails(onnx_read_bytes(b.data, b.len, &as_it_is, &r), KD_EDATA, &r.diag, "[640, 640]");
    kd_buf_clear(&b);
    m->model.producer_name = made_text(m, "pytorch");
    e[2].value = made_text(m, "caffe");
    b = made_bytes(m);
    kd_assert_fails(onnx_read_bytes(b.data, b.len, &as_it_is, &r), KD_EDATA, &r.diag, "caffe");
    kd_buf_clear(&b);
    made_free(m);
}

/* ---- out and in again */

static onnx_read write_and_read(const kd_graph *g, const float *vector, int opset)
{
    static const char *const names[] = {"a", "b, or c", "d", "e", "f"};
    const bool named = g->nodes[g->output].c == 5;
    const kd_model_file_info info = {.model = "test",
                                     .classes = named ? (char **)(uintptr_t)names : NULL,
                                     .n_classes = named ? 5 : 0,
                                     .has_preprocess = true,
                                     .preprocess = KD_PRE_IMAGENET,
                                     .has_padding = true,
                                     .pad_tf = true,
                                     .label_smoothing = 0.1,
                                     .resized_from = 777,
                                     .job = "0123456789ab",
                                     .data = "ffeeddccbbaa99887766554433221100",
                                     .teacher = "resnet18 0011223344556677",
                                     .digest = "00112233445566778899aabbccddeeff"};
    const kd_onnx_write_options opt = {.opset = opset, .info = &info};
    kd_buf b;
    kd_buf_init(&b, 256u << 20);
    kd_diag diag = {0};
    onnx_read r;
    /* The operators' nets see pictures that are not square, which no classifier may. */
    const bool square = g->nodes[0].h == g->nodes[0].w;
    const kd_onnx_read_options how = {.folder_fd = -1,
                                      .use = square ? KD_ONNX_CLASSIFIER : KD_ONNX_ANY};
    kd_assert_ok(kd_onnx_write(g, vector, &opt, &b, &diag), &diag);
    kd_assert_ok(onnx_read_bytes(b.data, b.len, &how, &r), &r.diag);
    const kd_model_file_info *got = &r.info.file;
    assert_true(r.info.ours && got->has_preprocess && got->has_padding && got->pad_tf);
    assert_int_equal(got->preprocess, KD_PRE_IMAGENET);
    assert_int_equal(got->size, square ? g->nodes[0].h : 0);
    assert_true(got->label_smoothing == 0.1);
    assert_int_equal(got->resized_from, 777);
    assert_string_equal(got->model, "test");
    assert_string_equal(got->job, info.job);
    assert_string_equal(got->data, info.data);
    assert_string_equal(got->teacher, info.teacher);
    assert_string_equal(got->digest, info.digest);
    if (named) {
        assert_int_equal(got->n_classes, 5);
        for (int i = 0; i < 5; i++)
            assert_string_equal(got->classes[i], names[i]);
    }
    kd_buf_clear(&b);
    return r;
}

/* Networks of the zoo come back as they were: names, vector and bits of the logits. */
static void test_onnx_round_trip_zoo(void **state)
{
    (void)state;
    static const char *const models[] = {"shallow_cnn", "mlp",      "mobilenet_v2",    "lenet",
                                         "cheap_cnn",   "resnet18", "shallow_cnn_deep"};
    for (size_t i = 0; i < KD_COUNT(models); i++) {
        const int hidden[] = {17};
        const kd_model_config cfg = {.model = models[i],
                                     .width = 0.35,
                                     .hidden = hidden,
                                     .n_hidden = 1,
                                     .size = 64,
                                     .channels = 3,
                                     .classes = 5};
        kd_diag diag = {0};
        kd_graph *g;
        kd_assert_ok(kd_model_build(&cfg, &g, &diag), &diag);
        float *vector = kd_xalloc(g->vector_len * sizeof *vector);
        kd_graph_init(g, 9, vector);
        onnx_read r = write_and_read(g, vector, i % 2 ? 13 : 17);
        assert_int_equal(r.g->n_nodes, g->n_nodes);
        assert_int_equal(r.g->n_params, g->n_params);
        for (int p = 0; p < g->n_params; p++) {
            assert_string_equal(r.g->params[p].name, g->params[p].name);
            assert_int_equal(r.g->params[p].kind, g->params[p].kind);
            assert_int_equal(r.g->params[p].head, g->params[p].head);
        }
        assert_memory_equal(r.vector, vector, g->vector_len * sizeof *vector);
        float *in = kd_xalloc((size_t)3 * 64 * 64 * sizeof *in);
        for (size_t k = 0; k < (size_t)3 * 64 * 64; k++)
            in[k] = (float)(k % 251) / 125 - 1;
        float *a = onnx_run(g, vector, in, 1), *b = onnx_run(r.g, r.vector, in, 1);
        assert_memory_equal(a, b, 5 * sizeof *a);
        free(a);
        free(b);
        free(in);
        free(vector);
        onnx_read_clear(&r);
        kd_graph_free(g);
    }
}

/* Every operator and its corners, through both opsets. The reader may build another graph, so that
 * sums are taken in another order: 1e-4 as for the engine against its reference. */
static void test_onnx_round_trip_operators(void **state)
{
    (void)state;
    for (size_t s = 0; s < KD_COUNT(ops_settings); s++)
        for (size_t i = 0; i < KD_COUNT(ops_nets); i++) {
            ref_net net = ops_net_make(&ops_nets[i], &ops_settings[s]);
            onnx_read r = write_and_read(net.g, net.vector, (i + s) % 2 ? 13 : 17);
            float *a = onnx_run(net.g, net.vector, net.input, net.batch);
            float *b = onnx_run(r.g, r.vector, net.input, net.batch);
            const size_t n = (size_t)net.batch * 3;
            float most = 0;
            for (size_t k = 0; k < n; k++)
                most = fmaxf(most, fabsf(a[k]));
            for (size_t k = 0; k < n; k++)
                if (fabsf(a[k] - b[k]) > 1e-4f * most + 1e-6f)
                    fail_msg("%s (setting %zu): logit %zu is %g, %g was written", net.name, s, k,
                             (double)b[k], (double)a[k]);
            free(a);
            free(b);
            onnx_read_clear(&r);
            ref_net_free(&net);
        }
}

/* A constant beside a computed tensor is written once for each picture of any batch. */
static void test_onnx_round_trip_concat(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(4, 4, 3);
    int k = kd_graph_const(g, "k", 4, 4, 2, KD_INIT_ONE);
    int x = kd_graph_concat(g, 0, k, KD_AXIS_C);
    x = kd_graph_concat(g, kd_graph_relu(g, k), x, KD_AXIS_C);
    x = kd_graph_dense(g, kd_graph_flatten(g, x), "fc", 3, true, KD_INIT_GLOROT_UNIFORM);
    kd_diag diag = {0};
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    float *vector = kd_xalloc(g->vector_len * sizeof *vector), in[96];
    kd_graph_init(g, 3, vector);
    for (size_t i = 0; i < 32; i++)
        vector[i] = (float)i / 16 - 1;
    for (size_t i = 0; i < 96; i++)
        in[i] = (float)(i % 7) - 3;
    onnx_read r = write_and_read(g, vector, 13);
    float *a = onnx_run(g, vector, in, 2), *b = onnx_run(r.g, r.vector, in, 2);
    kd_assert_all_close(b, a, 6, 1e-5, 1e-5);
    free(a);
    free(b);
    free(vector);
    onnx_read_clear(&r);
    kd_graph_free(g);
}

static void test_onnx_write_options(void **state)
{
    (void)state;
    kd_graph *g = kd_graph_new(4, 4, 3);
    kd_diag diag = {0};
    const int x = kd_graph_dense(g, kd_graph_flatten(g, 0), "fc", 3, true, KD_INIT_GLOROT_UNIFORM);
    kd_assert_ok(kd_graph_finish(g, x, &diag), &diag);
    float *vector = kd_xalloc(g->vector_len * sizeof *vector);
    kd_buf b;
    kd_buf_init(&b, 100);
    kd_onnx_write_options opt = {.opset = 12};
    kd_assert_fails(kd_onnx_write(g, vector, &opt, &b, &diag), KD_EINVAL, &diag, "opset 12");
    opt.opset = 13;
    kd_assert_fails(kd_onnx_write(g, vector, &opt, &b, &diag), KD_ELIMIT, &diag, "100 bytes");
    kd_buf_clear(&b);
    free(vector);
    kd_graph_free(g);
}

int main(int argc, char **argv)
{
    (void)argc;
    kd_engine_mend_blas(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_onnx_torch_style),
        cmocka_unit_test(test_onnx_tf_style),
        cmocka_unit_test(test_onnx_size),
        cmocka_unit_test(test_onnx_external),
        cmocka_unit_test(test_onnx_refusals),
        cmocka_unit_test(test_onnx_packed_dims),
        cmocka_unit_test(test_onnx_batch),
        cmocka_unit_test(test_onnx_torn),
        cmocka_unit_test(test_onnx_new_head),
        cmocka_unit_test(test_onnx_new_head_convolution),
        cmocka_unit_test(test_onnx_shared),
        cmocka_unit_test(test_onnx_quantised),
        cmocka_unit_test(test_onnx_types),
        cmocka_unit_test(test_onnx_foreign_metadata),
        cmocka_unit_test(test_onnx_round_trip_zoo),
        cmocka_unit_test(test_onnx_round_trip_operators),
        cmocka_unit_test(test_onnx_round_trip_concat),
        cmocka_unit_test(test_onnx_write_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
