/* export: a network from a file as another kind of file, and its model card. */
#include "args.h"
#include "card.h"
#include "format.h"
#include "json.h"
#include "models_out.h"
#include "out_file.h"
#include "output.h"

#include "compress/c_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_C ((size_t)1 << 30)
#define MAX_CARD ((size_t)1 << 20)
#define CARD_SECONDS 2.0

static const kd_opt g_opts[] = {
    {"format", 'f', "c|onnx|safetensors", "what it becomes"},
    {"output-file", 'O', "FILE", "where it goes; of C the source, its header beside it"},
    {"card", 0, "FILE", "a model card (Markdown) besides"},
    {"data", 0, "FOLDER", "labelled pictures, for the accuracy on the card"},
    KD_SCORING_FLAGS,
    KD_PREDICT_FLAGS,
};

/* PATH.c -> PATH.h */
static int find_header(const char *path, char **out, kd_diag *diag)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    if (!dot || strcmp(dot, ".h") == 0)
        return kd_fail(diag, -KD_EINVAL,
                       "-O names the C file, for example model.c; its header is written beside it");
    if (asprintf(out, "%.*s.h", (int)(dot - path), path) >= 0)
        return 0;
    *out = NULL;
    return kd_fail(diag, -KD_ENOMEM, "no memory for the name of a header");
}

/* What is made of one network: its file, a header of C beside it, a card. */
typedef struct made {
    kd_buf file, header, card;
    char *header_path;
    char prefix[KD_C_PREFIX];
    size_t memory; /* of the C's values */
} made;

static void clear(made *m)
{
    kd_buf_clear(&m->file);
    kd_buf_clear(&m->header);
    kd_buf_clear(&m->card);
    free(m->header_path);
}

static int make_c(const kd_predictor *p, const kd_model_file_info *info, const char *path, made *m,
                  kd_diag *diag)
{
    const char *slash = strrchr(m->header_path, '/');
    kd_c_prefix(path, m->prefix);
    kd_buf_init(&m->header, MAX_CARD);
    kd_buf_init(&m->file, MAX_C);
    return kd_c_write(p->net.graph, p->net.vector, info, m->prefix,
                      slash ? slash + 1 : m->header_path, &m->header, &m->file, &m->memory, diag);
}

/* What is wanted. */
typedef struct wish {
    const char *path, *card; /* card NULL = none */
    enum kd_model_format format;
    kd_scoring_data data; /* for the card */
} wish;

static int make_card(kd_cli *cli, const wish *w, const kd_predictor *p, made *m)
{
    const char *data = w->data.folder, *slash = strrchr(w->path, '/');
    kd_scoring scoring;
    kd_timing timing;
    kd_diag diag = {0};
    if (data) {
        const int code = kd_scoring_run(cli, p, &w->data, kd_lanes_cpus(), &scoring);
        if (code != KD_EXIT_OK)
            return code;
    }
    kd_buf_init(&m->card, MAX_CARD);
    int rc = kd_timing_run(&p->net, CARD_SECONDS, &timing, &diag);
    if (rc == 0) {
        const kd_card_file about = {slash ? slash + 1 : w->path, w->format, m->file.len};
        kd_card_write(p, &about, &timing, data ? &scoring : NULL, data, &m->card);
        if (m->card.failed)
            rc = kd_fail(&diag, -KD_ELIMIT, "the card would be larger than %zu bytes", MAX_CARD);
    }
    if (data)
        kd_scoring_clear(&scoring);
    if (rc != 0)
        kd_error(cli, "%s", diag.msg);
    return rc == 0 ? KD_EXIT_OK : KD_EXIT_FAILURE;
}

/* Before anything is computed. */
static int check_paths(const wish *w, made *m, kd_diag *diag)
{
    const char *names[KD_OUT_FILES] = {w->path};
    size_t n = 1;
    const int rc = w->format == KD_FORMAT_C ? find_header(w->path, &m->header_path, diag) : 0;
    if (rc != 0)
        return rc;
    if (m->header_path)
        names[n++] = m->header_path;
    if (w->card)
        names[n++] = w->card;
    return kd_out_files_check(names, n, diag);
}

static int write_files(const wish *w, const made *m, kd_diag *diag)
{
    kd_out_file files[KD_OUT_FILES];
    size_t n = 0;
    if (m->header_path)
        files[n++] = (kd_out_file){m->header_path, m->header.data, m->header.len};
    if (w->card)
        files[n++] = (kd_out_file){w->card, m->card.data, m->card.len};
    files[n++] = (kd_out_file){w->path, m->file.data, m->file.len};
    return kd_out_files_write(files, n, diag);
}

static int complain(const kd_cli *cli, int rc, const kd_diag *diag)
{
    kd_error(cli, "%s", diag->msg);
    return rc == -KD_EINVAL ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
}

static int tell(kd_cli *cli, const kd_predictor *p, const wish *w, const made *m)
{
    char a[KD_FMT];
    if (cli->json) {
        json_t *said =
            json_pack("{s:o, s:s, s:I}", "path", kd_json_text(w->path), "format",
                      kd_model_format_word((int)w->format), "bytes", (json_int_t)m->file.len);
        if (w->format == KD_FORMAT_C)
            (void)json_object_update_new(
                said, json_pack("{s:o, s:s, s:I}", "header", kd_json_text(m->header_path), "prefix",
                                m->prefix, "memory_bytes", (json_int_t)m->memory));
        return kd_json_print(cli, said, false);
    }
    if (w->format == KD_FORMAT_C)
        kd_out(cli, "%s and %s: %s_run%s(), %s of memory for values", w->path, m->header_path,
               m->prefix, p->channels == 3 ? "_rgb" : "", kd_fmt_bytes((double)m->memory, a));
    else
        kd_out(cli, "%s: %s", w->path, kd_fmt_bytes((double)m->file.len, a));
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const wish *w, const kd_predictor *p, made *m)
{
    const kd_model_file_info info = kd_model_about(p);
    kd_diag diag = {0};
    kd_engine_thread();
    int rc = check_paths(w, m, &diag);
    if (rc == 0)
        rc = w->format == KD_FORMAT_C
                 ? make_c(p, &info, w->path, m, &diag)
                 : kd_model_pack(w->format, p->net.graph, p->net.vector, &info, &m->file, &diag);
    if (rc != 0)
        return complain(cli, rc, &diag);
    if (w->card) {
        const int code = make_card(cli, w, p, m);
        if (code != KD_EXIT_OK)
            return code;
    }
    rc = write_files(w, m, &diag);
    if (rc != 0)
        return complain(cli, rc, &diag);
    return tell(cli, p, w, m);
}

static int read_wish(kd_cli *cli, const kd_args *args, wish *out)
{
    const char *word = kd_args_value(args, "format");
    const int format = word ? kd_model_format_of(word) : -1;
    if (word && format < 0)
        return kd_usage(cli, "export", "--format c, onnx or safetensors", "unknown format \"%s\"",
                        word);
    *out = (wish){.path = kd_args_value(args, "output-file"),
                  .card = kd_args_value(args, "card"),
                  .format = (enum kd_model_format)format};
    if (!word || !out->path)
        return kd_usage(cli, "export", "distill export MODEL --format c|onnx|safetensors -O FILE",
                        "export needs --format and -O");
    if (kd_args_has(args, "data") && !out->card)
        return kd_usage(cli, "export", NULL, "--data is for the card; name it with --card");
    return kd_scoring_flags(cli, "export", args, kd_args_value(args, "data"), &out->data);
}

static int start(kd_cli *cli, const kd_args *args)
{
    kd_predictor p;
    wish w;
    int rc = read_wish(cli, args, &w);
    if (rc == KD_EXIT_OK)
        rc = kd_predictor_start(cli, "export", args, &p);
    if (rc != KD_EXIT_OK)
        return rc;
    made m = {0};
    rc = run(cli, &w, &p, &m);
    clear(&m);
    kd_predictor_clear(&p);
    return rc;
}

const kd_verb kd_verb_export = {
    .name = "export",
    .operands = "MODEL",
    .summary = "a model's file as C, ONNX or safetensors, and its model card",
    .help = "C is one source file and a header in C99 with no dependency but libc and libm: batch\n"
            "norms folded, pruned weights packed, one static array for all values. Classes and\n"
            "preprocessing travel along; where MODEL lacks them, --classes and --preprocess give\n"
            "them. A card tells of origin, accuracy (with --data), size and latency.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = start};
