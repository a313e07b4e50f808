#include "data/decode.h"

#include "data/exif.h"

#include <setjmp.h>
#include <spng.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* jpeglib.h needs stdio.h before it, jerror.h needs both. */
#include <jpeglib.h>

#include <jerror.h>

/* A progressive file may ask for the whole picture to be gone over again and again: a small file,
 * hours of work. Cameras write ten scans or so. */
#define MAX_SCANS 100
#define PNG_MAX_CHUNK (8u << 20)

void kd_image_free(kd_image *im)
{
    free(im->rgb);
    *im = (kd_image){0};
}

static int check_size(const char *kind, int64_t w, int64_t h, kd_diag *diag)
{
    if (w < 1 || h < 1)
        return kd_fail(diag, -KD_EDATA, "the %s picture is %lld by %lld pixels", kind, (long long)w,
                       (long long)h);
    if (w > KD_IMAGE_MAX_SIDE || h > KD_IMAGE_MAX_SIDE || w * h > KD_IMAGE_MAX_PIXELS)
        return kd_fail(diag, -KD_ELIMIT,
                       "the %s picture is %lld by %lld pixels; at most %d a side and %d in all are "
                       "accepted",
                       kind, (long long)w, (long long)h, KD_IMAGE_MAX_SIDE, KD_IMAGE_MAX_PIXELS);
    return 0;
}

/* ---- JPEG */

/* libjpeg reports errors by a function that must not return. The function that calls setjmp has no
 * locals that matter after the jump: what must be freed stands in this struct, in its caller's
 * frame. */
typedef struct jpeg_work {
    struct jpeg_error_mgr err; /* first: libjpeg hands this address back */
    struct jpeg_progress_mgr progress;
    jmp_buf out;
    char msg[JMSG_LENGTH_MAX];
    uint8_t *rgb, *row;
    unsigned char *coded; /* encoder's output, taken by libjpeg */
    unsigned long coded_len;
} jpeg_work;

_Noreturn static void jpeg_error(j_common_ptr c)
{
    jpeg_work *work = (jpeg_work *)c->err;
    c->err->format_message(c, work->msg);
    longjmp(work->out, 1);
}

static void jpeg_message(j_common_ptr c, int level)
{
    if (level >= 0)
        return;
    /* Warnings under which the pixels are still the right ones. All others mean that libjpeg has
     * made pixels up, grey ones as a rule. */
    switch (c->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
    case JWRN_TOO_MUCH_DATA:
        return;
    default:
        jpeg_error(c);
    }
}

static void jpeg_scans(j_common_ptr c)
{
    if (((j_decompress_ptr)c)->input_scan_number <= MAX_SCANS)
        return;
    jpeg_work *work = (jpeg_work *)c->err;
    snprintf(work->msg, sizeof work->msg, "more than %d scans", MAX_SCANS);
    longjmp(work->out, 1);
}

static struct jpeg_error_mgr *jpeg_errors(jpeg_work *work)
{
    jpeg_std_error(&work->err);
    work->err.error_exit = jpeg_error;
    work->err.emit_message = jpeg_message;
    work->progress.progress_monitor = jpeg_scans;
    return &work->err;
}

/* Adobe writes ink as 255 - ink, and every reader has followed: with its marker 255 means no ink.
 */
static void cmyk_row(const uint8_t *cmyk, int w, bool inverted, uint8_t *rgb)
{
    unsigned flip = inverted ? 0 : 255;
    for (int x = 0; x < w; x++, cmyk += 4, rgb += 3)
        for (int k = 0; k < 3; k++)
            rgb[k] = (uint8_t)(((cmyk[k] ^ flip) * (cmyk[3] ^ flip) + 127) / 255);
}

static int orientation_of(const struct jpeg_decompress_struct *c)
{
    for (jpeg_saved_marker_ptr m = c->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1) {
            int found = kd_exif_orientation(m->data, m->data_length);
            if (found)
                return found;
        }
    return 1;
}

static int jpeg_pixels(struct jpeg_decompress_struct *c, jpeg_work *work, const uint8_t *bytes,
                       size_t len, int *out_orientation, kd_diag *diag)
{
    if (setjmp(work->out))
        return kd_fail(diag, -KD_EDATA, "the JPEG picture cannot be decoded: %s", work->msg);
    jpeg_create_decompress(c);
    c->progress = &work->progress;
    jpeg_mem_src(c, bytes, (unsigned long)len);
    jpeg_save_markers(c, JPEG_APP0 + 1, 0xFFFF);
    (void)jpeg_read_header(c, TRUE);
    int rc = check_size("JPEG", c->image_width, c->image_height, diag);
    if (rc != 0)
        return rc;
    bool ink = c->jpeg_color_space == JCS_CMYK || c->jpeg_color_space == JCS_YCCK;
    c->out_color_space = ink ? JCS_CMYK : JCS_RGB;
    c->dct_method = JDCT_ISLOW; /* integers: equal bits on every machine */
    *out_orientation = orientation_of(c);
    size_t w = c->image_width, h = c->image_height;
    work->rgb = malloc(3 * w * h);
    work->row = ink ? malloc(4 * w) : NULL;
    if (!work->rgb || (ink && !work->row))
        return kd_fail(diag, -KD_ENOMEM, "no memory for a JPEG picture of %zu by %zu pixels", w, h);
    (void)jpeg_start_decompress(c);
    while (c->output_scanline < c->output_height) {
        uint8_t *to = work->rgb + 3 * w * c->output_scanline;
        JSAMPROW row = ink ? work->row : to;
        (void)jpeg_read_scanlines(c, &row, 1);
        if (ink)
            cmyk_row(work->row, (int)w, c->saw_Adobe_marker, to);
    }
    (void)jpeg_finish_decompress(c);
    return 0;
}

static int decode_jpeg(const uint8_t *bytes, size_t len, kd_image *out, kd_diag *diag)
{
    struct jpeg_decompress_struct c = {0};
    jpeg_work work = {0};
    int orientation = 1;
    c.err = jpeg_errors(&work);
    int rc = jpeg_pixels(&c, &work, bytes, len, &orientation, diag);
    kd_image im = {.w = (int)c.image_width, .h = (int)c.image_height, .rgb = work.rgb};
    jpeg_destroy_decompress(&c);
    free(work.row);
    if (rc == 0)
        rc = kd_exif_orient(&im, orientation, diag);
    if (rc != 0)
        kd_image_free(&im);
    else
        *out = im;
    return rc;
}

/* ---- PNG */

static int png_fail(int code, kd_diag *diag)
{
    if (code == SPNG_EMEM)
        return kd_fail(diag, -KD_ENOMEM, "no memory to decode a PNG picture");
    return kd_fail(diag, -KD_EDATA, "the PNG picture cannot be decoded: %s", spng_strerror(code));
}

/* libspng stops at the name of the last chunk, and would take a file that is cut in its checksum.
 */
static bool png_is_whole(const uint8_t *p, size_t len)
{
    size_t at = 8;
    while (len - at >= 12) {
        size_t body =
            (size_t)p[at] << 24 | (size_t)p[at + 1] << 16 | (size_t)p[at + 2] << 8 | p[at + 3];
        if (body > len - at - 12)
            return false;
        if (memcmp(p + at + 4, "IEND", 4) == 0)
            return true;
        at += 12 + body;
    }
    return false;
}

static int png_pixels(spng_ctx *ctx, uint8_t **out_rgba, size_t *out_pixels, kd_image *out,
                      kd_diag *diag)
{
    struct spng_ihdr ihdr;
    int code = spng_get_ihdr(ctx, &ihdr);
    if (code)
        return png_fail(code, diag);
    int rc = check_size("PNG", ihdr.width, ihdr.height, diag);
    if (rc != 0)
        return rc;
    size_t pixels = (size_t)ihdr.width * ihdr.height, size = 0;
    code = spng_decoded_image_size(ctx, SPNG_FMT_RGBA8, &size);
    if (code)
        return png_fail(code, diag);
    KD_BUG_ON(size != 4 * pixels);
    uint8_t *rgba = malloc(size);
    if (!rgba)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a PNG picture of %u by %u pixels",
                       ihdr.width, ihdr.height);
    code = spng_decode_image(ctx, rgba, size, SPNG_FMT_RGBA8, SPNG_DECODE_TRNS);
    if (!code)
        code = spng_decode_chunks(ctx); /* those behind the pixels may be damaged */
    if (code) {
        free(rgba);
        return png_fail(code, diag);
    }
    *out_rgba = rgba;
    *out_pixels = pixels;
    out->w = (int)ihdr.width;
    out->h = (int)ihdr.height;
    return 0;
}

static int decode_png(const uint8_t *bytes, size_t len, kd_image *out, kd_diag *diag)
{
    if (!png_is_whole(bytes, len))
        return kd_fail(diag, -KD_EDATA, "the PNG picture cannot be decoded: the file ends early");
    spng_ctx *ctx = spng_ctx_new(0);
    if (!ctx)
        return kd_fail(diag, -KD_ENOMEM, "no memory to decode a PNG picture");
    spng_set_image_limits(ctx, INT32_MAX, INT32_MAX); /* check_size has the better sentence */
    spng_set_chunk_limits(ctx, PNG_MAX_CHUNK, 2 * PNG_MAX_CHUNK);
    uint8_t *rgba = NULL;
    size_t pixels = 0;
    kd_image im = {0};
    int code = spng_set_png_buffer(ctx, bytes, len);
    int rc = code ? png_fail(code, diag) : png_pixels(ctx, &rgba, &pixels, &im, diag);
    spng_ctx_free(ctx);
    if (rc != 0)
        return rc;
    /* In place: three bytes are written where four were read. */
    for (size_t i = 0; i < pixels; i++) {
        unsigned a = rgba[4 * i + 3];
        for (size_t k = 0; k < 3; k++)
            rgba[3 * i + k] = (uint8_t)((rgba[4 * i + k] * a + 127) / 255);
    }
    uint8_t *less = realloc(rgba, 3 * pixels);
    im.rgb = less ? less : rgba;
    *out = im;
    return 0;
}

int kd_image_decode(const uint8_t *bytes, size_t len, kd_image *out, kd_diag *diag)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    if (len > KD_IMAGE_MAX_FILE)
        return kd_fail(diag, -KD_ELIMIT, "the picture file has %zu bytes, at most %u are accepted",
                       len, KD_IMAGE_MAX_FILE);
    if (len >= 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF)
        return decode_jpeg(bytes, len, out, diag);
    if (len >= sizeof png && memcmp(bytes, png, sizeof png) == 0)
        return decode_png(bytes, len, out, diag);
    return kd_fail(diag, -KD_EDATA,
                   len == 0 ? "the picture file is empty"
                            : "the file is neither a JPEG nor a PNG picture");
}

/* ---- writing */

static int write_bytes(const char *path, const void *bytes, size_t len, kd_diag *diag)
{
    FILE *f = fopen(path, "wbe");
    bool ok = f && fwrite(bytes, 1, len, f) == len;
    if (f && fclose(f) != 0)
        ok = false;
    return ok ? 0 : kd_fail(diag, -KD_EIO, "cannot write %s: %m", path);
}

int kd_image_write_png(const char *path, const uint8_t *rgb, int w, int h, kd_diag *diag)
{
    int rc = check_size("PNG", w, h, diag);
    if (rc != 0)
        return rc;
    spng_ctx *ctx = spng_ctx_new(SPNG_CTX_ENCODER);
    if (!ctx)
        return kd_fail(diag, -KD_ENOMEM, "no memory to encode %s", path);
    struct spng_ihdr ihdr = {.width = (uint32_t)w,
                             .height = (uint32_t)h,
                             .bit_depth = 8,
                             .color_type = SPNG_COLOR_TYPE_TRUECOLOR};
    void *coded = NULL;
    size_t coded_len = 0;
    int code = spng_set_ihdr(ctx, &ihdr);
    if (!code)
        code = spng_set_option(ctx, SPNG_ENCODE_TO_BUFFER, 1);
    if (!code)
        code = spng_encode_image(ctx, rgb, 3 * (size_t)w * (size_t)h, SPNG_FMT_PNG,
                                 SPNG_ENCODE_FINALIZE);
    if (!code)
        coded = spng_get_png_buffer(ctx, &coded_len, &code);
    spng_ctx_free(ctx);
    rc = coded ? write_bytes(path, coded, coded_len, diag)
               : kd_fail(diag, code == SPNG_EMEM ? -KD_ENOMEM : -KD_EINTERNAL,
                         "cannot encode %s: %s", path, spng_strerror(code));
    free(coded);
    return rc;
}

static int jpeg_encode(struct jpeg_compress_struct *c, jpeg_work *work, const uint8_t *rgb, int w,
                       int h, int quality)
{
    if (setjmp(work->out))
        return -KD_EINTERNAL;
    jpeg_create_compress(c);
    jpeg_mem_dest(c, &work->coded, &work->coded_len);
    c->image_width = (JDIMENSION)w;
    c->image_height = (JDIMENSION)h;
    c->input_components = 3;
    c->in_color_space = JCS_RGB;
    jpeg_set_defaults(c);
    jpeg_set_quality(c, quality, TRUE);
    c->dct_method = JDCT_ISLOW;
    jpeg_start_compress(c, TRUE);
    while (c->next_scanline < c->image_height) {
        /* libjpeg's rows are not const, but it does not write to them. */
        JSAMPROW row = (JSAMPROW)(uintptr_t)(rgb + 3 * (size_t)w * c->next_scanline);
        (void)jpeg_write_scanlines(c, &row, 1);
    }
    jpeg_finish_compress(c);
    return 0;
}

int kd_image_encode_jpeg(const uint8_t *rgb, int w, int h, int quality, uint8_t **out,
                         size_t *out_len, kd_diag *diag)
{
    int rc = check_size("JPEG", w, h, diag);
    if (rc != 0)
        return rc;
    if (quality < 1 || quality > 100)
        return kd_fail(diag, -KD_EINVAL, "JPEG quality %d; it is 1 to 100", quality);
    struct jpeg_compress_struct c = {0};
    jpeg_work work = {0};
    c.err = jpeg_errors(&work);
    rc = jpeg_encode(&c, &work, rgb, w, h, quality);
    jpeg_destroy_compress(&c);
    if (rc != 0) {
        free(work.coded);
        return kd_fail(diag, rc, "cannot encode a JPEG: %s", work.msg);
    }
    *out = work.coded;
    *out_len = work.coded_len;
    return 0;
}

int kd_image_write_jpeg(const char *path, const uint8_t *rgb, int w, int h, int quality,
                        kd_diag *diag)
{
    uint8_t *coded;
    size_t len;
    int rc = kd_image_encode_jpeg(rgb, w, h, quality, &coded, &len, diag);
    if (rc != 0)
        return kd_fail_at(diag, rc, "%s", path);
    rc = write_bytes(path, coded, len, diag);
    free(coded);
    return rc;
}
