/* The inner loops of depthwise_vnni.c, included there once for each width of a strip: LANES
 * channels in a vector of as many bytes (INTS, floats REALS), OP(x) the intrinsics of that width,
 * NAME(x) the names. */

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

INLINE INTS NAME(finish)(const kd_depthwise_vnni *d, bool plain, INTS sum, REALS bias, REALS scale)
{
    REALS z = (OP(cvtepi32_ps)(sum) + bias) * scale;
    if (!plain && d->clamps)
        z = OP(min_ps)(OP(max_ps)(z, OP(set1_ps)(d->low)), OP(set1_ps)(d->high));
    if (!plain)
        z *= OP(set1_ps)(d->factor);
    if (!plain && !d->y_signed)
        z = OP(max_ps)(z, OP(set1_ps)(0));
    if (!plain)
        z = OP(min_ps)(z, OP(set1_ps)(d->y_signed ? 127 : 255));
    return OP(cvtps_epi32)(z);
}

/* One place in `rows` rows of the output from three columns. */
INLINE void NAME(place)(const strip *s, const INTS a[4], const INTS b[4], const INTS c[4],
                        const REALS bias[4], const REALS scale[4], int rows, bool plain, bool whole,
                        uint8_t *y)
{
    const UNALIGNED *table = (const UNALIGNED *)s->table;
    for (int row = 0; row < rows; row++, y += s->d->out_w * s->d->c) {
        const UNALIGNED *w = table + 12 * row;
        INTS q[4];
        for (int i = 0; i < 4; i++) {
            INTS sum = {0};
            if (!plain)
                sum = (INTS)table[STARTS + i];
            sum = OP(dpbusd_epi32)(sum, a[i], (INTS)w[i]);
            sum = OP(dpbusd_epi32)(sum, b[i], (INTS)w[4 + i]);
            sum = OP(dpbusd_epi32)(sum, c[i], (INTS)w[8 + i]);
            q[i] = NAME(finish)(s->d, plain, sum, bias[i], scale[i]);
        }
        const INTS low = OP(packs_epi32)(q[0], q[1]), high = OP(packs_epi32)(q[2], q[3]);
        const INTS out =
            !plain && s->d->y_signed ? OP(packs_epi16)(low, high) : OP(packus_epi16)(low, high);
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
    const bool plain = s->d->plain;
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

#undef LANES
#undef INTS
#undef REALS
#undef UNALIGNED
#undef OP
#undef NAME
#undef WHOLE
