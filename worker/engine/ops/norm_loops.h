/* The inner loops of norm.c, included there once for each kind of processor: NORM_TARGET is the
 * attribute that lets the compiler use it, NORM_NAME(x) the names. Rows of `lanes` floats, of which
 * a call sees 64 side by side: four vectors that do not wait for each other. */

#define INLINE static inline __attribute__((always_inline)) NORM_TARGET

INLINE vector NORM_NAME(clamp)(vector z, float low, float high)
{
    z = SELECT(z < low, (vector){0} + low, z); /* what is not a number stays so */
    return SELECT(z > high, (vector){0} + high, z);
}

/* 1 / (1 + exp(-z)): exp by its polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf, 2 ulp). */
INLINE vector NORM_NAME(sigmoid)(vector z)
{
    const float magic = 12582912; /* 1.5 * 2^23: adding it rounds to a whole number */
    const vector x = -NORM_NAME(clamp)(z, -87, 87);
    const vector shifted = x * 1.44269504088896341F + magic, n = shifted - magic;
    const vector r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
    vector e = r * 1.9875691500e-4F + 1.3981999507e-3F;
    e = e * r + 8.3334519073e-3F;
    e = e * r + 4.1665795894e-2F;
    e = e * r + 1.6666665459e-1F;
    e = e * r + 5.0000001201e-1F;
    e = e * r * r + r + 1;
    const bits power = (((bits)shifted - (bits)((vector){0} + magic)) + 127) << 23;
    return 1 / (1 + e * (vector)power);
}

INLINE vector NORM_NAME(act)(const kd_norm *n, enum kd_norm_act act, vector z)
{
    switch (act) {
    case KD_NORM_CLAMP:
        return NORM_NAME(clamp)(z, n->low, n->high);
    case KD_NORM_HARD_SWISH:
        return z * (NORM_NAME(clamp)(z + 3, 0, 6) / 6);
    case KD_NORM_SILU:
        return z * NORM_NAME(sigmoid)(z);
    case KD_NORM_PLAIN:
        break;
    }
    return z;
}

/* d_y act'(z) */
INLINE vector NORM_NAME(slope)(const kd_norm *n, enum kd_norm_act act, vector z, vector d_y)
{
    switch (act) {
    case KD_NORM_CLAMP:
        return (vector)((bits)d_y & (z > n->low) & (z < n->high));
    case KD_NORM_HARD_SWISH:
        d_y = (vector)((bits)d_y & (z > -3));
        return SELECT(z < 3, d_y * (z * (1.0F / 3) + 0.5F), d_y);
    case KD_NORM_SILU: {
        const vector s = NORM_NAME(sigmoid)(z);
        return d_y * (s + z * s * (1 - s));
    }
    case KD_NORM_PLAIN:
        break;
    }
    return d_y;
}

/* Moments of a tile, added to those of `before` rows (Chan et al. 1979). */
NORM_TARGET static void NORM_NAME(moments)(const float *x, int64_t rows, int64_t lanes,
                                           int64_t before, double *mean, double *m2)
{
    vector sum[4] = {{0}}, square[4] = {{0}};
    float means[SIDE], squares[SIDE];
    for (int64_t i = 0; i < rows; i++)
        for (int k = 0; k < 4; k++)
            sum[k] += LOAD(x + i * lanes, k);
    for (int k = 0; k < 4; k++)
        sum[k] /= (float)rows;
    for (int64_t i = 0; i < rows; i++)
        for (int k = 0; k < 4; k++) {
            const vector d = LOAD(x + i * lanes, k) - sum[k];
            square[k] += d * d;
        }
    for (int k = 0; k < 4; k++) {
        STORE(means, k, sum[k]);
        STORE(squares, k, square[k]);
    }
    const double share = (double)rows / (double)(before + rows), weight = share * (double)before;
    for (int i = 0; i < SIDE; i++) {
        const double d = (double)means[i] - mean[i];
        mean[i] += d * share;
        m2[i] += (double)squares[i] + d * d * weight;
    }
}

INLINE void NORM_NAME(normalise_as)(const kd_norm *n, const tables *t, enum kd_norm_act act,
                                    bool has_r, const float *x, const float *r, float *y,
                                    int64_t rows, int64_t lanes)
{
    vector mean[4], scale[4], shift[4];
    for (int k = 0; k < 4; k++) {
        mean[k] = LOAD(t->mean, k);
        scale[k] = LOAD(t->scale, k);
        shift[k] = LOAD(t->shift, k);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int k = 0; k < 4; k++) {
            vector z = (LOAD(x + i * lanes, k) - mean[k]) * scale[k] + shift[k];
            if (has_r)
                z += LOAD(r + i * lanes, k);
            STORE(y + i * lanes, k, NORM_NAME(act)(n, act, z));
        }
}

NORM_TARGET static void NORM_NAME(normalise)(const kd_norm *n, const tables *t, const float *x,
                                             const float *r, float *y, int64_t rows, int64_t lanes){
#define CALL(ACT)                                                                                  \
    r ? NORM_NAME(normalise_as)(n, t, ACT, true, x, r, y, rows, lanes)                             \
      : NORM_NAME(normalise_as)(n, t, ACT, false, x, r, y, rows, lanes)
    EACH_ACT(n->act, CALL)
#undef CALL
}

/* sums: of g and g (x - mean), added to. frozen: d_x, which then needs no sums, is written. */
INLINE void NORM_NAME(reduce_as)(const kd_norm *n, const tables *t, enum kd_norm_act act,
                                 bool has_r, const place *at, int64_t rows, int64_t lanes,
                                 double *sum, double *product)
{
    const float *x = at->x, *r = at->r, *d_y = at->d_y;
    float *kept = at->g, *frozen = at->frozen;
    vector mean[4], scale[4], shift[4], s[4] = {{0}}, q[4] = {{0}};
    float sums[SIDE], products[SIDE];
    for (int k = 0; k < 4; k++) {
        mean[k] = LOAD(t->mean, k);
        scale[k] = LOAD(t->scale, k);
        shift[k] = LOAD(t->shift, k);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int k = 0; k < 4; k++) {
            const vector d = LOAD(x + i * lanes, k) - mean[k];
            vector g = LOAD(d_y + i * lanes, k), z = d * scale[k] + shift[k];
            if (has_r)
                z += LOAD(r + i * lanes, k);
            g = NORM_NAME(slope)(n, act, z, g);
            s[k] += g;
            q[k] += g * d;
            if (kept)
                STORE(kept + i * lanes, k, g);
            if (frozen)
                STORE(frozen + i * lanes, k, g * scale[k]);
        }
    for (int k = 0; k < 4; k++) {
        STORE(sums, k, s[k]);
        STORE(products, k, q[k]);
    }
    for (int i = 0; i < SIDE; i++) {
        sum[i] += (double)sums[i];
        product[i] += (double)products[i];
    }
}

NORM_TARGET static void NORM_NAME(reduce)(const kd_norm *n, const tables *t, const place *at,
                                          int64_t rows, int64_t lanes, double *sum,
                                          double *product){
#define CALL(ACT)                                                                                  \
    at->r ? NORM_NAME(reduce_as)(n, t, ACT, true, at, rows, lanes, sum, product)                   \
          : NORM_NAME(reduce_as)(n, t, ACT, false, at, rows, lanes, sum, product)
    EACH_ACT(n->act, CALL)
#undef CALL
}

/* d_x = scale (g - means of g - (x - mean) slope), g from d_y or, where it was kept, from there. */
INLINE void NORM_NAME(apply_as)(const kd_norm *n, const tables *t, bool clamped, const place *at,
                                float *d_x, int64_t rows, int64_t lanes)
{
    const float *x = at->x, *d_y = at->g ? at->g : at->d_y;
    vector mean[4], scale[4], shift[4], least[4], slope[4];
    for (int k = 0; k < 4; k++) {
        mean[k] = LOAD(t->mean, k);
        scale[k] = LOAD(t->scale, k);
        shift[k] = LOAD(t->shift, k);
        least[k] = LOAD(t->least, k);
        slope[k] = LOAD(t->slope, k);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int k = 0; k < 4; k++) {
            const vector d = LOAD(x + i * lanes, k) - mean[k];
            vector g = LOAD(d_y + i * lanes, k);
            if (clamped)
                g = NORM_NAME(slope)(n, KD_NORM_CLAMP, d * scale[k] + shift[k], g);
            STORE(d_x + i * lanes, k, scale[k] * ((g - least[k]) - d * slope[k]));
        }
}

NORM_TARGET static void NORM_NAME(apply)(const kd_norm *n, const tables *t, const place *at,
                                         float *d_x, int64_t rows, int64_t lanes)
{
    if (at->g || n->act == KD_NORM_PLAIN)
        NORM_NAME(apply_as)(n, t, false, at, d_x, rows, lanes);
    else
        NORM_NAME(apply_as)(n, t, true, at, d_x, rows, lanes);
}

static const loops NORM_NAME(loops) = {NORM_NAME(moments), NORM_NAME(normalise), NORM_NAME(reduce),
                                       NORM_NAME(apply)};

#undef INLINE
