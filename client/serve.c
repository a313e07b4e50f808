/* serve: a network from a file answers the Open Inference Protocol (KServe v2) over gRPC. */
#include "serve.h"

#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "kd/address.h"
#include "kd/clock.h"
#include "kd/file.h"
#include "output.h"

#include "inference_set.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LISTEN "127.0.0.1:8001" /* the port that other servers of the protocol have */
#define MOST_PICTURES 4096
#define MOST_QUEUE 4096
#define LEAST_REQUEST ((size_t)16 << 20) /* for picture files, whose sizes differ */
#define MOST_REQUEST ((size_t)256 << 20)
#define OTHER_CALLS 32 /* of metadata and health, beside the requests */
#define POLLERS 2
#define PAUSE_MS 1000

static const kd_opt g_opts[] = {
    {"listen", 0, "HOST:PORT", "where to; port 0 takes any free one (" LISTEN ")"},
    {"name", 0, "NAME", "of the model (that of the file)"},
    {"layout", 0, "nhwc|nchw", "of pixels; nchw as PyTorch has them (nhwc)"},
    {"threads", 0, "N", "pictures at once (as many as there are CPUs)"},
    {"batch", 0, "N", "pictures that one request may have (32)"},
    {"queue", 0, "N", "requests at once, waiting or worked on; more are refused (64)"},
    {"drain", 0, "SECONDS", "for what runs when a signal ends it (30)"},
    KD_PREDICT_FLAGS,
    {"tls-certificate", 0, "FILE", "TLS by this certificate, and what leads to its CA (PEM)"},
    {"tls-key", 0, "FILE", "its key"},
    {"tls-clients", 0, "FILE", "only for clients with a certificate of this CA"},
    {"port-file", 0, "FILE", "writes the port there once it serves"},
};

typedef struct server {
    kd_cli *cli;
    const char *listen, *port_file;
    int drain_ms;
    kd_rpc_tls tls; /* owned texts; certificate NULL = plain text */
    kd_serve serve;
    kd_rpc_method methods[KD_SERVE_METHODS];
    kd_rpc *rpc;
    kd_rpc_server *rpc_server;
    double begun;
} server;

/* ---- flags */

/* What stands between the last / and the last dot, as a name. */
static void name_of(const char *path, char out[KD_PKI_NAME])
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    snprintf(out, KD_PKI_NAME, "%.*s", dot && dot > base ? (int)(dot - base) : KD_PKI_NAME, base);
    kd_text_name(out, '_');
    if (!kd_pki_name_ok(out))
        snprintf(out, KD_PKI_NAME, "model");
}

static int read_numbers(server *v, const kd_args *args)
{
    kd_diag diag = {0};
    uint64_t threads, most, queue, drain;
    if (kd_args_u64(args, "threads", 1, KD_LANES_MAX, (uint64_t)kd_lanes_cpus(), &threads, &diag) !=
            0 ||
        kd_args_u64(args, "batch", 1, MOST_PICTURES, 32, &most, &diag) != 0 ||
        kd_args_u64(args, "queue", 1, MOST_QUEUE, 64, &queue, &diag) != 0 ||
        kd_args_u64(args, "drain", 0, 3600, 30, &drain, &diag) != 0)
        return kd_usage(v->cli, "serve", NULL, "%s", diag.msg);
    v->serve.threads = (int)threads;
    v->serve.most = (size_t)most;
    v->serve.queue = (int)queue;
    v->drain_ms = (int)drain * 1000;
    return KD_EXIT_OK;
}

static int read_words(server *v, const kd_args *args)
{
    char stem[KD_PKI_NAME];
    const char *layout = kd_args_value(args, "layout"), *name = kd_args_value(args, "name");
    const char *listen = kd_args_value(args, "listen");
    v->serve.nchw = layout && strcmp(layout, "nchw") == 0;
    if (layout && !v->serve.nchw && strcmp(layout, "nhwc") != 0)
        return kd_usage(v->cli, "serve", "--layout nhwc or nchw", "unknown layout \"%s\"", layout);
    if (name && !kd_pki_name_ok(name))
        return kd_usage(v->cli, "serve", "1 to 64 letters, digits and ._-",
                        "\"%s\" is no name for a model", name);
    name_of(args->operands[0], stem);
    snprintf(v->serve.names[KD_SERVE_PIXELS], KD_SERVE_NAME, "%s", name ? name : stem);
    snprintf(v->serve.names[KD_SERVE_FILES], KD_SERVE_NAME, "%.64s_image", name ? name : stem);
    v->listen = listen ? listen : LISTEN;
    v->port_file = kd_args_value(args, "port-file");
    return KD_EXIT_OK;
}

static int read_pem(const kd_args *args, const char *flag, bool key, const char **out,
                    kd_diag *diag)
{
    const char *path = kd_args_value(args, flag);
    char *text = NULL;
    int rc = !path ? 0
             : key ? kd_pki_read_key(path, &text, diag)
                   : kd_pki_read_certificate(path, &text, diag);
    *out = text;
    return rc == 0 ? 0 : kd_fail_at(diag, rc, "--%s", flag);
}

static int read_tls(server *v, const kd_args *args)
{
    kd_diag diag = {0};
    char digest[KD_PKI_DIGEST];
    const bool certificate = kd_args_has(args, "tls-certificate");
    if (certificate != kd_args_has(args, "tls-key") ||
        (kd_args_has(args, "tls-clients") && !certificate))
        return kd_usage(v->cli, "serve", NULL, "TLS needs --tls-certificate and --tls-key");
    int rc = read_pem(args, "tls-certificate", false, &v->tls.certificate, &diag);
    if (rc == 0)
        rc = read_pem(args, "tls-key", true, &v->tls.key, &diag);
    if (rc == 0)
        rc = read_pem(args, "tls-clients", false, &v->tls.ca, &diag);
    if (rc == 0 && certificate)
        rc = kd_pki_check(NULL, v->tls.certificate, v->tls.key, &diag);
    if (rc == 0 && v->tls.ca && (rc = kd_pki_digest(v->tls.ca, digest, &diag)) != 0)
        rc = kd_fail_at(&diag, rc, "--tls-clients");
    if (rc != 0) {
        kd_error(v->cli, "%s", diag.msg);
        return KD_EXIT_FAILURE;
    }
    if (certificate || v->cli->insecure || kd_address_is_loopback(v->listen))
        return KD_EXIT_OK;
    kd_error(v->cli, "other machines can reach %s, and everybody there could read and ask",
             v->listen);
    kd_hint(v->cli, "--tls-certificate FILE --tls-key FILE protects it, --tls-clients FILE says "
                    "whose; --insecure is plain text for everybody");
    return KD_EXIT_USAGE;
}

/* ---- life */

/* What requests may be, by the network. */
static int settle(server *v)
{
    kd_serve *s = &v->serve;
    const int64_t h = s->net.h, w = s->net.w;
    const int64_t nhwc[] = {-1, h, w, 3}, nchw[] = {-1, 3, h, w};
    memcpy(s->shapes[KD_SERVE_PIXELS], s->nchw ? nchw : nhwc, sizeof nhwc);
    s->n_shape[KD_SERVE_PIXELS] = KD_COUNT(nhwc);
    s->shapes[KD_SERVE_FILES][0] = -1;
    s->n_shape[KD_SERVE_FILES] = 1;
    const size_t wanted = s->most * (size_t)(w * h) * 3 * sizeof(float);
    if (wanted > MOST_REQUEST)
        return kd_usage(v->cli, "serve", NULL,
                        "--batch %zu: requests of %zu bytes, at most %zu are taken", s->most,
                        wanted, MOST_REQUEST);
    s->max_request = KD_MAX(wanted, LEAST_REQUEST) + KD_KSERVE_BESIDE;
    return KD_EXIT_OK;
}

static void say_hello(const server *v)
{
    const kd_serve *s = &v->serve;
    char shape[KD_KSERVE_SHAPE], size[KD_FMT];
    const char *std, *mean;
    kd_preprocess_scaling(s->net.preprocess, &mean, &std);
    kd_say(v->cli, "%s: pixels FP32 %s, from 0 to 1, minus (%s), divided by (%s), red first",
           s->names[KD_SERVE_PIXELS],
           kd_kserve_shape_text(s->shapes[KD_SERVE_PIXELS], s->n_shape[KD_SERVE_PIXELS], shape),
           mean, std);
    kd_say(v->cli, "%s: image BYTES [-1], a JPEG or PNG file each", s->names[KD_SERVE_FILES]);
    kd_say(v->cli,
           "%d classes, %s, %d threads; up to %d requests at once of at most %zu pictures and %s",
           s->net.net.n_classes, kd_graph_is_int8(s->net.net.graph) ? "8 bits" : "float32",
           s->threads, s->queue, s->most, kd_fmt_bytes((double)s->max_request, size));
    kd_say(v->cli, "serving on port %d%s", kd_rpc_server_port(v->rpc_server),
           v->tls.certificate ? ", TLS" : ", plain text");
}

static int listen_there(server *v, kd_diag *diag)
{
    const kd_serve *s = &v->serve;
    /* Each picture's logits and probabilities, or as many lines of text with a name each. */
    const size_t answer = s->most * (size_t)s->net.net.n_classes * 2 * 64 + KD_KSERVE_BESIDE;
    const kd_rpc_server_config cfg = {.listen = v->listen,
                                      .tls = v->tls.certificate ? &v->tls : NULL,
                                      .known_clients = v->tls.ca != NULL,
                                      .methods = v->methods,
                                      .n_methods = KD_SERVE_METHODS,
                                      .max_message =
                                          KD_MIN(KD_MAX(s->max_request, answer), 2 * MOST_REQUEST),
                                      .max_calls = s->queue + OTHER_CALLS,
                                      .descriptor_set = kd_inference_set,
                                      .descriptor_set_len = sizeof kd_inference_set};
    int rc = kd_rpc_server_new(v->rpc, &cfg, &v->rpc_server, diag);
    if (rc == 0 && v->port_file) {
        char text[16];
        snprintf(text, sizeof text, "%d\n", kd_rpc_server_port(v->rpc_server));
        rc = kd_file_write(v->port_file, text, strlen(text), diag);
    }
    return rc;
}

/* ---- what it has done */

static int print_json(const server *v, const kd_serve_counts *c, double seconds)
{
    json_t *latency = json_object();
    static const struct {
        const char *name;
        double share;
    } of[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}};
    for (size_t i = 0; i < KD_COUNT(of); i++)
        json_object_set_new(latency, of[i].name,
                            c->answered ? json_real(kd_serve_percentile(c, of[i].share))
                                        : json_null());
    json_object_set_new(latency, "mean",
                        c->answered ? json_real(c->seconds * 1000 / (double)c->answered)
                                    : json_null());
    return kd_json_print(v->cli,
                         json_pack("{s:s, s:f, s:I, s:I, s:I, s:I, s:I, s:o}", "model",
                                   v->serve.names[KD_SERVE_PIXELS], "seconds", seconds, "requests",
                                   (json_int_t)c->answered, "pictures", (json_int_t)c->pictures,
                                   "refused", (json_int_t)c->refused, "failed",
                                   (json_int_t)c->failed, "given_up", (json_int_t)c->gone,
                                   "latency_ms", latency),
                         false);
}

static int print_counts(const server *v)
{
    const kd_serve_counts *c = &v->serve.counts;
    const double seconds = kd_clock_s() - v->begun;
    char a[KD_FMT], b[KD_FMT];
    if (v->cli->json)
        return print_json(v, c, seconds);
    kd_out(v->cli, "%s requests answered with %s pictures in %s", kd_fmt_count(c->answered, a),
           kd_fmt_count(c->pictures, b), kd_fmt_duration(seconds, (char[KD_FMT]){0}));
    kd_out(v->cli, "%llu refused for want of room, %llu failed, %llu given up by their clients",
           (unsigned long long)c->refused, (unsigned long long)c->failed,
           (unsigned long long)c->gone);
    if (c->answered)
        kd_out(v->cli,
               "from arrival to answer: %.2f ms on average, 50 %% within %.2f ms, 90 %% within "
               "%.2f ms, 99 %% within %.2f ms",
               c->seconds * 1000 / (double)c->answered, kd_serve_percentile(c, 0.5),
               kd_serve_percentile(c, 0.9), kd_serve_percentile(c, 0.99));
    return kd_out_flush(v->cli);
}

/* Until a signal comes; then what runs is finished, within its time. */
static void serve_until_signal(server *v)
{
    say_hello(v);
    while (kd_conn_pause(PAUSE_MS)) {
    }
    atomic_store(&v->serve.draining, true);
    kd_say(v->cli, "stopping: no new requests; what runs has %d s", v->drain_ms / 1000);
    kd_rpc_server_stop(v->rpc_server, v->drain_ms);
}

static int run(server *v)
{
    kd_diag diag = {0};
    v->begun = kd_clock_s();
    kd_serve_methods(&v->serve, v->methods);
    int rc = kd_serve_start(&v->serve, &diag);
    if (rc == 0 && (rc = kd_rpc_new(POLLERS, &v->rpc, &diag)) == 0) {
        rc = listen_there(v, &diag);
        if (rc == 0)
            serve_until_signal(v);
        kd_rpc_server_free(v->rpc_server);
        kd_rpc_free(v->rpc);
    }
    kd_serve_stop(&v->serve);
    if (rc == 0)
        return print_counts(v);
    kd_error(v->cli, "%s", diag.msg);
    return rc == -KD_EINVAL ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
}

static int start(kd_cli *cli, const kd_args *args)
{
    server *v = kd_xalloc(sizeof *v);
    v->cli = cli;
    v->serve.net.preprocess = -1;
    pthread_mutex_init(&v->serve.mu, NULL);
    pthread_cond_init(&v->serve.changed, NULL);
    int rc = read_numbers(v, args);
    if (rc == KD_EXIT_OK)
        rc = read_words(v, args);
    if (rc == KD_EXIT_OK)
        rc = read_tls(v, args);
    if (rc == KD_EXIT_OK)
        rc = kd_predictor_start(cli, "serve", args, &v->serve.net);
    if (rc == KD_EXIT_OK && v->serve.net.channels != 3) {
        kd_error(cli, "%s wants grey pictures, which are not served", args->operands[0]);
        rc = KD_EXIT_FAILURE;
    }
    if (rc == KD_EXIT_OK)
        rc = settle(v);
    if (rc == KD_EXIT_OK)
        rc = run(v);
    kd_predictor_clear(&v->serve.net);
    kd_pki_drop((char *)v->tls.key);
    kd_pki_drop((char *)v->tls.certificate);
    kd_pki_drop((char *)v->tls.ca);
    pthread_mutex_destroy(&v->serve.mu);
    pthread_cond_destroy(&v->serve.changed);
    free(v);
    return rc;
}

const kd_verb kd_verb_serve = {
    .name = "serve",
    .operands = "MODEL",
    .summary = "answer the Open Inference Protocol (KServe v2) over gRPC with a model",
    .help = "Clients of KServe and Triton can ask it, and so can a job whose teacher it shall be\n"
            "(`distill explain teacher.kserve`). The model is there twice: NAME takes pixels as\n"
            "the network reads them, NAME_image takes JPEG and PNG files. Both answer with logits\n"
            "and probabilities, or the best classes of them. A signal ends it once what runs is\n"
            "answered; then it tells how long requests took. No coordinator is asked.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = start};
