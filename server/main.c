/* distilld: flags, environment, exit codes. */
#include "daemon.h"
#include "kd/failpoint.h"
#include "kd/log.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const char g_usage[] =
    "distilld " KD_VERSION " - coordinator of distillation jobs\n"
    "\n"
    "Usage: distilld [--state-dir DIR] [--listen HOST:PORT] [--port-file FILE]\n"
    "                [--heartbeat-ms N] [--lease-ms N] [--log-level err|warn|info|debug]\n"
    "\n"
    "  --state-dir DIR     jobs, checkpoints and logits live here   (DISTILLD_STATE_DIR, "
    "./distilld-state)\n"
    "  --listen HOST:PORT  one gRPC port for clients and workers    (DISTILLD_LISTEN, "
    "127.0.0.1:7070)\n"
    "                      port 0 takes any free one\n"
    "  --port-file FILE    writes the port there once it serves\n"
    "  --heartbeat-ms N    how often workers report                 (1000)\n"
    "  --lease-ms N        silence after which a worker is lost     (5000)\n"
    "  --version, --help\n"
    "\n"
    "Exit codes: 0 stopped by a signal, 1 failure, 2 usage, 75 state folder or port in use.\n";

static long number(const char *flag, const char *text, long low, long high)
{
    char *end;
    long v = strtol(text, &end, 10);
    if (*text && !*end && v >= low && v <= high)
        return v;
    fprintf(stderr, "distilld: %s wants a whole number from %ld to %ld, not \"%s\"\n", flag, low,
            high, text);
    exit(2);
}

static const char *env_or(const char *name, const char *other)
{
    const char *v = getenv(name);
    return v && *v ? v : other;
}

/* gRPC's listener does not recover from running out of descriptors, so take all there may be. */
static void raise_descriptors(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"state-dir", required_argument, NULL, 's'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"port-file", required_argument, NULL, 'p'},
                                            {"heartbeat-ms", required_argument, NULL, 'b'},
                                            {"lease-ms", required_argument, NULL, 'e'},
                                            {"log-level", required_argument, NULL, 'v'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    kd_daemon_config cfg = {.state_dir = env_or("DISTILLD_STATE_DIR", "distilld-state"),
                            .listen = env_or("DISTILLD_LISTEN", "127.0.0.1:7070"),
                            .heartbeat_ms = 1000,
                            .lease_ms = 5000};
    KD_FAILPOINTS_START();
    kd_log_set_name("distilld");
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            cfg.state_dir = optarg;
            break;
        case 'l':
            cfg.listen = optarg;
            break;
        case 'p':
            cfg.port_file = optarg;
            break;
        case 'b':
            cfg.heartbeat_ms = (uint32_t)number("--heartbeat-ms", optarg, 10, 60000);
            break;
        case 'e':
            cfg.lease_ms = (uint32_t)number("--lease-ms", optarg, 100, 600000);
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
    if (cfg.lease_ms < 2 * cfg.heartbeat_ms) {
        fprintf(stderr, "distilld: --lease-ms must be at least twice --heartbeat-ms\n");
        return 2;
    }
    raise_descriptors();
    kd_diag diag = {0};
    int rc = kd_daemon_run(&cfg, &diag);
    if (rc == 0)
        return 0;
    kd_err("%s", diag.msg);
    return rc == -KD_ESTATE || rc == -KD_EEXIST ? 75 : 1;
}
