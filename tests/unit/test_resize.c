#include "data/data.h"
#include "kd_test.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The same bytes as picture() in tests/golden/make_resize_golden.py. */
static kd_image picture(int w, int h)
{
    kd_image im = {.w = w, .h = h, .rgb = kd_xalloc(3 * (size_t)w * (size_t)h)};
    uint32_t state = (uint32_t)(w * 1000 + h);
    uint8_t *p = im.rgb;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) {
                state = state * 1664525u + 1013904223u;
                int slope = (255 * x / w + 255 * y / h) / 2;
                *p++ = (uint8_t)((x / 3 + y / 2 + c) % 2 ? (int)(state >> 24) : slope);
            }
    return im;
}

static void test_resize_agrees_with_pillow(void **state)
{
    (void)state;
    json_error_t error;
    json_t *file = json_load_file("tests/golden/resize.json", 0, &error);
    assert_non_null(file);
    json_t *cases = json_object_get(file, "cases"), *one;
    assert_true(json_array_size(cases) >= 10);
    size_t i;
    json_array_foreach(cases, i, one)
    {
        int w, h, ow, oh;
        json_t *rgb;
        assert_int_equal(
            json_unpack(one, "{s:[i,i], s:[i,i], s:o}", "in", &w, &h, "out", &ow, &oh, "rgb", &rgb),
            0);
        kd_image im = picture(w, h);
        size_t n = 3 * (size_t)ow * (size_t)oh;
        uint8_t *out = kd_xalloc(n);
        kd_diag diag = {0};
        kd_assert_ok(kd_image_resize(&im, ow, oh, out, &diag), &diag);
        assert_int_equal(json_array_size(rgb), n);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(out[k], json_integer_value(json_array_get(rgb, k)));
        free(out);
        kd_image_free(&im);
    }
    json_decref(file);
}

static void test_resize_keeps_flat_colour(void **state)
{
    (void)state;
    static const int sizes[][4] = {{1, 1, 7, 5}, {300, 2, 3, 9}, {17, 255, 16, 16}, {2, 3, 64, 64}};
    for (size_t i = 0; i < KD_COUNT(sizes); i++)
        for (int v = 0; v < 256; v += 51) {
            kd_image im = {.w = sizes[i][0], .h = sizes[i][1]};
            size_t n = 3 * (size_t)im.w * (size_t)im.h;
            im.rgb = kd_xalloc(n);
            memset(im.rgb, v, n);
            size_t out_n = 3 * (size_t)sizes[i][2] * (size_t)sizes[i][3];
            uint8_t *out = kd_xalloc(out_n);
            kd_diag diag = {0};
            kd_assert_ok(kd_image_resize(&im, sizes[i][2], sizes[i][3], out, &diag), &diag);
            for (size_t k = 0; k < out_n; k++)
                assert_int_equal(out[k], v);
            free(out);
            kd_image_free(&im);
        }
}

static void test_resize_refuses_odd_sizes(void **state)
{
    (void)state;
    uint8_t pixel[3] = {0}, out[3];
    kd_image im = {.w = 1, .h = 1, .rgb = pixel};
    kd_diag diag = {0};
    kd_assert_fails(kd_image_resize(&im, 0, 1, out, &diag), KD_EINVAL, &diag, "1x1 to 0x1");
    kd_assert_fails(kd_image_resize(&im, 1, KD_IMAGE_MAX_SIDE + 1, out, &diag), KD_EINVAL, &diag,
                    "sides are 1 to");
    im = (kd_image){.w = 1, .h = KD_IMAGE_MAX_SIDE, .rgb = pixel};
    kd_assert_fails(kd_image_resize(&im, 4096, 1, out, &diag), KD_ELIMIT, &diag, "on the way");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resize_agrees_with_pillow),
        cmocka_unit_test(test_resize_keeps_flat_colour),
        cmocka_unit_test(test_resize_refuses_odd_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
