/* distill-worker: flags, environment, exit codes. */
#include "daemon.h"
#include "engine/plan.h"
#include "kd/failpoint.h"
#include "kd/log.h"

#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char g_usage[] =
    "distill-worker " KD_VERSION " - trains for a distilld coordinator\n"
    "\n"
    "Usage: distill-worker [--server HOST:PORT] [--data-root DIR] [--name "
    "NAME]\n"
    "                      [--threads N] [--cache-bytes N[K|M|G]] [--log-level "
    "err|warn|info|debug]\n"
    "\n"
    "  --server HOST:PORT  the coordinator                        "
    "(DISTILL_SERVER, 127.0.0.1:7070)\n"
    "  --data-root DIR     data sets of jobs are looked for here  "
    "(DISTILL_DATA_ROOT, .)\n"
    "  --name NAME         how it is called in lists              (host name "
    "and process number)\n"
    "  --threads N         units computed at once                 (as many as "
    "it has CPUs)\n"
    "  --cache-bytes N     decoded pictures kept in memory        (1G)\n"
    "  --version, --help\n"
    "\n"
    "Exit codes: 0 stopped by a signal, 1 failure, 2 usage, 78 refused by the "
    "coordinator.\n";

static const char *env_or(const char *name, const char *other)
{
    const char *v = getenv(name);
    return v && *v ? v : other;
}

static long long number(const char *flag, const char *text, long long low, long long high)
{
    char *end;
    long long v = strtoll(text, &end, 10);
    long long unit = *end == 'K'   ? 1ll << 10
                     : *end == 'M' ? 1ll << 20
                     : *end == 'G' ? 1ll << 30
                                   : 1;
    end += unit > 1;
    if (end != text && !*end && v >= 0 && v <= high / unit && v * unit >= low)
        return v * unit;
    fprintf(stderr, "distill-worker: %s wants a number from %lld to %lld, not \"%s\"\n", flag, low,
            high, text);
    exit(2);
}

static int usable_cpus(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > 256 ? 256 : n;
}

int main(int argc, char **argv)
{
    kd_engine_mend_blas(argv);
    static const struct option options[] = {{"server", required_argument, NULL, 's'},
                                            {"data-root", required_argument, NULL, 'd'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"cache-bytes", required_argument, NULL, 'c'},
                                            {"log-level", required_argument, NULL, 'v'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    char host[40] = "worker", name[65];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%.40s-%ld", host, (long)getpid());
    kd_worker_config cfg = {.server = env_or("DISTILL_SERVER", "127.0.0.1:7070"),
                            .data_root = env_or("DISTILL_DATA_ROOT", "."),
                            .name = name,
                            .threads = usable_cpus(),
                            .cache_bytes = (size_t)1 << 30};
    KD_FAILPOINTS_START();
    kd_log_set_name("distill-worker");
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            cfg.server = optarg;
            break;
        case 'd':
            cfg.data_root = optarg;
            break;
        case 'n':
            cfg.name = optarg;
            break;
        case 't':
            cfg.threads = (int)number("--threads", optarg, 1, 256);
            break;
        case 'c':
            cfg.cache_bytes = (size_t)number("--cache-bytes", optarg, 0, 1ll << 42);
            break;
        case 'v': {
            int level = kd_log_level_of(optarg);
            if (level < 0) {
                fprintf(stderr, "distill-worker: --log-level wants err, warn, info or debug\n");
                return 2;
            }
            kd_log_set_level((enum kd_log_level)level);
            break;
        }
        case 'V':
            puts("distill-worker " KD_VERSION);
            return 0;
        case 'h':
            fputs(g_usage, stdout);
            return 0;
        default:
            fputs("Try `distill-worker --help`.\n", stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr,
                "distill-worker: unexpected argument \"%s\"; try `distill-worker "
                "--help`\n",
                argv[optind]);
        return 2;
    }
    kd_diag diag = {0};
    int rc = kd_worker_run(&cfg, &diag);
    if (rc == 0)
        return 0;
    kd_err("%s", diag.msg);
    return rc == -KD_ESTATE || rc == -KD_EINVAL ? 78 : 1;
}
