#include "store/narrow.h"

#include "kd/bfloat16.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 16
#define NAME_ROOM 128

/* ---- 8 bits */

float kd_int8_unit_for(float largest, int most)
{
    int exponent;
    const double unit = (double)largest / most;
    if (!(unit > 0))
        return 1;
    const double fraction = frexp(unit, &exponent);
    return (float)ldexp(ceil(ldexp(fraction, DIGITS)), exponent - DIGITS);
}

float kd_int8_row_unit(const float *w, size_t row)
{
    float largest = 0;
    for (size_t i = 0; i < row; i++)
        largest = fmaxf(largest, fabsf(w[i]));
    return kd_int8_unit_for(largest, KD_INT8_WEIGHT);
}

/* What is no number has no code. */
static int8_t code_of(float w, float unit)
{
    const float code = nearbyintf(w / unit);
    return fabsf(code) <= KD_INT8_WEIGHT ? (int8_t)code : 0;
}

void kd_int8_codes(const float *w, int rows, size_t row, int8_t *codes, float *units)
{
    for (int r = 0; r < rows; r++, w += row, codes += row) {
        units[r] = kd_int8_row_unit(w, row);
        for (size_t i = 0; i < row; i++)
            codes[i] = code_of(w[i], units[r]);
    }
}

void kd_int8_round(float *w, int rows, size_t row)
{
    for (int r = 0; r < rows; r++, w += row) {
        const float unit = kd_int8_row_unit(w, row);
        for (size_t i = 0; i < row; i++)
            w[i] = unit * (float)code_of(w[i], unit);
    }
}

/* ---- 16 bits */

#define F16_LARGEST 0x7bffU
#define F16_LEAST_NORMAL 0x1p-14F
#define F16_SUBNORMAL_UNIT 0x1p-24F
#define BF16_INFINITY 0x7f80U

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t float16_bits(float x)
{
    const uint32_t sign = bits_of(x) >> 16 & 0x8000U;
    const float size = fabsf(x);
    if (size < F16_LEAST_NORMAL)
        return (uint16_t)(sign | (uint32_t)nearbyintf(size / F16_SUBNORMAL_UNIT));
    /* 13 bits less, to the nearest, ties to even; a carry into the exponent is right. */
    const uint32_t bits = bits_of(size), less = (bits + 0xfffU + (bits >> 13 & 1)) >> 13,
                   rounded = less - ((127U - 15U) << 10);
    return (uint16_t)(sign | (rounded > F16_LARGEST ? F16_LARGEST : rounded));
}

static float float16_value(uint16_t half)
{
    const uint32_t sign = (half & 0x8000U) << 16, exponent = half >> 10 & 31,
                   fraction = half & 1023U;
    if (exponent == 0) {
        const float size = (float)fraction * F16_SUBNORMAL_UNIT; /* exact */
        return sign ? -size : size;
    }
    return of_bits(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
}

uint16_t kd_half_bits(float x, enum kd_st_type type)
{
    uint16_t half;
    if (type == KD_ST_F16)
        return float16_bits(x);
    kd_bfloat16_pack(&x, 1, &half);
    return (uint16_t)((half & 0x7fffU) == BF16_INFINITY ? half - 1 : half); /* stays finite */
}

float kd_half_value(uint16_t bits, enum kd_st_type type)
{
    float x;
    if (type == KD_ST_F16)
        return float16_value(bits);
    kd_bfloat16_unpack(&bits, 1, &x);
    return x;
}

/* ---- files */

typedef struct room {
    kd_st_item *items;        /* as they are written, at most two for each */
    char (*names)[NAME_ROOM]; /* of scales */
    void **data;              /* [n]: narrowed values */
    float **units;            /* [n] */
    size_t n, written;
} room;

static bool make_room(size_t n, room *r)
{
    *r = (room){.items = calloc(2 * n + 1, sizeof *r->items),
                .names = calloc(n + 1, sizeof *r->names),
                .data = calloc(n + 1, sizeof *r->data),
                .units = calloc(n + 1, sizeof *r->units),
                .n = n};
    return r->items && r->names && r->data && r->units;
}

static void clear(room *r)
{
    for (size_t i = 0; i < r->n; i++) {
        if (r->data)
            free(r->data[i]);
        if (r->units)
            free(r->units[i]);
    }
    free(r->items);
    free(r->names);
    free(r->data);
    free(r->units);
}

/* Codes of item i, and its scales as an item of their own. */
static bool narrow_int8(room *r, const kd_st_item *item, size_t i, size_t count)
{
    const size_t rows = (size_t)item->shape[0];
    snprintf(r->names[i], NAME_ROOM, "%s.scale", item->name);
    r->data[i] = malloc(count);
    r->units[i] = malloc(rows * sizeof(float));
    if (!r->data[i] || !r->units[i])
        return false;
    kd_int8_codes(item->data, (int)rows, count / rows, r->data[i], r->units[i]);
    r->items[r->written++] = (kd_st_item){
        .name = r->names[i], .ndim = 1, .shape = {item->shape[0]}, .data = r->units[i]};
    return true;
}

static bool narrow_half(room *r, const kd_st_item *item, size_t i, size_t count)
{
    const float *from = item->data;
    uint16_t *to = r->data[i] = malloc(count * sizeof *to);
    for (size_t k = 0; to && k < count; k++)
        to[k] = kd_half_bits(from[k], item->type);
    return to != NULL;
}

static int narrow(room *r, const kd_st_item *item, size_t i, kd_diag *diag)
{
    size_t count = 1;
    bool ok = item->ndim > 0 && item->ndim <= KD_ST_MAX_DIMS;
    for (int k = 0; ok && k < item->ndim; k++)
        ok = item->shape[k] > 0 && item->shape[k] <= INT32_MAX &&
             kd_mul_size(count, (size_t)item->shape[k], &count);
    if (!ok || strlen(item->name) + sizeof ".scale" > NAME_ROOM)
        return kd_fail(diag, -KD_EINVAL, "Tensor %.100s has an impossible %s.", item->name,
                       ok ? "name" : "shape");
    ok = item->type == KD_ST_I8 ? narrow_int8(r, item, i, count) : narrow_half(r, item, i, count);
    return ok ? 0 : kd_fail(diag, -KD_ENOMEM, "Out of memory for tensor %.100s.", item->name);
}

int kd_narrow_pack(const kd_st_item *items, size_t n, const kd_st_pair *meta, size_t n_meta,
                   kd_buf *out, kd_diag *diag)
{
    static const enum kd_st_type order[] = {KD_ST_F32, KD_ST_F16, KD_ST_BF16, KD_ST_I8};
    room r;
    int rc = make_room(n, &r) ? 0 : kd_fail(diag, -KD_ENOMEM, "Out of memory for a file.");
    /* Scales are written beside the floats, before all that is narrow. */
    for (size_t i = 0; i < n && !rc; i++) {
        if (items[i].type == KD_ST_F32)
            r.items[r.written++] = items[i];
        else
            rc = narrow(&r, &items[i], i, diag);
    }
    for (size_t k = 1; k < KD_COUNT(order) && !rc; k++)
        for (size_t i = 0; i < n; i++)
            if (items[i].type == order[k]) {
                r.items[r.written] = items[i];
                r.items[r.written++].data = r.data[i];
            }
    if (!rc)
        rc = kd_st_pack(r.items, r.written, meta, n_meta, out, diag);
    clear(&r);
    return rc;
}
