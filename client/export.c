/* export: a network from a file as another kind of file, and its model card. */
#include "args.h"
#include "card.h"
#include "format.h"
#include "json.h"
#include "models_out.h"
#include "output.h"

#include "compress/c_write.h"
#include "kd/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_C ((size_t)1 << 30)
#define MAX_CARD ((size_t)1 << 20)
#define CARD_SECONDS 2.0

static const kd_opt g_opts[] = {
    {"format", 'f', "F", "c, onnx or safetensors"},
    {"output-file", 'O', "FILE", "where it goes; of C the source, its header beside it"},
    {"card", 0, "FILE", "a model card (Markdown) besides"},
    {"data", 0, "FOLDER", "labelled pictures, for the accuracy on the card"},
    {"list", 0, "FILE", "a list in it, as in `distill evaluate`"},
    KD_PREDICT_FLAGS,
};

/* PATH.c -> PATH.h */
static char *header_path(const char *path)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    char *out = NULL;
    if (asprintf(&out, "%.*s.h", (int)(dot ? dot - path : (long)strlen(path)), path) < 0)
        return NULL;
    return out;
}

/* said: what programs are told of it besides. */
static int write_c(kd_cli *cli, const kd_predictor *p, const kd_model_file_info *info,
                   const char *path, json_t *said, size_t *out_bytes, kd_diag *diag)
{
    char prefix[KD_C_PREFIX], a[KD_FMT];
    kd_buf header, source;
    size_t memory;
    char *beside = header_path(path);
    if (!beside)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the name of a header");
    if (strcmp(beside, path) == 0) {
        free(beside);
        return kd_fail(diag, -KD_EINVAL,
                       "-O names the C file, for example model.c; its header is "
                       "written beside it");
    }
    const char *slash = strrchr(beside, '/');
    kd_c_prefix(path, prefix);
    kd_buf_init(&header, MAX_CARD);
    kd_buf_init(&source, MAX_C);
    int rc = kd_c_write(p->net.graph, p->net.vector, info, prefix, slash ? slash + 1 : beside,
                        &header, &source, &memory, diag);
    if (rc == 0)
        rc = kd_file_write(beside, header.data, header.len, diag);
    if (rc == 0)
        rc = kd_file_write(path, source.data, source.len, diag);
    if (rc == 0 && !cli->json)
        kd_out(cli, "%s and %s: %s_run_rgb(), %s of memory for values", path, beside, prefix,
               kd_fmt_bytes((double)memory, a));
    if (rc == 0) {
        (void)json_object_set_new(said, "header", kd_json_text(beside));
        (void)json_object_set_new(said, "prefix", kd_json_text(prefix));
        (void)json_object_set_new(said, "memory_bytes", json_integer((json_int_t)memory));
    }
    *out_bytes = source.len;
    kd_buf_clear(&header);
    kd_buf_clear(&source);
    free(beside);
    return rc;
}

static int write_card(kd_cli *cli, const kd_args *args, const kd_predictor *p, size_t bytes)
{
    const char *data = kd_args_value(args, "data"), *path = kd_args_value(args, "card");
    const char *file = kd_args_value(args, "output-file"), *slash = strrchr(file, '/');
    kd_scoring scoring;
    kd_timing timing;
    kd_diag diag = {0};
    kd_buf text;
    if (data) {
        const int code =
            kd_scoring_run(cli, p, data, kd_args_value(args, "list"), kd_lanes_cpus(), &scoring);
        if (code != KD_EXIT_OK)
            return code;
    }
    kd_buf_init(&text, MAX_CARD);
    int rc = kd_timing_run(&p->net, CARD_SECONDS, &timing, &diag);
    if (rc == 0) {
        kd_card_write(p, slash ? slash + 1 : file, bytes, &timing, data ? &scoring : NULL, data,
                      &text);
        rc = text.failed
                 ? kd_fail(&diag, -KD_ELIMIT, "the card would be larger than %zu bytes", MAX_CARD)
                 : kd_file_write(path, text.data, text.len, &diag);
    }
    kd_buf_clear(&text);
    if (data)
        kd_scoring_clear(&scoring);
    if (rc != 0)
        kd_error(cli, "%s", diag.msg);
    return rc == 0 ? KD_EXIT_OK : KD_EXIT_FAILURE;
}

static int tell(kd_cli *cli, const char *path, int format, size_t bytes, json_t *said)
{
    char a[KD_FMT];
    if (cli->json) {
        (void)json_object_set_new(said, "path", kd_json_text(path));
        (void)json_object_set_new(said, "format", json_string(kd_model_format_word(format)));
        (void)json_object_set_new(said, "bytes", json_integer((json_int_t)bytes));
        return kd_json_print(cli, json_incref(said), false);
    }
    if (format != KD_FORMAT_C)
        kd_out(cli, "%s: %s", path, kd_fmt_bytes((double)bytes, a));
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args, const kd_predictor *p, int format)
{
    const char *path = kd_args_value(args, "output-file");
    kd_model_file_info info = p->net.info;
    kd_diag diag = {0};
    json_t *said = json_object();
    size_t bytes = 0;
    info.has_preprocess = true;
    info.preprocess = (enum kd_preprocess)p->preprocess;
    info.size = p->w;
    kd_engine_thread();
    int rc = format == KD_FORMAT_C
                 ? write_c(cli, p, &info, path, said, &bytes, &diag)
                 : kd_model_write(path, (enum kd_model_format)format, p->net.graph, p->net.vector,
                                  &info, &bytes, &diag);
    int code = rc == 0            ? tell(cli, path, format, bytes, said)
               : rc == -KD_EINVAL ? KD_EXIT_USAGE
                                  : KD_EXIT_FAILURE;
    json_decref(said);
    if (rc != 0)
        kd_error(cli, "%s", diag.msg);
    else if (code == KD_EXIT_OK && kd_args_has(args, "card"))
        code = write_card(cli, args, p, bytes);
    return code;
}

static int start(kd_cli *cli, const kd_args *args)
{
    kd_predictor p;
    const char *word = kd_args_value(args, "format");
    const int format = word ? kd_model_format_of(word) : -1;
    if (word && format < 0)
        return kd_usage(cli, "export", "--format c, onnx or safetensors", "unknown format \"%s\"",
                        word);
    if (!word || !kd_args_value(args, "output-file"))
        return kd_usage(cli, "export", "distill export MODEL --format c|onnx|safetensors -O FILE",
                        "export needs --format and -O");
    if (kd_args_has(args, "data") && !kd_args_has(args, "card"))
        return kd_usage(cli, "export", NULL, "--data is for the card; name it with --card");
    int rc = kd_predictor_start(cli, "export", args, &p);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = run(cli, args, &p, format);
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
