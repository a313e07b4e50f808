/* Mutated ONNX models and graph texts. Bytes are changed blindly, and fields by what they mean,
 * since few blind changes get past the first checks. */
#include "fuzz.h"
#include "kd_test.h"
#include "mutate.h"

#include "kd_onnx_made.h"
#include "models/graph_json.h"

#define ROUNDS 1500 /* of each kind and seed */
#define SEEDS 3

/* What the golden models do not have: slices, splits, joins, padding, transposes, ranges. */
static kd_buf shapes_model(void)
{
    onnx_made *m = made_new(13, 4, (const int64_t[]){2, 3, 8, 8});
    made_list(m, "one", 1, (const int64_t[]){1});
    made_list(m, "three", 1, (const int64_t[]){3});
    made_list(m, "pads", 8, (const int64_t[]){0, 1, 0, 1, 0, 0, 1, 0});
    made_list(m, "five", 5, (const int64_t[]){-1, 2, 2, 9, 9});
    made_list(m, "flat", 2, (const int64_t[]){0, -1});
    made_list(m, "axes", 2, (const int64_t[]){2, 3});
    made_weight(m, "value", 0, NULL);
    made_weight(m, "k", 3, (const int64_t[]){4, 1, 9});
    made_weight(m, "w", 4, (const int64_t[]){4, 2, 3, 3});
    made_weight(m, "fc", 2, (const int64_t[]){4, 3});
    made_weight(m, "fcb", 1, (const int64_t[]){3});
    made_node(m, "Pad", "input pads value", "p"); /* 4x9x9 */
    made_node(m, "Reshape", "p five", "r");
    made_ints(m, made_node(m, "Transpose", "r", "t"), "perm", 5, (const int64_t[]){0, 2, 1, 3, 4});
    made_node(m, "Shape", "p", "s");
    made_node(m, "Reshape", "t s", "u");
    made_node(m, "Mul", "u k", "v");
    Onnx__NodeProto *n = made_node(m, "Conv", "v w", "c");
    made_int(m, n, "group", 2);
    made_ints(m, n, "pads", 4, (const int64_t[]){1, 0, 1, 0});
    made_ints(m, n, "strides", 2, (const int64_t[]){2, 1});
    made_node(m, "Slice", "c one three one", "cut"); /* channels 1, 2 */
    n = made_node(m, "Split", "c", "a");
    n->output[n->n_output++] = made_text(m, "b");
    made_int(m, n, "axis", 1);
    made_int(m, made_node(m, "Concat", "cut a", "j"), "axis", 1);
    n = made_node(m, "AveragePool", "j", "q");
    made_ints(m, n, "kernel_shape", 2, (const int64_t[]){2, 2});
    made_int(m, n, "ceil_mode", 1);
    made_int(m, n, "count_include_pad", 1);
    made_ints(m, made_node(m, "ReduceMean", "q", "m"), "axes", 2, (const int64_t[]){2, 3});
    made_node(m, "Squeeze", "m axes", "z");
    made_node(m, "MatMul", "z fc", "y");
    made_node(m, "Add", "fcb y", "out");
    kd_buf b = made_bytes(m);
    made_free(m);
    return b;
}

static kd_buf seed_model(int which)
{
    if (which == 2)
        return shapes_model();
    kd_buf b = {0};
    char *bytes;
    size_t len;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(which ? "tests/golden/onnx/tf_style.onnx"
                                    : "tests/golden/onnx/torch_style.onnx",
                              1u << 20, &bytes, &len, &diag),
                 &diag);
    kd_buf_init(&b, 1u << 20);
    assert_int_equal(kd_buf_add(&b, bytes, len), 0);
    free(bytes);
    return b;
}

/* true if it was read. */
static bool check(const void *bytes, size_t len, int classes)
{
    uint8_t *all = malloc(1 + len);
    assert_non_null(all);
    all[0] = kd_fuzz_onnx_options(12 * (classes != 3), classes == 3 ? 0 : classes, 0);
    memcpy(all + 1, bytes, len);
    const bool accepted = kd_fuzz_run(kd_fuzz_onnx, all, 1 + len);
    free(all);
    return accepted;
}

static int classes_for(kd_rng *r, int which)
{
    return which == 2 ? 3 : (int)kd_rng_below(r, 2) * 7; /* 7 = a new head */
}

/* ---- blind */

static void test_fuzz_onnx_bytes(void **state)
{
    (void)state;
    unsigned good = 0, refused = 0;
    for (int which = 0; which < SEEDS; which++) {
        kd_buf seed = seed_model(which);
        uint8_t *work = malloc(seed.len + 64);
        for (unsigned i = 0; i < ROUNDS; i++) {
            kd_rng r;
            kd_rng_init(&r, 3, KD_RNG_TEST, i, (uint64_t)which);
            size_t n = seed.len;
            memcpy(work, seed.data, n);
            for (uint32_t k = i % 4; k > 0; k--)
                n = kd_fuzz_mutate(&r, work, n, seed.len + 64);
            *(check(work, n, classes_for(&r, which)) ? &good : &refused) += 1;
        }
        free(work);
        kd_buf_clear(&seed);
    }
    print_message("%u models read, %u refused\n", good, refused);
    assert_true(good > ROUNDS / 4 && refused > ROUNDS / 4);
}

/* ---- by meaning */

static int64_t odd_number(kd_rng *r)
{
    static const int64_t numbers[] = {
        0,         1,         -1,        2,         3,         -2,    4,         7,
        8,         12,        64,        4095,      4097,      65536, INT32_MAX, INT32_MIN,
        1LL << 32, 1LL << 40, INT64_MAX, INT64_MIN, 1LL << 62, -5,    1000000};
    return numbers[kd_rng_below(r, KD_COUNT(numbers))];
}

static const char *const ops[] = {
    "Conv",        "Gemm",
    "MatMul",      "BatchNormalization",
    "MaxPool",     "AveragePool",
    "Relu",        "Add",
    "Sub",         "Mul",
    "Div",         "Sum",
    "Reshape",     "Flatten",
    "Transpose",   "Squeeze",
    "Unsqueeze",   "Concat",
    "Slice",       "Split",
    "Pad",         "Identity",
    "Cast",        "Softmax",
    "ReduceMean",  "Dropout",
    "Clip",        "GlobalAveragePool",
    "HardSigmoid", "Shape",
    "Gather",      "Range",
    "Where",       "ConstantOfShape",
    "Expand",      "Constant",
    "ReduceProd",  "LeakyRelu",
    "Equal",       "Mod",
    "Size",        "GlobalMaxPool",
};

/* Any name that the graph has. */
static char *some_name(kd_rng *r, const Onnx__GraphProto *g)
{
    if (kd_rng_below(r, 3) == 0)
        return g->initializer[kd_rng_below(r, (uint32_t)g->n_initializer)]->name;
    const Onnx__NodeProto *n = g->node[kd_rng_below(r, (uint32_t)g->n_node)];
    return kd_rng_below(r, 8) == 0 ? g->input[0]->name
                                   : n->output[kd_rng_below(r, (uint32_t)n->n_output)];
}

static void replace(char **slot, const char *text)
{
    char *copy = strdup(text);
    KD_BUG_ON(!copy);
    if (*slot && **slot)
        free(*slot);
    *slot = copy;
}

static void mutate_node(kd_rng *r, const Onnx__GraphProto *g, Onnx__NodeProto *n)
{
    switch (kd_rng_below(r, 4)) {
    case 0:
        if (n->n_input)
            replace(&n->input[kd_rng_below(r, (uint32_t)n->n_input)], some_name(r, g));
        break;
    case 1:
        replace(&n->op_type, ops[kd_rng_below(r, KD_COUNT(ops))]);
        break;
    case 2:
        if (n->n_input)
            free(n->input[--n->n_input]);
        break;
    default:
        if (!n->n_attribute)
            break;
        Onnx__AttributeProto *a = n->attribute[kd_rng_below(r, (uint32_t)n->n_attribute)];
        if (a->n_ints)
            a->ints[kd_rng_below(r, (uint32_t)a->n_ints)] = odd_number(r);
        a->i = odd_number(r);
        a->f = (float)odd_number(r);
        if (kd_rng_below(r, 4) == 0)
            onnx__attribute_proto__free_unpacked(n->attribute[--n->n_attribute], NULL);
    }
}

static void mutate_tensor(kd_rng *r, Onnx__TensorProto *t)
{
    if (t->n_dims && kd_rng_below(r, 3) == 0) {
        t->dims[kd_rng_below(r, (uint32_t)t->n_dims)] = odd_number(r);
    } else if (t->n_dims == 2 && kd_rng_below(r, 2) == 0) {
        const int64_t first = t->dims[0]; /* still as many values */
        t->dims[0] = t->dims[1];
        t->dims[1] = first;
    } else if (t->has_raw_data && t->data_type == 7 && t->raw_data.len >= 8) {
        const int64_t v = odd_number(r);
        memcpy(t->raw_data.data + 8 * kd_rng_below(r, (uint32_t)t->raw_data.len / 8), &v, 8);
    } else {
        t->data_type = (int32_t)kd_rng_below(r, 20);
    }
}

static void test_fuzz_onnx_fields(void **state)
{
    (void)state;
    unsigned good = 0, refused = 0;
    for (int which = 0; which < SEEDS; which++) {
        kd_buf seed = seed_model(which);
        for (unsigned i = 0; i < 2 * ROUNDS; i++) {
            kd_rng r;
            kd_rng_init(&r, 4, KD_RNG_TEST, i, (uint64_t)which);
            Onnx__ModelProto *m =
                onnx__model_proto__unpack(NULL, seed.len, (const uint8_t *)seed.data);
            Onnx__GraphProto *g = m->graph;
            for (uint32_t k = 1 + kd_rng_below(&r, 2); k > 0; k--) {
                const uint32_t what = kd_rng_below(&r, 8);
                Onnx__TensorShapeProto *s = g->input[0]->type->tensor_type->shape;
                if (what == 0) {
                    Onnx__TensorShapeDimension *d = s->dim[kd_rng_below(&r, (uint32_t)s->n_dim)];
                    d->has_dim_value = true;
                    d->dim_value = odd_number(&r);
                } else if (what < 3) {
                    mutate_tensor(&r, g->initializer[kd_rng_below(&r, (uint32_t)g->n_initializer)]);
                } else {
                    mutate_node(&r, g, g->node[kd_rng_below(&r, (uint32_t)g->n_node)]);
                }
            }
            if (kd_rng_below(&r, 16) == 0)
                m->opset_import[0]->version = 9 + kd_rng_below(&r, 9);
            kd_buf b;
            kd_buf_init(&b, 1u << 20);
            assert_int_equal(kd_wire_pack(m, &b), 0);
            *(check(b.data, b.len, classes_for(&r, which)) ? &good : &refused) += 1;
            kd_buf_clear(&b);
            onnx__model_proto__free_unpacked(m, NULL);
        }
        kd_buf_clear(&seed);
    }
    print_message("%u models read, %u refused\n", good, refused);
    assert_true(good > ROUNDS / 4 && refused > ROUNDS);
}

/* ---- graphs as text */

static void test_fuzz_graph_json(void **state)
{
    (void)state;
    static const char *const words[] = {"-1",    "0",    "1",         "2147483647",  "99999999999",
                                        "null",  "[]",   "{}",        "\"relu\"",    "\"conv\"",
                                        "1e300", "true", "\"slice\"", "\"permute\"", "\"pad\""};
    kd_buf seed = seed_model(2);
    const kd_onnx_read_options opt = {.folder_fd = -1};
    onnx_read read;
    kd_assert_ok(onnx_read_bytes(seed.data, seed.len, &opt, &read), &read.diag);
    char *text = kd_graph_to_json(read.g);
    const size_t len = strlen(text);
    unsigned good = 0, refused = 0;
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        kd_rng r;
        kd_rng_init(&r, 5, KD_RNG_TEST, i, 0);
        char *work = malloc(len + 64);
        size_t n = len;
        memcpy(work, text, n);
        for (uint32_t k = i % 3; k > 0; k--) {
            const size_t at = kd_rng_below(&r, (uint32_t)n);
            if (kd_rng_below(&r, 4) == 0) {
                work[at] = (char)kd_rng_u32(&r);
                continue;
            }
            /* A number or word for another. */
            size_t from = at, to;
            while (from < n && !strchr("0123456789", work[from]))
                from++;
            for (to = from; to < n && strchr("0123456789.", work[to]);)
                to++;
            const char *word = words[kd_rng_below(&r, KD_COUNT(words))];
            const size_t w = strlen(word);
            if (from == n || n + w > len + 63)
                continue;
            memmove(work + from + w, work + to, n - to);
            memcpy(work + from, word, w);
            n += w - (to - from);
        }
        *(kd_fuzz_run(kd_fuzz_graph, work, n) ? &good : &refused) += 1;
        free(work);
    }
    free(text);
    onnx_read_clear(&read);
    kd_buf_clear(&seed);
    print_message("%u graphs read, %u refused\n", good, refused);
    assert_true(good > ROUNDS / 4 && refused > ROUNDS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fuzz_onnx_bytes),
        cmocka_unit_test(test_fuzz_onnx_fields),
        cmocka_unit_test(test_fuzz_graph_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
