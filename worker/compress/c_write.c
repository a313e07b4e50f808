#include "compress/c_write.h"

#include "compress/c_internal.h"
#include "compress/fold.h"
#include "models/loaded.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void kd_c_prefix(const char *path, char out[KD_C_PREFIX])
{
    const char *slash = strrchr(path, '/'), *from = slash ? slash + 1 : path;
    const size_t stem = strcspn(from, ".");
    size_t n = 0;
    if (stem == 0 || isdigit((unsigned char)*from))
        out[n++] = 'm';
    for (size_t i = 0; i < stem && n < KD_C_PREFIX - 1; i++) {
        const bool letter = isalnum((unsigned char)from[i]) && (unsigned char)from[i] < 0x80;
        out[n++] = letter ? from[i] : '_';
    }
    out[n] = '\0';
}

/* ---- text */

/* A string literal; whatever is not plain ASCII is an octal escape. */
static void literal(kd_buf *b, const char *s)
{
    kd_buf_str(b, "\"");
    for (; *s; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\' || c == '?' || c < 0x20 || c >= 0x7f)
            kd_buf_printf(b, "\\%03o", c);
        else
            kd_buf_printf(b, "%c", c);
    }
    kd_buf_str(b, "\"");
}

/* In a comment: printable ASCII without what could end it. */
static void remark(kd_buf *b, const char *what, const char *s)
{
    if (!*s)
        return;
    kd_buf_printf(b, " * %-10s ", what);
    for (; *s; s++)
        kd_buf_printf(b, "%c", *s < 0x20 || *s >= 0x7f || *s == '*' || *s == '/' ? '_' : *s);
    kd_buf_str(b, "\n");
}

static void write_header(const c_writer *w, const char *prefix, bool rgb, kd_buf *b)
{
    const kd_node *in = &w->g->nodes[0];
    const kd_model_file_info *info = w->info;
    char upper[KD_C_PREFIX];
    size_t n = 0;
    for (; prefix[n] && n < sizeof upper - 1; n++)
        upper[n] = (char)toupper((unsigned char)prefix[n]);
    upper[n] = '\0';
    kd_buf_str(b, "/* A classifier for pictures, written by distilld " KD_VERSION
                  ". Needs a C99 compiler, libc and libm.\n");
    remark(b, "model:", info->model);
    remark(b, "job:", info->job);
    remark(b, "teacher:", info->teacher);
    remark(b, "data:", info->data);
    remark(b, "digest:", info->digest);
    if (info->resized_from && info->resized_from != in->w)
        kd_buf_printf(
            b,
            " * pictures:  as in training, each is squeezed into %d x %d pixels first, and "
            "from there into\n *            %d x %d (triangle filter, as Pillow's "
            "BILINEAR)\n",
            info->resized_from, info->resized_from, in->w, in->h);
    kd_buf_printf(b,
                  " * One picture at a time; not reentrant. */\n#ifndef %s_H\n#define %s_H\n\n"
                  "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n"
                  "#define %s_WIDTH %d\n#define %s_HEIGHT %d\n#define %s_CHANNELS %d\n"
                  "#define %s_CLASSES %d\n\n",
                  upper, upper, upper, in->w, upper, in->h, upper, in->c, upper,
                  w->g->nodes[w->g->output].c);
    if (info->classes)
        kd_buf_printf(b, "extern const char *const %s_classes[%s_CLASSES];\n", prefix, upper);
    if (rgb)
        kd_buf_printf(b,
                      "/* rgb [HEIGHT][WIDTH][3], bytes; logits [CLASSES]: the largest is the "
                      "guess. */\n"
                      "void %s_run_rgb(const unsigned char *rgb, float *logits);\n",
                      prefix);
    kd_buf_printf(b,
                  "/* input [HEIGHT][WIDTH][CHANNELS], preprocessed as in training%s%s. */\n"
                  "void %s_run(const float *input, float *logits);\n\n"
                  "#ifdef __cplusplus\n}\n#endif\n\n#endif\n",
                  info->has_preprocess ? ": " : "",
                  info->has_preprocess ? kd_preprocess_word((int)info->preprocess) : "", prefix);
}

/* An #include takes a name as it stands: there are no escapes in it, but trigraphs. */
static int check_header_name(const char *name, kd_diag *diag)
{
    bool ok = !strstr(name, "??");
    for (const char *s = name; *s; s++)
        ok = ok && *s != '"' && *s != '\\' && (unsigned char)*s >= 0x20 && *s != 0x7f;
    return ok ? 0
              : kd_fail(diag, -KD_EINVAL,
                        "C cannot include a file of the name %.200s: choose one without quotes, "
                        "backslashes, control characters and ??",
                        name);
}

static void write_rgb(const c_writer *w, const char *prefix, kd_buf *b)
{
    const char *mean, *std;
    const kd_node *in = &w->g->nodes[0];
    kd_preprocess_scaling((int)w->info->preprocess, &mean, &std);
    kd_buf_printf(
        b,
        "\nvoid %s_run_rgb(const unsigned char *rgb, float *logits)\n{\n"
        "    static const double centre[3] = {%s}, spread[3] = {%s};\n"
        "    float *input = memory + %zuL;\n    long i;\n"
        "    for (i = 0; i < %dL; i++)\n"
        "        input[i] = (float)((rgb[i] / 255.0 - centre[i %% 3]) / spread[i %% 3]);\n"
        "    %s_run(input, logits);\n}\n",
        prefix, mean, std, w->places[0].offset, in->h * in->w * in->c, prefix);
}

static void write_source(const c_writer *w, const char *prefix, const char *header_name, bool rgb,
                         const kd_buf *data, const kd_buf *steps, kd_buf *b)
{
    const kd_model_file_info *info = w->info;
    kd_buf_printf(b,
                  "#include <float.h>\n#include <math.h>\n#include <string.h>\n\n"
                  "#include \"%s\"\n\nstatic float memory[%zuL];\n",
                  header_name, w->memory ? w->memory : 1);
    if (w->kernels[KD_C_ROW])
        kd_buf_printf(b, "static float row[%zuL];\n", w->row ? w->row : 1);
    if (info->classes) {
        kd_buf_printf(b, "\nconst char *const %s_classes[] = {\n", prefix);
        for (int c = 0; c < info->n_classes; c++) {
            kd_buf_str(b, "    ");
            literal(b, info->classes[c]);
            kd_buf_str(b, ",\n");
        }
        kd_buf_str(b, "};\n");
    }
    for (int k = 0; k < KD_C_KERNELS; k++)
        if (w->kernels[k])
            kd_buf_printf(b, "\n%s", kd_c_kernel((enum kd_c_kernel)k));
    kd_buf_str(b, "\n");
    kd_buf_add(b, data->data, data->len);
    kd_buf_printf(b, "\nvoid %s_run(const float *input, float *logits)\n{\n", prefix);
    kd_buf_add(b, steps->data, steps->len);
    kd_buf_str(b, "}\n");
    if (rgb)
        write_rgb(w, prefix, b);
}

static int write_all(c_writer *w, const char *prefix, const char *header_name, kd_buf *header,
                     kd_buf *source, kd_diag *diag)
{
    const kd_model_file_info *info = w->info;
    const bool rgb = info->has_preprocess && w->g->nodes[0].c == 3;
    kd_buf_init(&w->data, source->max);
    kd_buf_init(&w->steps, source->max);
    int rc = kd_c_place(w, rgb, diag);
    for (int i = 1; i < w->g->n_nodes && !rc; i++)
        rc = kd_c_step(w, i, diag);
    if (!rc) {
        char at[48];
        kd_c_value(w, w->g->output, at, sizeof at);
        kd_buf_printf(&w->steps, "    memcpy(logits, %s, %d * sizeof *logits);\n", at,
                      w->g->nodes[w->g->output].c);
        write_header(w, prefix, rgb, header);
        if (w->data.failed || w->steps.failed)
            source->failed = true;
        else
            write_source(w, prefix, header_name, rgb, &w->data, &w->steps, source);
    }
    kd_buf_clear(&w->data);
    kd_buf_clear(&w->steps);
    if (!rc && (header->failed || source->failed))
        rc = kd_fail(diag, -KD_ELIMIT, "the network does not fit into %zu bytes as C", source->max);
    return rc;
}

int kd_c_write(const kd_graph *g, const float *vector, const kd_model_file_info *info,
               const char *prefix, const char *header_name, kd_buf *header, kd_buf *source,
               size_t *out_memory, kd_diag *diag)
{
    kd_graph *folded;
    float *values;
    int rc = check_header_name(header_name, diag);
    if (!rc)
        rc = kd_fold(g, vector, &folded, &values, diag);
    if (rc)
        return rc;
    c_writer w = {.g = folded, .vector = values, .info = info, .int8 = kd_graph_is_int8(folded)};
    w.places = calloc((size_t)folded->n_nodes, sizeof *w.places);
    rc = w.places ? write_all(&w, prefix, header_name, header, source, diag)
                  : kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as C");
    if (!rc)
        *out_memory = (w.memory + w.row) * sizeof(float);
    free(w.places);
    kd_graph_free(folded);
    free(values);
    return rc;
}
