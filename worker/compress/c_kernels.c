#include "compress/c_kernels.h"

static const char g_row[] = "/* Weights, a row an output: values, or codes of 8 bits and a unit a "
                            "row; all of them, or with "
                            "a\n"
                            " * mask those whose bit is set, the others being zero. */\n"
                            "struct weights {\n"
                            "    const float *values;\n"
                            "    const unsigned char *mask;\n"
                            "    const signed char *codes;\n"
                            "    const float *units;\n"
                            "};\n"
                            "\n"
                            "/* The next of w's rows of n weights. */\n"
                            "static const float *next_row(struct weights *w, long n)\n"
                            "{\n"
                            "    const float *plain = w->values;\n"
                            "    const float unit = w->codes ? *w->units++ : 1.0f;\n"
                            "    long i;\n"
                            "    if (!w->codes && !w->mask) {\n"
                            "        w->values += n;\n"
                            "        return plain;\n"
                            "    }\n"
                            "    for (i = 0; i < n; i++) {\n"
                            "        if (w->mask && !(w->mask[i / 8] >> (i % 8) & 1))\n"
                            "            row[i] = 0.0f;\n"
                            "        else if (w->codes)\n"
                            "            row[i] = unit * (float)*w->codes++;\n"
                            "        else\n"
                            "            row[i] = *w->values++;\n"
                            "    }\n"
                            "    if (w->mask)\n"
                            "        w->mask += (n + 7) / 8;\n"
                            "    return row;\n"
                            "}\n";

static const char g_conv_at[] =
    "struct conv {\n"
    "    int h, w, c;          /* of the input */\n"
    "    int oh, ow, oc;       /* of the output */\n"
    "    int kh, kw, ic;       /* of a row of weights: [kh][kw][ic] */\n"
    "    int sh, sw, dh, dw;   /* strides, dilations */\n"
    "    int top, left;        /* padding */\n"
    "    int per_group;        /* outputs that read the same ic channels */\n"
    "};\n"
    "\n"
    "/* One output of the filter f, channels from `first`, whose window begins at y, x. */\n"
    "static float conv_at(const struct conv *s, const float *in, const float *f, int first, int "
    "y,\n"
    "                     int x)\n"
    "{\n"
    "    float sum = 0.0f;\n"
    "    int i, j, k;\n"
    "    for (i = 0; i < s->kh; i++) {\n"
    "        const int yy = y + i * s->dh;\n"
    "        if (yy < 0 || yy >= s->h)\n"
    "            continue;\n"
    "        for (j = 0; j < s->kw; j++) {\n"
    "            const int xx = x + j * s->dw;\n"
    "            const float *a, *b = f + ((long)i * s->kw + j) * s->ic;\n"
    "            if (xx < 0 || xx >= s->w)\n"
    "                continue;\n"
    "            a = in + ((long)yy * s->w + xx) * s->c + first;\n"
    "            for (k = 0; k < s->ic; k++)\n"
    "                sum += a[k] * b[k];\n"
    "        }\n"
    "    }\n"
    "    return sum;\n"
    "}\n";

static const char g_conv[] =
    "static void conv(const struct conv *s, struct weights w, const float *bias, const float *in,\n"
    "                 float *out)\n"
    "{\n"
    "    int o, y, x;\n"
    "    for (o = 0; o < s->oc; o++) {\n"
    "        const float *f = next_row(&w, (long)s->kh * s->kw * s->ic);\n"
    "        const int first = o / s->per_group * s->ic;\n"
    "        for (y = 0; y < s->oh; y++)\n"
    "            for (x = 0; x < s->ow; x++)\n"
    "                out[((long)y * s->ow + x) * s->oc + o] =\n"
    "                    (bias ? bias[o] : 0.0f) +\n"
    "                    conv_at(s, in, f, first, y * s->sh - s->top, x * s->sw - s->left);\n"
    "    }\n"
    "}\n";

static const char g_conv_pool[] =
    "/* A convolution and the max pool of ph x pw behind it, place by place; oh, ow are the "
    "pool's,\n"
    " * ch, cw the convolution's. */\n"
    "static void conv_pool(const struct conv *s, struct weights w, const float *bias, int ph, int "
    "pw,\n"
    "                      int psh, int psw, int ptop, int pleft, int ch, int cw,\n"
    "                      void (*act)(float *, long), const float *in, float *out)\n"
    "{\n"
    "    int o, y, x, i, j;\n"
    "    for (o = 0; o < s->oc; o++) {\n"
    "        const float *f = next_row(&w, (long)s->kh * s->kw * s->ic);\n"
    "        const int first = o / s->per_group * s->ic;\n"
    "        for (y = 0; y < s->oh; y++)\n"
    "            for (x = 0; x < s->ow; x++) {\n"
    "                float most = -FLT_MAX;\n"
    "                for (i = 0; i < ph; i++)\n"
    "                    for (j = 0; j < pw; j++) {\n"
    "                        const int yy = y * psh - ptop + i, xx = x * psw - pleft + j;\n"
    "                        float v;\n"
    "                        if (yy < 0 || yy >= ch || xx < 0 || xx >= cw)\n"
    "                            continue;\n"
    "                        v = (bias ? bias[o] : 0.0f) +\n"
    "                            conv_at(s, in, f, first, yy * s->sh - s->top,\n"
    "                                    xx * s->sw - s->left);\n"
    "                        if (act)\n"
    "                            act(&v, 1);\n"
    "                        if (v > most)\n"
    "                            most = v;\n"
    "                    }\n"
    "                out[((long)y * s->ow + x) * s->oc + o] = most;\n"
    "            }\n"
    "    }\n"
    "}\n";

static const char g_dense[] = "static void dense(int n, int m, struct weights w, const float "
                              "*bias, const float *in, float *out)\n"
                              "{\n"
                              "    int o, i;\n"
                              "    for (o = 0; o < m; o++) {\n"
                              "        const float *f = next_row(&w, n);\n"
                              "        float sum = bias[o];\n"
                              "        for (i = 0; i < n; i++)\n"
                              "            sum += f[i] * in[i];\n"
                              "        out[o] = sum;\n"
                              "    }\n"
                              "}\n";

static const char g_pool[] =
    "struct pool {\n"
    "    int h, w, c, oh, ow, kh, kw, sh, sw, top, left;\n"
    "    int mean; /* else the largest */\n"
    "    int all;  /* padding counts in the mean */\n"
    "};\n"
    "\n"
    "static void pool(const struct pool *s, const float *in, float *out)\n"
    "{\n"
    "    int y, x, c, i, j;\n"
    "    for (y = 0; y < s->oh; y++)\n"
    "        for (x = 0; x < s->ow; x++)\n"
    "            for (c = 0; c < s->c; c++) {\n"
    "                float most = -FLT_MAX, sum = 0.0f;\n"
    "                int n = 0;\n"
    "                for (i = 0; i < s->kh; i++)\n"
    "                    for (j = 0; j < s->kw; j++) {\n"
    "                        const int yy = y * s->sh - s->top + i, xx = x * s->sw - s->left + j;\n"
    "                        float v;\n"
    "                        if (yy < 0 || yy >= s->h || xx < 0 || xx >= s->w)\n"
    "                            continue;\n"
    "                        v = in[((long)yy * s->w + xx) * s->c + c];\n"
    "                        sum += v;\n"
    "                        n++;\n"
    "                        if (v > most)\n"
    "                            most = v;\n"
    "                    }\n"
    "                out[((long)y * s->ow + x) * s->c + c] =\n"
    "                    s->mean ? sum / (float)(s->all ? s->kh * s->kw : n) : most;\n"
    "            }\n"
    "}\n";

static const char g_mean[] = "static void mean(long places, int c, const float *in, float *out)\n"
                             "{\n"
                             "    long i;\n"
                             "    int k;\n"
                             "    for (k = 0; k < c; k++) {\n"
                             "        double sum = 0.0;\n"
                             "        for (i = 0; i < places; i++)\n"
                             "            sum += in[i * c + k];\n"
                             "        out[k] = (float)(sum / (double)places);\n"
                             "    }\n"
                             "}\n";

static const char g_flatten[] =
    "/* [places][c] -> [c][places] */\n"
    "static void flatten(long places, int c, const float *in, float *out)\n"
    "{\n"
    "    long i;\n"
    "    int k;\n"
    "    for (k = 0; k < c; k++)\n"
    "        for (i = 0; i < places; i++)\n"
    "            out[k * places + i] = in[i * c + k];\n"
    "}\n";

static const char g_affine[] =
    "static void affine(long places, int c, const float *factor, const float *shift,\n"
    "                   const float *in, float *out)\n"
    "{\n"
    "    long i;\n"
    "    int k;\n"
    "    for (i = 0; i < places; i++)\n"
    "        for (k = 0; k < c; k++)\n"
    "            out[i * c + k] = in[i * c + k] * factor[k] + shift[k];\n"
    "}\n";

static const char g_combine[] =
    "/* [h][w][c]; a and b have steps of 0 along axes where they have one value. */\n"
    "static void combine(char op, int h, int w, int c, const long *sa, const long *sb,\n"
    "                    const float *a, const float *b, float *out)\n"
    "{\n"
    "    int y, x, k;\n"
    "    for (y = 0; y < h; y++)\n"
    "        for (x = 0; x < w; x++)\n"
    "            for (k = 0; k < c; k++) {\n"
    "                const float p = a[y * sa[0] + x * sa[1] + k * sa[2]];\n"
    "                const float q = b[y * sb[0] + x * sb[1] + k * sb[2]];\n"
    "                out[((long)y * w + x) * c + k] =\n"
    "                    op == '+' ? p + q : op == '-' ? p - q : op == '*' ? p * q : p / q;\n"
    "            }\n"
    "}\n";

#define EACH(name, args, value)                                                                    \
    "static void " name "(float *x, long n" args ")\n"                                             \
    "{\n"                                                                                          \
    "    long i;\n"                                                                                \
    "    for (i = 0; i < n; i++)\n"                                                                \
    "        x[i] = " value ";\n"                                                                  \
    "}\n"

const char *kd_c_kernel(enum kd_c_kernel k)
{
    static const char *const texts[KD_C_KERNELS] = {
        [KD_C_ROW] = g_row,
        [KD_C_CONV_AT] = g_conv_at,
        [KD_C_CONV] = g_conv,
        [KD_C_CONV_POOL] = g_conv_pool,
        [KD_C_DENSE] = g_dense,
        [KD_C_POOL] = g_pool,
        [KD_C_MEAN] = g_mean,
        [KD_C_FLATTEN] = g_flatten,
        [KD_C_AFFINE] = g_affine,
        [KD_C_COMBINE] = g_combine,
        [KD_C_RELU] = EACH("relu", "", "x[i] > 0.0f ? x[i] : 0.0f"),
        [KD_C_CLIP] =
            EACH("clip", ", float low, float high", "x[i] < low ? low : x[i] > high ? high : x[i]"),
        [KD_C_LEAKY] = EACH("leaky", ", float slope", "x[i] < 0.0f ? x[i] * slope : x[i]"),
        [KD_C_SIGMOID] = EACH("sigmoid", "", "1.0f / (1.0f + (float)exp(-x[i]))"),
        [KD_C_SILU] = EACH("silu", "", "x[i] / (1.0f + (float)exp(-x[i]))"),
        [KD_C_TANH] = EACH("tangent", "", "(float)tanh(x[i])"),
        [KD_C_HARD_SIGMOID] =
            "static float hard(float x, float slope, float shift)\n"
            "{\n"
            "    const float y = x * slope + shift;\n"
            "    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;\n"
            "}\n"
            "\n" EACH("hard_sigmoid", ", float slope, float shift", "hard(x[i], slope, shift)"),
        [KD_C_HARD_SWISH] =
            EACH("hard_swish", "",
                 "x[i] * (x[i] < -3.0f ? 0.0f : x[i] > 3.0f ? 6.0f : x[i] + 3.0f) / 6.0f"),
    };
    return texts[k];
}
