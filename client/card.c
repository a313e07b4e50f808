#include "card.h"

#include "format.h"

#include <stdio.h>

/* Text of a cell: what could end the cell or the line becomes a blank. */
static void cell(kd_buf *b, const char *s)
{
    for (; *s; s++) {
        const bool bad =
            (unsigned char)*s < 0x20 || *s == 0x7f || *s == '|' || *s == '<' || *s == '`';
        kd_buf_printf(b, "%c", bad ? ' ' : *s);
    }
}

static void row(kd_buf *b, const char *key, const char *value)
{
    if (!*value)
        return;
    kd_buf_printf(b, "| %s | ", key);
    cell(b, value);
    kd_buf_str(b, " |\n");
}

/* ONNX and C have values of 16 bits as float32. */
static void numbers(const kd_predictor *p, enum kd_model_format format, kd_buf *b)
{
    const enum kd_half half = p->net.info.half;
    char text[64] = "float32";
    if (kd_graph_is_int8(p->net.graph))
        snprintf(text, sizeof text, "%s",
                 format == KD_FORMAT_C ? "weights in 8 bits, computed in float32" : "8 bits");
    else if (half != KD_HALF_NONE && format == KD_FORMAT_SAFETENSORS)
        snprintf(text, sizeof text, "weights in %s, computed in float32", kd_half_name(half));
    else if (half != KD_HALF_NONE)
        snprintf(text, sizeof text, "float32, weights rounded to %s", kd_half_name(half));
    row(b, "numbers", text);
}

static void network(const kd_predictor *p, const kd_card_file *file, kd_buf *b)
{
    const kd_model_file_info *info = &p->net.info;
    char a[KD_FMT], text[128];
    uint64_t zeros = 0;
    for (size_t i = 0; i < p->net.graph->vector_len; i++)
        zeros += p->net.vector[i] == 0;
    kd_buf_str(b, "\n## The network\n\n| | |\n|---|---|\n");
    row(b, "architecture", info->model);
    row(b, "parameters", kd_fmt_count(p->net.graph->trained_len, a));
    row(b, "multiply-adds a picture", kd_fmt_count(kd_graph_macs(p->net.graph), a));
    if (p->net.graph->vector_len)
        row(b, "parameters that are zero",
            kd_fmt_percent((double)zeros / (double)p->net.graph->vector_len, a));
    numbers(p, file->format, b);
    row(b, "file", file->name);
    row(b,
        file->format == KD_FORMAT_C
            ? "size of the source text, several times what is compiled of it"
            : "size of the file",
        kd_fmt_bytes((double)file->bytes, a));
    snprintf(text, sizeof text, "%d x %d pixels, %s, `%s`", p->w, p->h,
             p->channels == 1 ? "grey" : "red, green, blue", kd_preprocess_word(p->preprocess));
    kd_buf_printf(b, "| input | %s", text);
    if (p->from != p->w)
        kd_buf_printf(b, "; of pictures squeezed into %d x %d first", p->from, p->from);
    kd_buf_str(b, " |\n");
    kd_buf_printf(b, "| classes | %d", p->net.n_classes);
    for (int c = 0; c < p->net.n_classes && info->classes && c < 100; c++) {
        kd_buf_str(b, c ? ", " : ": ");
        cell(b, info->classes[c]);
    }
    kd_buf_str(b, " |\n");
}

static void origin(const kd_predictor *p, kd_buf *b)
{
    const kd_model_file_info *info = &p->net.info;
    kd_buf_str(b, "\n## Where it comes from\n\n| | |\n|---|---|\n");
    row(b, "job", *info->job ? info->job : "not said");
    row(b, "teacher", *info->teacher ? info->teacher : "none, or not said");
    row(b, "digest of the training data", *info->data ? info->data : "not said");
    row(b, "digest of the parameters", info->digest);
}

/* Of C: what was measured is the network in `distill`. */
static void accuracy(const kd_predictor *p, const kd_card_file *file, const kd_scoring *s,
                     const char *data, kd_buf *b)
{
    kd_buf_str(b, "\n## How good it is\n\n");
    if (!s) {
        kd_buf_str(b, "Not measured: no labelled pictures were given (`--data`).\n");
        return;
    }
    const kd_figures *f = &s->figures;
    kd_buf_str(b, "On ");
    cell(b, data);
    kd_buf_printf(b,
                  " (digest %s):\n\n| | |\n|---|---|\n| pictures | %zu |\n"
                  "| top-1 | %.1f %% (95 %%: %.1f to %.1f %%) |\n| top-5 | %.1f %% |\n"
                  "| cross-entropy | %.4f nats |\n| calibration error (ECE) | %.4f |\n",
                  s->data, f->n, 100 * (double)f->correct / (double)f->n, 100 * s->lo, 100 * s->hi,
                  100 * (double)f->top5 / (double)f->n, f->loss, f->ece);
    if (file->format == KD_FORMAT_C && kd_graph_is_int8(p->net.graph))
        kd_buf_str(b,
                   "\nMeasured with values between layers in 8 bits, as `distill` computes; the C "
                   "code keeps them in\nfloat32, so single answers may differ.\n");
}

static void speed(const kd_timing *t, kd_buf *b)
{
    char a[KD_FMT];
    if (!t)
        return;
    kd_buf_str(b, "\n## How fast it is\n\nOn one thread of ");
    cell(b, t->cpu);
    kd_buf_printf(b,
                  ", in `distill`:\n\n| | |\n|---|---|\n"
                  "| one picture | %.3f ms (median of %d), 99 %% within %.3f ms |\n"
                  "| in batches of %d | %s pictures a second |\n",
                  t->p50, t->runs, t->p99, KD_TIMING_BATCH, kd_fmt_figure(t->throughput, a));
    kd_buf_printf(b, "| memory | %s |\n", kd_fmt_bytes((double)t->arena, a));
}

void kd_card_write(const kd_predictor *p, const kd_card_file *file, const kd_timing *timing,
                   const kd_scoring *scoring, const char *data, kd_buf *out)
{
    kd_buf_str(out, "# ");
    cell(out, *p->net.info.model ? p->net.info.model : "Picture classifier");
    kd_buf_str(out,
               "\n\nWritten by distilld " KD_VERSION " from the file's own metadata and what was "
               "measured at export.\n");
    network(p, file, out);
    origin(p, out);
    accuracy(p, file, scoring, data, out);
    speed(timing, out);
}
