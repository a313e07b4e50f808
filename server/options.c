/* The command line of distilld. */
#include "daemon.h"
#include "kd/log.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char g_usage[] =
    "distilld " KD_VERSION " - coordinator of distillation jobs\n"
    "\n"
    "Usage: distilld [--state-dir DIR] [--listen HOST:PORT] [--port-file FILE]\n"
    "                [--heartbeat-ms N] [--lease-ms N] [--min-free SIZE]\n"
    "                [--http ADDRESS:PORT] [--http-port-file FILE] [--insecure]\n"
    "                [--log-level err|warn|info|debug]\n"
    "\n"
    "  --state-dir DIR     jobs, checkpoints and logits live here   (DISTILLD_STATE_DIR, "
    "./distilld-state)\n"
    "  --listen HOST:PORT  one gRPC port for clients and workers    (DISTILLD_LISTEN, "
    "127.0.0.1:7070)\n"
    "                      port 0 takes any free one\n"
    "  --port-file FILE    writes the port there once it serves\n"
    "  --heartbeat-ms N    how often workers report                 (1000)\n"
    "  --lease-ms N        silence after which a worker is lost     (5000)\n"
    "  --min-free SIZE     bytes kept free on the disk of DIR for checkpoints and the database, "
    "as\n"
    "                      64M or 2G: jobs wait and nothing is taken in below it (64M)\n"
    "  --http ADDRESS:PORT dashboard, /metrics, /healthz, /readyz and a JSON API that only reads\n"
    "                      (DISTILLD_HTTP, off); the address has to be a loopback's\n"
    "  --http-port-file FILE  writes its port there\n"
    "  --insecure          lets --http be read by everybody who reaches the address\n"
    "  --version, --help\n"
    "\n"
    "Exit codes: 0 stopped by a signal, 1 failure, 2 usage, 65 what is stored is damaged,\n"
    "75 state folder or port in use.\n";

/* Says what is wrong where it returns false. */
static bool number(const char *flag, const char *text, long low, long high, uint32_t *out)
{
    char *end;
    long v = strtol(text, &end, 10);
    if (*text && !*end && v >= low && v <= high) {
        *out = (uint32_t)v;
        return true;
    }
    fprintf(stderr, "distilld: %s wants a whole number from %ld to %ld, not \"%s\"\n", flag, low,
            high, text);
    return false;
}

/* Bytes, or with K, M or G behind; likewise. */
static bool bytes(const char *flag, const char *text, uint64_t *out)
{
    char *end;
    unsigned long long v = strtoull(text, &end, 10);
    static const char units[] = "KMG";
    const char *at = *end ? strchr(units, *end) : NULL;
    int shift = at ? 10 * (1 + (int)(at - units)) : 0;
    if (at)
        end++;
    if (*text >= '0' && *text <= '9' && !*end && v <= (1ull << 50) >> shift) {
        *out = (uint64_t)v << shift;
        return true;
    }
    fprintf(stderr, "distilld: %s wants a size as 64M or 2G, not \"%s\"\n", flag, text);
    return false;
}

static const char *env_or(const char *name, const char *other)
{
    const char *v = getenv(name);
    return v && *v ? v : other;
}

int kd_daemon_options(int argc, char **argv, kd_daemon_config *cfg)
{
    static const struct option options[] = {{"state-dir", required_argument, NULL, 's'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"port-file", required_argument, NULL, 'p'},
                                            {"heartbeat-ms", required_argument, NULL, 'b'},
                                            {"lease-ms", required_argument, NULL, 'e'},
                                            {"min-free", required_argument, NULL, 'f'},
                                            {"http", required_argument, NULL, 'w'},
                                            {"http-port-file", required_argument, NULL, 'P'},
                                            {"insecure", no_argument, NULL, 'i'},
                                            {"log-level", required_argument, NULL, 'v'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    *cfg = (kd_daemon_config){.state_dir = env_or("DISTILLD_STATE_DIR", "distilld-state"),
                              .listen = env_or("DISTILLD_LISTEN", "127.0.0.1:7070"),
                              .http = env_or("DISTILLD_HTTP", NULL),
                              .heartbeat_ms = 1000,
                              .lease_ms = 5000,
                              .min_free = 64u << 20};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            cfg->state_dir = optarg;
            break;
        case 'l':
            cfg->listen = optarg;
            break;
        case 'p':
            cfg->port_file = optarg;
            break;
        case 'b':
            if (!number("--heartbeat-ms", optarg, 10, 60000, &cfg->heartbeat_ms))
                return 2;
            break;
        case 'e':
            if (!number("--lease-ms", optarg, 100, 600000, &cfg->lease_ms))
                return 2;
            break;
        case 'f':
            if (!bytes("--min-free", optarg, &cfg->min_free))
                return 2;
            break;
        case 'w':
            cfg->http = *optarg ? optarg : NULL;
            break;
        case 'P':
            cfg->http_port_file = optarg;
            break;
        case 'i':
            cfg->insecure = true;
            break;
        case 'v': {
            int level = kd_log_level_of(optarg);
            if (level < 0) {
                fprintf(stderr, "distilld: --log-level wants err, warn, info or debug\n");
                return 2;
            }
            kd_log_set_level((enum kd_log_level)level);
            break;
        }
        case 'V':
            puts("distilld " KD_VERSION);
            return 0;
        case 'h':
            fputs(g_usage, stdout);
            return 0;
        default:
            fputs("Try `distilld --help`.\n", stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "distilld: unexpected argument \"%s\"; try `distilld --help`\n",
                argv[optind]);
        return 2;
    }
    if (cfg->lease_ms < 2 * cfg->heartbeat_ms) {
        fprintf(stderr, "distilld: --lease-ms must be at least twice --heartbeat-ms\n");
        return 2;
    }
    return -1;
}
