#include "data/data.h"
#include "data/exif.h"
#include "kd/file.h"
#include "kd_test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

static uint8_t *read_bytes(const char *path, size_t *len)
{
    char *data;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, KD_IMAGE_MAX_FILE, &data, len, &diag), &diag);
    return (uint8_t *)data;
}

static json_t *golden(void)
{
    json_error_t error;
    json_t *file = json_load_file("tests/golden/images.json", 0, &error);
    assert_non_null(file);
    return file;
}

static void test_decode_odd_kinds(void **state)
{
    (void)state;
    json_t *file = golden(), *cases = json_object_get(file, "cases"), *one;
    assert_int_equal(json_array_size(cases), 20);
    size_t i;
    json_array_foreach(cases, i, one)
    {
        const char *name;
        int w, h, within;
        json_t *rgb;
        assert_int_equal(json_unpack(one, "{s:s, s:[i,i], s:i, s:o}", "file", &name, "size", &w, &h,
                                     "within", &within, "rgb", &rgb),
                         0);
        char path[256];
        snprintf(path, sizeof path, "tests/golden/images/%s", name);
        size_t len;
        uint8_t *bytes = read_bytes(path, &len);
        kd_image im;
        kd_diag diag = {0};
        kd_assert_ok(kd_image_decode(bytes, len, &im, &diag), &diag);
        assert_int_equal(im.w, w);
        assert_int_equal(im.h, h);
        for (size_t k = 0; k < 3 * (size_t)w * (size_t)h; k++) {
            int want = (int)json_integer_value(json_array_get(rgb, k));
            if (abs((int)im.rgb[k] - want) > within)
                print_error("%s: value %zu is %d, expected %d\n", name, k, im.rgb[k], want);
            assert_true(abs((int)im.rgb[k] - want) <= within);
        }
        kd_image_free(&im);
        assert_null(im.rgb);
        free(bytes);
    }
    json_decref(file);
}

/* Every shorter file must be an error, whatever it was cut in. */
static void test_decode_truncated(void **state)
{
    (void)state;
    json_t *file = golden(), *cases = json_object_get(file, "cases"), *one;
    size_t i;
    json_array_foreach(cases, i, one)
    {
        char path[256];
        snprintf(path, sizeof path, "tests/golden/images/%s",
                 json_string_value(json_object_get(one, "file")));
        size_t len;
        uint8_t *bytes = read_bytes(path, &len);
        for (size_t cut = 0; cut < len; cut++) {
            /* A copy of its own, so that reading past the end is seen. */
            uint8_t *part = malloc(cut ? cut : 1);
            assert_non_null(part);
            memcpy(part, bytes, cut);
            kd_image im = {0};
            kd_diag diag = {0};
            int rc = kd_image_decode(part, cut, &im, &diag);
            if (rc != -KD_EDATA)
                print_error("%s cut to %zu of %zu bytes: %d\n", path, cut, len, rc);
            assert_int_equal(rc, -KD_EDATA);
            assert_int_equal(diag.code, -KD_EDATA);
            assert_null(im.rgb);
            free(part);
        }
        free(bytes);
    }
    json_decref(file);
}

static void test_decode_not_a_picture(void **state)
{
    (void)state;
    kd_image im = {0};
    kd_diag diag = {0};
    kd_assert_fails(kd_image_decode((const uint8_t *)"", 0, &im, &diag), KD_EDATA, &diag, "empty");
    kd_assert_fails(kd_image_decode((const uint8_t *)"<html></html>", 13, &im, &diag), KD_EDATA,
                    &diag, "neither a JPEG nor a PNG");
}

/* A header that promises too much is refused before memory is taken. */
static void test_decode_huge(void **state)
{
    (void)state;
    size_t len;
    uint8_t *bytes = read_bytes("tests/golden/images/grey.jpg", &len);
    uint8_t *sof = NULL;
    for (size_t i = 0; i + 9 < len && !sof; i++)
        if (bytes[i] == 0xFF && bytes[i + 1] == 0xC0)
            sof = bytes + i;
    assert_non_null(sof);
    memset(sof + 5, 0xFA, 4); /* height and width: 64250 */
    kd_image im = {0};
    kd_diag diag = {0};
    kd_assert_fails(kd_image_decode(bytes, len, &im, &diag), KD_ELIMIT, &diag, "64250 by 64250");
    free(bytes);
}

static uint8_t *encode_ycck(const uint8_t *cmyk, int w, int h, unsigned long *len)
{
    struct jpeg_compress_struct c = {0};
    struct jpeg_error_mgr err;
    c.err = jpeg_std_error(&err);
    jpeg_create_compress(&c);
    unsigned char *out = NULL;
    jpeg_mem_dest(&c, &out, len);
    c.image_width = (JDIMENSION)w;
    c.image_height = (JDIMENSION)h;
    c.input_components = 4;
    c.in_color_space = JCS_CMYK;
    jpeg_set_defaults(&c);
    jpeg_set_colorspace(&c, JCS_YCCK);
    jpeg_set_quality(&c, 98, TRUE);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(cmyk + 4 * (size_t)w * c.next_scanline);
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    return out;
}

static void test_decode_ycck(void **state)
{
    (void)state;
    enum { W = 16, H = 16 };
    uint8_t cmyk[W * H * 4], want[3];
    /* As Adobe stores it: 255 = no ink. */
    for (int i = 0; i < W * H; i++)
        memcpy(cmyk + 4 * i, (uint8_t[4]){200, 120, 60, 230}, 4);
    for (int k = 0; k < 3; k++)
        want[k] = (uint8_t)(cmyk[k] * 230 / 255);
    unsigned long len = 0;
    uint8_t *bytes = encode_ycck(cmyk, W, H, &len);
    kd_image im;
    kd_diag diag = {0};
    kd_assert_ok(kd_image_decode(bytes, len, &im, &diag), &diag);
    for (size_t i = 0; i < W * H * 3; i++)
        assert_true(abs((int)im.rgb[i] - (int)want[i % 3]) <= 4);
    kd_image_free(&im);
    free(bytes);
}

/* Eight by eight pixels in three scans of a component each, the last one `times` times. */
static uint8_t *encode_scans(int times, size_t *out_len)
{
    static const jpeg_scan_info scans[3] = {
        {1, {0}, 0, 63, 0, 0}, {1, {1}, 0, 63, 0, 0}, {1, {2}, 0, 63, 0, 0}};
    struct jpeg_compress_struct c = {0};
    struct jpeg_error_mgr err;
    c.err = jpeg_std_error(&err);
    jpeg_create_compress(&c);
    unsigned char *once = NULL;
    unsigned long len = 0;
    jpeg_mem_dest(&c, &once, &len);
    c.image_width = c.image_height = 8;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    c.scan_info = scans;
    c.num_scans = 3;
    jpeg_start_compress(&c, TRUE);
    uint8_t pixels[24] = {200, 10, 10, 30, 180, 90};
    while (c.next_scanline < 8) {
        JSAMPROW row = pixels;
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    size_t start = 0;
    for (size_t i = 0; i + 1 < len; i++)
        if (once[i] == 0xFF && once[i + 1] == 0xDA)
            start = i;
    size_t scan = len - 2 - start;
    uint8_t *out = kd_xalloc(len + (size_t)times * scan);
    memcpy(out, once, len - 2);
    size_t at = len - 2;
    for (int i = 1; i < times; i++, at += scan)
        memcpy(out + at, once + start, scan);
    memcpy(out + at, "\xFF\xD9", 2);
    free(once);
    *out_len = at + 2;
    return out;
}

static void test_decode_bounds_scans(void **state)
{
    (void)state;
    for (int times = 1; times <= 1001; times += 500) {
        size_t len;
        uint8_t *bytes = encode_scans(times, &len);
        kd_image im = {0};
        kd_diag diag = {0};
        int rc = kd_image_decode(bytes, len, &im, &diag);
        if (times == 1) {
            kd_assert_ok(rc, &diag);
            assert_int_equal(im.w, 8);
        } else {
            kd_assert_fails(rc, KD_EDATA, &diag, "more than 100 scans");
        }
        kd_image_free(&im);
        free(bytes);
    }
}

static void test_exif_bounds(void **state)
{
    (void)state;
    uint8_t good[] = "Exif\0\0II\x2A\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    size_t len = sizeof good - 1;
    assert_int_equal(kd_exif_orientation(good, len), 6);
    for (size_t cut = 0; cut < len - 4; cut++) {
        uint8_t *part = malloc(cut ? cut : 1);
        assert_non_null(part);
        memcpy(part, good, cut);
        assert_int_equal(kd_exif_orientation(part, cut), 0);
        free(part);
    }
    /* Value, type, count, offset of the directory, number of entries. */
    struct {
        size_t at;
        uint8_t value;
    } bad[] = {{24, 0},   {24, 9}, {18, 4}, {20, 2}, {10, 255},
               {13, 255}, {14, 0}, {8, 43}, {6, 'X'}};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        uint8_t keep = good[bad[i].at];
        good[bad[i].at] = bad[i].value;
        assert_int_equal(kd_exif_orientation(good, len), 0);
        good[bad[i].at] = keep;
    }
}

static void test_write_and_read_back(void **state)
{
    (void)state;
    enum { W = 37, H = 23 };
    uint8_t rgb[W * H * 3];
    for (int i = 0; i < W * H; i++) {
        rgb[3 * i] = (uint8_t)(6 * (i % W));
        rgb[3 * i + 1] = (uint8_t)(10 * (i / W));
        rgb[3 * i + 2] = 100;
    }
    char *dir = kd_test_mkdir(), path[256];
    kd_diag diag = {0};
    for (int png = 0; png < 2; png++) {
        snprintf(path, sizeof path, "%s/a.%s", dir, png ? "png" : "jpg");
        if (png)
            kd_assert_ok(kd_image_write_png(path, rgb, W, H, &diag), &diag);
        else
            kd_assert_ok(kd_image_write_jpeg(path, rgb, W, H, 95, &diag), &diag);
        size_t len;
        uint8_t *bytes = read_bytes(path, &len);
        kd_image im;
        kd_assert_ok(kd_image_decode(bytes, len, &im, &diag), &diag);
        assert_int_equal(im.w, W);
        assert_int_equal(im.h, H);
        for (size_t i = 0; i < sizeof rgb; i++)
            assert_true(abs((int)im.rgb[i] - (int)rgb[i]) <= (png ? 0 : 12));
        kd_image_free(&im);
        free(bytes);
    }
    snprintf(path, sizeof path, "%s/missing/a.png", dir);
    kd_assert_fails(kd_image_write_png(path, rgb, W, H, &diag), KD_EIO, &diag, "missing/a.png");
    kd_assert_fails(kd_image_write_jpeg(path, rgb, W, H, 0, &diag), KD_EINVAL, &diag, "quality 0");
    kd_test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_odd_kinds),     cmocka_unit_test(test_decode_truncated),
        cmocka_unit_test(test_decode_not_a_picture), cmocka_unit_test(test_decode_huge),
        cmocka_unit_test(test_decode_ycck),          cmocka_unit_test(test_decode_bounds_scans),
        cmocka_unit_test(test_exif_bounds),          cmocka_unit_test(test_write_and_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
