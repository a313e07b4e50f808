/* The inner loops of vnni.c, included there once for each width of a strip: LANES channels in a
 * vector of as many bytes (INTS, floats REALS), OP(x) the intrinsics of that width, NAME(x) the
 * names, ORDER(x) its ints in the order of the four vectors that they were packed from. */

/* What is added to a quarter of the strip's channels, from r on. */
INLINE REALS NAME(residual)(const kd_vnni_end *e, const uint8_t *r)
{
    __m128i bytes = {0};
    memcpy(&bytes, r, LANES / 4);
    return OP(cvtepi32_ps)(e->residual_signed ? OP(cvtepi8_epi32)(bytes)
                                              : OP(cvtepu8_epi32)(bytes));
}

/* Within y's type, before it is rounded. */
INLINE REALS NAME(finish)(const kd_vnni_end *e, bool plain, INTS sum, REALS bias, REALS scale,
                          const uint8_t *r)
{
    REALS z = (OP(cvtepi32_ps)(sum) + bias) * scale;
    if (plain)
        return z;
    if (r)
        z = OP(fmadd_ps)(NAME(residual)(e, r), OP(set1_ps)(e->residual), z);
    if (e->clamps)
        z = OP(min_ps)(OP(max_ps)(z, OP(set1_ps)(e->low)), OP(set1_ps)(e->high));
    if (e->type == KD_VNNI_F32)
        return z;
    z *= OP(set1_ps)(e->factor);
    if (e->type == KD_VNNI_U8)
        z = OP(max_ps)(z, OP(set1_ps)(0));
    return OP(min_ps)(z, OP(set1_ps)(e->type == KD_VNNI_U8 ? 255 : 127));
}

INLINE INTS NAME(bytes)(const kd_vnni_end *e, bool plain, const REALS z[4])
{
    const INTS low = OP(packs_epi32)(OP(cvtps_epi32)(z[0]), OP(cvtps_epi32)(z[1]));
    const INTS high = OP(packs_epi32)(OP(cvtps_epi32)(z[2]), OP(cvtps_epi32)(z[3]));
    return plain || e->type == KD_VNNI_U8 ? OP(packus_epi16)(low, high)
                                          : OP(packs_epi16)(low, high);
}

/* ---- depthwise */

/* A column of the strip, its rows side by side: of each 16 channels quarter q has channels 4q to
 * 4q + 3, and of each the four rows in the bytes of an int. */
INLINE void NAME(column)(const strip *s, int64_t at, int rows, bool plain, bool whole, INTS out[4])
{
    INTS r[4] = {{0}};
    if (at >= 0 && at < s->d->w)
        for (int k = 0; k < rows + 2; k++) {
            const uint8_t *from = s->row[k] + at * s->step[k];
            r[k] = whole ? (INTS) * (const UNALIGNED *)from : OP(maskz_loadu_epi8)(s->mask, from);
        }
    if (!plain && s->d->x_signed)
        for (int k = 0; k < 4; k++)
            r[k] ^= (INTS)OP(set1_epi8)((char)SIGN);
    const INTS low = OP(unpacklo_epi8)(r[0], r[1]), high = OP(unpackhi_epi8)(r[0], r[1]);
    const INTS low2 = OP(unpacklo_epi8)(r[2], r[3]), high2 = OP(unpackhi_epi8)(r[2], r[3]);
    out[0] = OP(unpacklo_epi16)(low, low2);
    out[1] = OP(unpackhi_epi16)(low, low2);
    out[2] = OP(unpacklo_epi16)(high, high2);
    out[3] = OP(unpackhi_epi16)(high, high2);
}

/* One place in `rows` rows of the output from three columns. */
INLINE void NAME(place)(const strip *s, const INTS a[4], const INTS b[4], const INTS c[4],
                        const REALS bias[4], const REALS scale[4], int rows, bool plain, bool whole,
                        uint8_t *y)
{
    const UNALIGNED *table = (const UNALIGNED *)s->table;
    for (int row = 0; row < rows; row++, y += s->d->out_w * s->d->c) {
        const UNALIGNED *w = table + 12 * row;
        REALS z[4];
        for (int i = 0; i < 4; i++) {
            INTS sum = {0};
            if (!plain)
                sum = (INTS)table[STARTS + i];
            DOT(sum, a[i], (INTS)w[i]);
            DOT(sum, b[i], (INTS)w[4 + i]);
            DOT(sum, c[i], (INTS)w[8 + i]);
            z[i] = NAME(finish)(&s->d->end, plain, sum, bias[i], scale[i], NULL);
        }
        const INTS out = NAME(bytes)(&s->d->end, plain, z);
        if (whole)
            *(UNALIGNED *)y = (UNALIGNED)out;
        else
            OP(mask_storeu_epi8)(y, s->mask, out);
    }
}

INLINE void NAME(rows_as)(const strip *s, int rows, int stride, bool plain, bool whole, uint8_t *y)
{
    INTS a[4], b[4], c[4];
    REALS bias[4], scale[4];
    for (int i = 0; i < 4; i++) {
        bias[i] = (REALS)((const UNALIGNED *)s->table)[BIASES + i];
        scale[i] = (REALS)((const UNALIGNED *)s->table)[SCALES + i];
    }
    int64_t at = -s->d->pad_left;
    NAME(column)(s, at++, rows, plain, whole, stride == 1 ? b : c);
    if (stride == 1)
        NAME(column)(s, at++, rows, plain, whole, c);
    for (int64_t i = 0; i < s->d->out_w; i++, y += s->d->c) {
        for (int k = 0; k < 4; k++) {
            a[k] = stride == 1 ? b[k] : c[k];
            b[k] = c[k];
        }
        if (stride == 2)
            NAME(column)(s, at++, rows, plain, whole, b);
        NAME(column)(s, at++, rows, plain, whole, c);
        NAME(place)(s, a, b, c, bias, scale, rows, plain, whole, y);
    }
}

/* `rows` rows of the output, 1 or, with a stride of 1, 2. */
TARGET static void NAME(rows)(const strip *s, int rows, uint8_t *y)
{
    const bool plain = s->d->end.plain;
    if (s->d->stride == 2 && plain)
        NAME(rows_as)(s, 1, 2, true, WHOLE, y);
    else if (s->d->stride == 2)
        NAME(rows_as)(s, 1, 2, false, WHOLE, y);
    else if (rows == 2 && plain)
        NAME(rows_as)(s, 2, 1, true, WHOLE, y);
    else if (rows == 2)
        NAME(rows_as)(s, 2, 1, false, WHOLE, y);
    else if (plain)
        NAME(rows_as)(s, 1, 1, true, WHOLE, y);
    else
        NAME(rows_as)(s, 1, 1, false, WHOLE, y);
}

/* ---- 1x1 */

/* The sums of a tile: a strip's channels at `rows` places. */
INLINE void NAME(sums)(const kd_vnni_pointwise *d, const uint8_t *x, const UNALIGNED *table,
                       int rows, INTS sum[ROWS][4])
{
    const UNALIGNED *starts = table + d->in;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            sum[r][i] = (INTS)starts[i];
    for (int64_t k = 0; k < d->in; k += 4) {
        INTS w[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            w[i] = (INTS)table[k + i];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int four;
            memcpy(&four, x + r * d->in + k, sizeof four);
            const INTS a = OP(set1_epi32)(four);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                DOT(sum[r][i], a, w[i]);
        }
    }
}

INLINE void NAME(tile)(const kd_vnni_pointwise *d, const uint8_t *x, const UNALIGNED *table,
                       int rows, const uint8_t *r, uint8_t *y)
{
    const UNALIGNED *bias = table + d->in + 4, *scale = bias + 4;
    INTS sum[ROWS][4];
    NAME(sums)(d, x, table, rows, sum);
    if (d->end.plain) {
        REALS z[ROWS][4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
#pragma GCC unroll 8
            for (int k = 0; k < rows; k++)
                z[k][i] =
                    NAME(finish)(&d->end, true, sum[k][i], (REALS)bias[i], (REALS)scale[i], NULL);
#pragma GCC unroll 8
        for (int k = 0; k < rows; k++)
            *(UNALIGNED *)(y + k * d->out) = (UNALIGNED)ORDER(NAME(bytes)(&d->end, true, z[k]));
        return;
    }
    INTS kept[ROWS][4]; /* or the sums themselves would be in memory all the time */
#pragma GCC unroll 8
    for (int k = 0; k < rows; k++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            kept[k][i] = sum[k][i];
    for (int k = 0; k < rows; k++) {
        REALS z[4];
        for (int i = 0; i < 4; i++) {
            const uint8_t *at = r ? r + k * d->out + i * (LANES / 4) : NULL;
            z[i] = NAME(finish)(&d->end, false, kept[k][i], (REALS)bias[i], (REALS)scale[i], at);
        }
        if (d->end.type == KD_VNNI_F32)
            for (int i = 0; i < 4; i++)
                *(UNALIGNED *)(y + k * d->out * 4 + i * LANES) = (UNALIGNED)z[i];
        else
            *(UNALIGNED *)(y + k * d->out) = (UNALIGNED)ORDER(NAME(bytes)(&d->end, false, z));
    }
}

/* One strip at `places` places. */
TARGET static void NAME(places)(const kd_vnni_pointwise *d, const uint8_t *x, const void *table,
                                int64_t places, const uint8_t *r, uint8_t *y)
{
    const int64_t size = d->end.type == KD_VNNI_F32 ? 4 : 1;
    int64_t i = 0;
    for (; i + ROWS <= places; i += ROWS)
        NAME(tile)(d, x + i * d->in, table, ROWS, r ? r + i * d->out : NULL, y + i * d->out * size);
    for (; i < places; i++)
        NAME(tile)(d, x + i * d->in, table, 1, r ? r + i * d->out : NULL, y + i * d->out * size);
}

#undef LANES
#undef INTS
#undef REALS
#undef UNALIGNED
#undef OP
#undef NAME
#undef WHOLE
#undef ORDER
