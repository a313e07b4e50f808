/* quantize: a network from a file made to run in 8 bits, calibrated on pictures. */
#include "args.h"
#include "format.h"
#include "json.h"
#include "lanes.h"
#include "output.h"
#include "pictures.h"

#include "compress/quantise.h"
#include "models/int8.h"
#include "models/onnx.h"
#include "models_out.h"
#include "out_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define PICTURES 128
#define KEPT ((size_t)1 << 30) /* bytes of decoded pictures that are held at once */

static const kd_opt g_opts[] = {
    {"data", 0, "FOLDER", "pictures to calibrate with, at any depth; the training ones are right"},
    {"method", 0, "auto|minmax|percentile|mse|kl",
     "how values are cut off; auto: by whichever of them changes the answers least (auto)"},
    {"percentile", 0, "P", "of the values that are kept with --method percentile (99.99)"},
    {"pictures", 0, "N", "so many of them, evenly spread, 32..4096 (128)"},
    {"output-file", 'O', "FILE", "where it goes: .safetensors, or .onnx for QuantizeLinear pairs"},
    KD_PREDICT_FLAGS,
};

typedef struct calibration {
    const kd_predictor *p;
    kd_pictures found;
    const char **chosen; /* [n] of them */
    size_t n;
    size_t picture, room; /* bytes of one that is decoded; how many of them are kept */
    uint8_t *rgb;         /* [room + 1][picture], the first ones of chosen */
} calibration;

static int picture(void *arg, size_t i, float *input, kd_diag *diag)
{
    const calibration *c = arg;
    if (kd_cli_signal() != 0)
        return kd_fail(diag, -KD_ECANCELED, "interrupted");
    if (i < c->room)
        return kd_predict_floats(c->p, c->rgb + i * c->picture, input, diag);
    const int rc =
        kd_predict_picture(c->p, c->chosen[i], c->rgb + c->room * c->picture, input, diag);
    return rc == 0 ? 0 : kd_fail_at(diag, rc, "%s", c->chosen[i]);
}

/* Evenly spread over what was found, for folders go class by class; those that cannot be read are
 * passed over. They are looked at several times and decoded once, as far as there is room. */
static int choose(kd_cli *cli, calibration *c, size_t wanted)
{
    const size_t n = KD_MIN(wanted, c->found.n);
    c->picture = kd_predict_room(c->p);
    c->room = KD_MIN(n, KEPT / c->picture);
    c->rgb = malloc((c->room + 1) * c->picture);
    c->chosen = malloc((n + 1) * sizeof *c->chosen);
    if (!c->rgb || !c->chosen) {
        kd_error(cli, "no memory for %zu pictures", n);
        return KD_EXIT_FAILURE;
    }
    for (size_t i = 0; i < n && kd_cli_signal() == 0; i++) {
        const char *path = c->found.paths[i * c->found.n / n];
        kd_diag diag = {0};
        uint8_t *rgb = c->rgb + KD_MIN(c->n, c->room) * c->picture;
        if (kd_predict_picture(c->p, path, rgb, NULL, &diag) == 0)
            c->chosen[c->n++] = path;
        else
            kd_error(cli, "%s is passed over: %s", path, diag.msg);
    }
    return kd_cli_signal() != 0 ? kd_cli_signal_exit() : KD_EXIT_OK;
}

static int read_options(kd_cli *cli, const kd_args *args, kd_quantise_options *q)
{
    kd_diag diag = {0};
    uint64_t n;
    const char *method = kd_args_value(args, "method"), *share = kd_args_value(args, "percentile");
    const int which = kd_calibrate_of(method ? method : "auto");
    char *end = NULL;
    if (which < 0)
        return kd_usage(cli, "quantize", "--method minmax, percentile, mse, kl or auto",
                        "unknown method \"%s\"", method);
    if (kd_args_u64(args, "pictures", KD_QUANTISE_LEAST, KD_QUANTISE_MOST, PICTURES, &n, &diag) !=
        0)
        return kd_usage(cli, "quantize", NULL, "%s", diag.msg);
    *q = (kd_quantise_options){.method = (enum kd_calibrate)which,
                               .percentile = share ? strtod(share, &end) : 99.99,
                               .n = n,
                               .keep_bytes = KD_QUANTISE_KEEP,
                               .picture = picture};
    if (!(q->percentile > 0 && q->percentile <= 100) || (end && (end == share || *end)))
        return kd_usage(cli, "quantize", "a number above 0 and up to 100, for example 99.9",
                        "impossible --percentile %s", share);
    if (share && q->method != KD_CALIBRATE_PERCENTILE && q->method != KD_CALIBRATE_AUTO)
        return kd_usage(cli, "quantize", "--method percentile, or auto, which tries it too",
                        "--percentile says nothing to --method %s", method);
    if (!kd_args_value(args, "data") || !kd_args_value(args, "output-file"))
        return kd_usage(cli, "quantize", "distill quantize MODEL --data FOLDER -O FILE",
                        "quantize needs --data and -O");
    const char *out = kd_args_value(args, "output-file"), *dot = strrchr(out, '.');
    if (kd_out_files_check(&out, 1, &diag) != 0)
        return kd_usage(cli, "quantize", NULL, "%s", diag.msg);
    if (!dot || (strcasecmp(dot, ".safetensors") != 0 && strcasecmp(dot, ".onnx") != 0))
        return kd_usage(cli, "quantize", "`distill export` makes C of such a file afterwards",
                        "-O %s: a name that ends in .safetensors or .onnx is expected", out);
    return KD_EXIT_OK;
}

static int report(kd_cli *cli, const char *path, const kd_predictor *p,
                  const kd_quantise_options *opt, const kd_quantised *q, size_t bytes)
{
    char a[KD_FMT], b[KD_FMT];
    if (kd_quantised_doubtful(q, opt->n))
        kd_say(cli,
               "warning: %zu of %zu answers are others than in float32; `distill evaluate` tells "
               "what that costs. Another --method, more --pictures or training with 8 bits "
               "(`compress` of a job) may do better",
               opt->n - q->agree, opt->n);
    if (cli->json)
        return kd_json_print(cli,
                             json_pack("{s:o, s:I, s:i, s:i, s:s, s:I, s:I, s:f}", "path",
                                       kd_json_text(path), "bytes", (json_int_t)bytes,
                                       "convolutions", q->convolutions, "int8", q->int8, "method",
                                       kd_calibrate_word(q->method), "pictures", (json_int_t)opt->n,
                                       "agree", (json_int_t)q->agree, "kl", q->kl),
                             false);
    kd_out(cli, "%s: %d of %d convolution%s in 8 bits; %s, in float32 %s", path, q->int8,
           q->convolutions, q->convolutions == 1 ? "" : "s", kd_fmt_bytes((double)bytes, a),
           kd_fmt_bytes((double)p->net.graph->vector_len * sizeof(float), b));
    kd_out(cli, "calibrated with %s on %zu pictures: the same answer on %zu of them, KL %.5f nats",
           kd_calibrate_word(q->method), opt->n, q->agree, q->kl);
    return KD_EXIT_OK;
}

static int find_pictures(kd_cli *cli, const kd_args *args, calibration *c, size_t wanted)
{
    const char *data = kd_args_value(args, "data");
    struct stat st;
    if (stat(data, &st) != 0) {
        kd_error(cli, "--data %s: %s", data, strerror(errno));
        return KD_EXIT_FAILURE;
    }
    const int rc = kd_pictures_add(cli, data, &c->found);
    return rc == KD_EXIT_OK ? choose(cli, c, wanted) : rc;
}

static int run(kd_cli *cli, const kd_args *args, const kd_predictor *p, calibration *c,
               kd_quantise_options *opt)
{
    kd_diag diag = {0};
    kd_quantised q;
    const char *path = kd_args_value(args, "output-file");
    int code = find_pictures(cli, args, c, opt->n);
    if (code != KD_EXIT_OK)
        return code;
    opt->n = c->n;
    opt->arg = c;
    kd_engine_thread();
    int rc = kd_quantise(p->net.graph, p->net.vector, opt, &q, &diag);
    if (rc == 0) {
        kd_buf file;
        kd_model_file_info info = kd_model_about(p);
        snprintf(info.calibration, sizeof info.calibration, "%s, %zu pictures",
                 kd_calibrate_word(q.method), opt->n);
        rc = kd_model_pack(kd_model_format_of_path(path), q.graph, q.vector, &info, &file, &diag);
        if (rc == 0)
            rc = kd_out_files_write(&(kd_out_file){path, file.data, file.len}, 1, &diag);
        if (rc == 0)
            code = report(cli, path, p, opt, &q, file.len);
        kd_buf_clear(&file);
        kd_quantised_clear(&q);
    }
    if (rc == 0)
        return code;
    if (kd_cli_signal() != 0)
        return kd_cli_signal_exit();
    kd_error(cli, "%s", diag.msg);
    return rc == -KD_EINVAL ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
}

static int start(kd_cli *cli, const kd_args *args)
{
    kd_quantise_options q;
    kd_predictor p;
    int rc = read_options(cli, args, &q);
    if (rc == KD_EXIT_OK)
        rc = kd_predictor_start(cli, "quantize", args, &p);
    if (rc != KD_EXIT_OK)
        return rc;
    calibration c = {.p = &p};
    if (kd_graph_is_int8(p.net.graph)) {
        kd_error(cli, "%s is in 8 bits already; quantize the network that it was made of",
                 args->operands[0]);
        rc = KD_EXIT_FAILURE;
    } else {
        rc = run(cli, args, &p, &c, &q);
    }
    free(c.chosen);
    kd_pictures_clear(&c.found);
    free(c.rgb);
    kd_predictor_clear(&p);
    return rc;
}

const kd_verb kd_verb_quantize = {
    .name = "quantize",
    .operands = "MODEL",
    .summary = "a network in 8 bits: a quarter of the bytes, and faster",
    .help =
        "Batch norms are folded, weights get one scale an output channel, values between layers\n"
        "one each from what they are on the pictures of --data. Convolutions compute in 8 bits,\n"
        "all else in float32. `distill evaluate` tells what it costs; a warning, when on fewer "
        "than\n"
        "95 % of the pictures the answer stays the same. Pictures that cannot be read are passed\n"
        "over. Fewer than 32 that differ, or pictures that are all alike, are refused.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = start};
