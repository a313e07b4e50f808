#include "kd/file.h"
#include "kd_test.h"
#include "store/narrow.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Builds a file: length word, header, data_len bytes 0, 1, 2, ...; caller frees. */
static uint8_t *file_of(const char *header, size_t data_len, size_t *out_len)
{
    const size_t n = strlen(header);
    uint8_t *file = malloc(8 + n + data_len);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_len; i++)
        file[8 + n + i] = (uint8_t)i;
    *out_len = 8 + n + data_len;
    return file;
}

static void refuse(const char *header, size_t data_len, int code, const char *part)
{
    size_t len;
    uint8_t *file = file_of(header, data_len, &len);
    kd_st_file *f = NULL;
    kd_diag diag = {0};
    const int rc = kd_st_open_memory(file, len, "hostile.safetensors", &f, &diag);
    free(file);
    kd_assert_fails(rc, code, &diag, part);
    assert_null(f);
    assert_non_null(strstr(diag.msg, "hostile.safetensors"));
}

static const float values[] = {1.5f, -2.25f, 3e38f, -0.0f, 1e-42f, 7};
static const kd_st_item items[] = {
    {.name = "b.weight", .ndim = 2, .shape = {2, 2}, .data = values},
    {.name = "scalar", .ndim = 0, .data = values + 4},
    {.name = "empty", .ndim = 3, .shape = {4, 0, 9}, .data = NULL},
    {.name = "a \"quoted\" n\xc3\xa4me", .ndim = 1, .shape = {3}, .data = values + 3},
};
static const kd_st_pair meta[] = {{"z", "last \\ first"}, {"a", ""}};

static void check(const kd_st_file *f)
{
    assert_int_equal(kd_st_count(f), 4);
    for (size_t i = 0; i < 4; i++) {
        const kd_st_tensor *t = kd_st_at(f, i);
        assert_string_equal(t->name, items[i].name);
        assert_string_equal(t->dtype, "F32");
        assert_int_equal(t->ndim, items[i].ndim);
        for (int k = 0; k < t->ndim; k++)
            assert_int_equal(t->shape[k], items[i].shape[k]);
        if (t->bytes > 0)
            assert_memory_equal(t->data, items[i].data, t->bytes);
        assert_ptr_equal(kd_st_find(f, t->name), t);
    }
    assert_int_equal(kd_st_at(f, 0)->bytes, 16);
    assert_int_equal(kd_st_at(f, 1)->bytes, 4);
    assert_int_equal(kd_st_at(f, 2)->bytes, 0);
    assert_int_equal(kd_st_at(f, 3)->bytes, 12);
    assert_null(kd_st_find(f, "b.weigh"));
    assert_null(kd_st_find(f, "__metadata__"));
    assert_string_equal(kd_st_metadata(f, "z"), "last \\ first");
    assert_string_equal(kd_st_metadata(f, "a"), "");
    assert_null(kd_st_metadata(f, "b.weight"));
}

static void test_safetensors_round_trip(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_buf buf, again;
    kd_buf_init(&buf, 1 << 20);
    kd_buf_init(&again, 1 << 20);
    kd_assert_ok(kd_st_pack(items, 4, meta, 2, &buf, &diag), &diag);
    kd_assert_ok(kd_st_pack(items, 4, meta, 2, &again, &diag), &diag);
    assert_int_equal(buf.len, again.len);
    assert_memory_equal(buf.data, again.data, buf.len);
    /* Data begins at a multiple of 64. */
    assert_int_equal((buf.len - 32) % 64, 0);
    kd_st_file *f;
    kd_assert_ok(kd_st_open_memory(buf.data, buf.len, "memory", &f, &diag), &diag);
    check(f);
    kd_st_close(f);

    char *folder = kd_test_mkdir(), path[256];
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    kd_assert_ok(kd_st_write(path, items, 4, meta, 2, &diag), &diag);
    kd_assert_ok(kd_st_open(path, &f, &diag), &diag);
    check(f);
    kd_st_close(f);
    char *text;
    size_t len;
    kd_assert_ok(kd_file_read(path, 1 << 20, &text, &len, &diag), &diag);
    assert_int_equal(len, buf.len);
    assert_memory_equal(text, buf.data, len);
    free(text);
    kd_test_rmdir(folder);
    kd_buf_clear(&buf);
    kd_buf_clear(&again);
    kd_st_close(NULL);
}

static void test_safetensors_empty(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_buf buf;
    kd_buf_init(&buf, 1000);
    kd_assert_ok(kd_st_pack(NULL, 0, NULL, 0, &buf, &diag), &diag);
    assert_int_equal(buf.len, 64);
    kd_st_file *f;
    kd_assert_ok(kd_st_open_memory(buf.data, buf.len, "empty", &f, &diag), &diag);
    assert_int_equal(kd_st_count(f), 0);
    assert_null(kd_st_find(f, ""));
    assert_null(kd_st_metadata(f, ""));
    kd_st_close(f);
    kd_buf_clear(&buf);
}

/* A file of another maker: no alignment, another order than the data's, types that are not ours. */
static void test_safetensors_foreign(void **state)
{
    (void)state;
    size_t len;
    uint8_t *file = file_of("{\"y\":{\"data_offsets\":[7,15],\"shape\":[2],\"dtype\":\"F32\"},"
                            "\"x\":{\"dtype\":\"BF16\",\"shape\":[3,1],\"data_offsets\":[0,6],"
                            "\"more\":{}},"
                            "\"w\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[6,7]}}   ",
                            15, &len);
    kd_diag diag = {0};
    kd_st_file *f;
    kd_assert_ok(kd_st_open_memory(file, len, "foreign", &f, &diag), &diag);
    assert_int_equal(kd_st_count(f), 3);
    assert_string_equal(kd_st_at(f, 0)->name, "y");
    assert_int_equal(kd_st_at(f, 0)->data[0], 7);
    assert_string_equal(kd_st_find(f, "x")->dtype, "BF16");
    assert_int_equal(kd_st_find(f, "x")->bytes, 6);
    assert_int_equal(kd_st_find(f, "w")->ndim, 0);
    kd_st_close(f);
    free(file);
}

#define T(name, shape, first, end)                                                                 \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" first "," end "]}"

static void test_safetensors_hostile(void **state)
{
    (void)state;
    refuse("", 0, KD_EDATA, "no JSON object");
    refuse("[]", 0, KD_EDATA, "no JSON object");
    refuse("{", 0, KD_EDATA, "no JSON object");
    refuse("{} x", 0, KD_EDATA, "no JSON object");
    refuse("{\"a\":7}", 0, KD_EDATA, "entry a is no object");
    refuse("{\"a\":{}}", 0, KD_EDATA, "tensor a lacks dtype");
    refuse("{\"a\":{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,4]}}", 4, KD_EDATA, "lacks dtype");
    refuse("{\"a\":{\"dtype\":\"F33\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, KD_EDATA,
           "unknown type F33");
    refuse("{\"__metadata__\":{\"k\":1}}", 0, KD_EDATA, "metadata k is no string");
    refuse("{\"__metadata__\":[]}", 0, KD_EDATA, "is no object");
    refuse("{" T("a", "1", "0", "4") "," T("a", "1", "4", "8") "}", 8, KD_EDATA, "duplicate");
    refuse("{" T("a", "2", "0", "8") "," T("b", "1", "4", "8") "}", 8, KD_EDATA, "overlaps");
    refuse("{" T("a", "1", "0", "4") "," T("b", "1", "0", "4") "}", 4, KD_EDATA, "overlaps");
    refuse("{" T("a", "1", "0", "4") "," T("b", "1", "8", "12") "}", 12, KD_EDATA, "hole");
    refuse("{" T("a", "1", "4", "8") "}", 8, KD_EDATA, "hole");
    refuse("{" T("a", "1", "0", "4") "}", 9, KD_EDATA, "5 bytes behind the last");
    refuse("{" T("a", "1", "0", "4") "}", 3, KD_EDATA, "truncated");
    refuse("{" T("a", "2", "0", "4") "}", 4, KD_EDATA, "disagree");
    refuse("{" T("a", "1", "4", "0") "}", 4, KD_EDATA, "impossible data_offsets");
    refuse("{" T("a", "1", "-4", "0") "}", 4, KD_EDATA, "impossible data_offsets");
    refuse("{" T("a", "1", "0", "4.0") "}", 4, KD_EDATA, "impossible data_offsets");
    refuse("{" T("a", "-1", "0", "4") "}", 4, KD_EDATA, "no whole number");
    refuse("{" T("a", "1.0", "0", "4") "}", 4, KD_EDATA, "no whole number");
    refuse("{" T("a", "true", "0", "4") "}", 4, KD_EDATA, "no whole number");
    refuse("{" T("a", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, KD_ELIMIT, "9 dimensions");
    /* 2^62 x 2^2 x 4 bytes is 0 modulo 2^64; a zero side makes any other size true. */
    refuse("{" T("a", "4611686018427387904,4", "0", "0") "}", 0, KD_EDATA, "disagree");
    refuse("{" T("a", "4611686018427387904,4611686018427387904,0", "0", "0") "}", 0, KD_EDATA,
           "disagree");
    refuse("{" T("a", "9223372036854775807", "0", "4") "}", 4, KD_EDATA, "disagree");
    refuse("{" T("a", "99999999999999999999", "0", "4") "}", 4, KD_EDATA, "no JSON object");
    refuse("{" T("a", "1", "0", "9223372036854775807") "}", 4, KD_EDATA, "truncated");
    refuse("{" T("a\\u0000b", "1", "0", "4") "}", 4, KD_EDATA, "no JSON object");
    refuse("{" T("a\xff", "1", "0", "4") "}", 4, KD_EDATA, "no JSON object");

    char *deep = malloc(1 << 21);
    memset(deep, '[', (1 << 21) - 1);
    deep[(1 << 21) - 1] = 0;
    refuse(deep, 0, KD_ELIMIT, "too many entries");
    deep[1 << 19] = 0;
    refuse(deep, 0, KD_EDATA, "no JSON object");
    free(deep);

    kd_st_file *f = NULL;
    kd_diag diag = {0};
    const uint8_t huge[16] = {1, 0, 0, 1};
    kd_assert_fails(kd_st_open_memory(huge, sizeof huge, "h", &f, &diag), KD_ELIMIT, &diag,
                    "is it a safetensors file?");
    const uint8_t all[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    kd_assert_fails(kd_st_open_memory(all, sizeof all, "h", &f, &diag), KD_ELIMIT, &diag, "limit");
}

static void test_safetensors_truncated(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_buf buf;
    kd_buf_init(&buf, 1 << 20);
    kd_assert_ok(kd_st_pack(items, 4, meta, 2, &buf, &diag), &diag);
    for (size_t len = 0; len < buf.len; len++) {
        /* A copy of its own, so that the sanitizer sees a read past the end. */
        uint8_t *cut = malloc(len + 1);
        memcpy(cut, buf.data, len);
        cut = realloc(cut, len ? len : 1);
        kd_st_file *f = NULL;
        kd_assert_fails(kd_st_open_memory(cut, len, "cut", &f, &diag), KD_EDATA, &diag, "cut: ");
        free(cut);
    }
    kd_buf_clear(&buf);
}

static void test_safetensors_paths(void **state)
{
    (void)state;
    char *folder = kd_test_mkdir(), path[256];
    kd_diag diag = {0};
    kd_st_file *f = NULL;
    snprintf(path, sizeof path, "%s/none", folder);
    kd_assert_fails(kd_st_open(path, &f, &diag), KD_ENOENT, &diag, path);
    kd_assert_fails(kd_st_open(folder, &f, &diag), KD_EINVAL, &diag, "no regular file");
    kd_assert_ok(kd_file_write(path, "", 0, &diag), &diag);
    kd_assert_fails(kd_st_open(path, &f, &diag), KD_EDATA, &diag, "0 bytes");
    kd_assert_ok(kd_file_write(path, "1234567", 7, &diag), &diag);
    kd_assert_fails(kd_st_open(path, &f, &diag), KD_EDATA, &diag, "7 bytes");
    assert_null(f);
    kd_test_rmdir(folder);
}

static void refuse_items(const kd_st_item *list, size_t n, const kd_st_pair *pairs, size_t n_pairs,
                         size_t max, int code, const char *part)
{
    kd_buf buf;
    kd_buf_init(&buf, max);
    kd_diag diag = {0};
    kd_assert_fails(kd_st_pack(list, n, pairs, n_pairs, &buf, &diag), code, &diag, part);
    kd_buf_clear(&buf);
}

static void test_safetensors_bad_items(void **state)
{
    (void)state;
    const size_t room = 1 << 20;
    kd_st_item two[] = {items[0], items[1]};
    two[1].name = two[0].name;
    refuse_items(two, 2, NULL, 0, room, KD_EINVAL, "b.weight is taken");
    two[1].name = "__metadata__";
    refuse_items(two, 2, NULL, 0, room, KD_EINVAL, "taken");
    two[1].name = "\xc3";
    refuse_items(two, 2, NULL, 0, room, KD_EINVAL, "UTF-8");
    two[1].name = "x";
    two[1].ndim = 9;
    refuse_items(two, 2, NULL, 0, room, KD_EINVAL, "impossible shape");
    two[1].ndim = 2;
    two[1].shape[0] = two[1].shape[1] = (int64_t)1 << 32;
    refuse_items(two, 2, NULL, 0, room, KD_EINVAL, "impossible shape");
    two[1].shape[0] = -1;
    refuse_items(two, 2, NULL, 0, room, KD_EINVAL, "impossible shape");
    refuse_items(items, 4, (kd_st_pair[]){{"k", "1"}, {"k", "2"}}, 2, room, KD_EINVAL, "named k");
    refuse_items(items, 4, (kd_st_pair[]){{"k", "\xff"}}, 1, room, KD_EINVAL, "k is not UTF-8");
    refuse_items(items, 4, meta, 2, 100, KD_ELIMIT, "100 bytes");
    kd_diag diag = {0};
    kd_assert_fails(kd_st_write("/nowhere/at/all", items, 4, meta, 2, &diag), KD_ENOENT, &diag,
                    "/nowhere/at/all");
}

static void test_safetensors_real(void **state)
{
    (void)state;
    if (!kd_test_data()) {
        print_message("DISTILL_DATA is not set\n");
        skip();
    }
    char path[512];
    snprintf(path, sizeof path, "%s/weights/mobilenet_v2.safetensors", kd_test_data());
    kd_diag diag = {0};
    kd_st_file *f;
    kd_assert_ok(kd_st_open(path, &f, &diag), &diag);
    assert_int_equal(kd_st_count(f), 262);
    assert_string_equal(kd_st_metadata(f, "bn_eps"), "0.001");
    const kd_st_tensor *t = kd_st_find(f, "classifier.1.weight");
    assert_non_null(t);
    assert_int_equal(t->bytes, 1000 * 1280 * 4);
    kd_st_close(f);
}

/* Floats written in 8 and 16 bits, whatever they are: a coordinator writes what workers send. */
static void test_safetensors_narrow(void **state)
{
    (void)state;
    static const float wild[] = {1, -127, 63.4F, NAN, INFINITY, -INFINITY, 0, NAN};
    char name[130];
    kd_diag diag = {0};
    kd_buf out;
    kd_st_file *f;
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    kd_st_item list[] = {
        {.name = "a", .ndim = 2, .shape = {2, 4}, .data = wild, .type = KD_ST_I8},
        {.name = "b", .ndim = 1, .shape = {3}, .data = wild, .type = KD_ST_BF16},
        {.name = "c", .ndim = 1, .shape = {3}, .data = wild, .type = KD_ST_F16},
        {.name = "d", .ndim = 0, .data = wild, .type = KD_ST_F32},
    };
    kd_buf_init(&out, 1 << 20);
    kd_assert_ok(kd_narrow_pack(list, KD_COUNT(list), NULL, 0, &out, &diag), &diag);
    kd_assert_ok(kd_st_open_memory(out.data, out.len, "narrow", &f, &diag), &diag);
    assert_int_equal(kd_st_count(f), 5);
    /* Wider types first; scales beside the floats. */
    static const char *const order[][2] = {
        {"a.scale", "F32"}, {"d", "F32"}, {"c", "F16"}, {"b", "BF16"}, {"a", "I8"}};
    for (size_t i = 0; i < KD_COUNT(order); i++) {
        assert_string_equal(kd_st_at(f, i)->name, order[i][0]);
        assert_string_equal(kd_st_at(f, i)->dtype, order[i][1]);
    }
    static const int8_t codes[] = {1, -127, 63, 0};
    assert_memory_equal(kd_st_find(f, "a")->data, codes, sizeof codes);
    assert_int_equal(kd_st_find(f, "a.scale")->shape[0], 2);
    kd_st_close(f);
    kd_buf_clear(&out);

    kd_buf_init(&out, 1 << 20);
    list[0].name = name;
    kd_assert_fails(kd_narrow_pack(list, 1, NULL, 0, &out, &diag), KD_EINVAL, &diag, "name");
    list[0] = (kd_st_item){.name = "a", .ndim = 0, .data = wild, .type = KD_ST_I8};
    kd_assert_fails(kd_narrow_pack(list, 1, NULL, 0, &out, &diag), KD_EINVAL, &diag, "shape");
    list[0].ndim = 1; /* of 0 rows */
    kd_assert_fails(kd_narrow_pack(list, 1, NULL, 0, &out, &diag), KD_EINVAL, &diag, "shape");
    assert_int_equal(kd_st_type_of("F64"), -1);
    kd_buf_clear(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors_round_trip), cmocka_unit_test(test_safetensors_empty),
        cmocka_unit_test(test_safetensors_foreign),    cmocka_unit_test(test_safetensors_hostile),
        cmocka_unit_test(test_safetensors_truncated),  cmocka_unit_test(test_safetensors_paths),
        cmocka_unit_test(test_safetensors_bad_items),  cmocka_unit_test(test_safetensors_real),
        cmocka_unit_test(test_safetensors_narrow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
