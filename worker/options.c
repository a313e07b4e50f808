/* The command line of distill-worker. */
#include "daemon.h"
#include "kd/log_sink.h"
#include "login/login.h"

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
    "                      [--threads N | --cores LIST] [--cache-bytes N[K|M|G]]\n"
    "                      [--credentials DIR] [--drain-s N] [--insecure] [--log-level LEVEL]\n"
    "                      [--log-format FORMAT]\n"
    "       distill-worker join TOKEN [--server HOST:PORT] [--name NAME] [--credentials DIR]\n"
    "\n"
    "  join                gets a certificate (`distill-worker join --help`)\n"
    "  --server HOST:PORT  the coordinator        "
    "(DISTILL_SERVER, that which it joined, 127.0.0.1:7070)\n"
    "  --data-root DIR     data sets of jobs are looked for here  "
    "(DISTILL_DATA_ROOT, .)\n"
    "  --name NAME         how it is called in lists              (its certificate's "
    "name, else host\n"
    "                      name and process number); with a certificate NAME or NAME.MORE\n"
    "  --threads N         units computed at once                 (as many as "
    "it has CPUs)\n"
    "  --cores LIST        CPUs, such as 0,4-7: a unit on each, which stays there. For machines\n"
    "                      where nothing else computes, each worker with cores of its own\n"
    "  --cache-bytes N     decoded pictures kept in memory        (1G)\n"
    "  --credentials DIR   what join made                         "
    "(DISTILL_WORKER_CREDENTIALS, see join)\n"
    "  --drain-s N         on SIGTERM units under way are finished and what it holds is handed\n"
    "                      over within N seconds; 0 = leave at once, as on a second signal (25)\n"
    "  --insecure          plain text, also to another machine    "
    "(DISTILL_INSECURE=1)\n"
    "  --teacher-ca FILE   CA of teachers outside (teacher.kserve with tls)  "
    "(DISTILL_TEACHER_CA, the\n"
    "                      system's)\n"
    "  --teacher-identity FILE  certificate and key for them, in one file     "
    "(DISTILL_TEACHER_IDENTITY)\n"
    "  --log-level LEVEL   err, warn, info or debug               (KD_LOG, info)\n"
    "  --log-format FORMAT  text, or json, one object a line      (KD_LOG_FORMAT, text)\n"
    "  --version, --help\n"
    "\n"
    "Exit codes: 0 stopped by a signal, 1 failure, 2 usage, 78 refused by the "
    "coordinator.\n";

static const char *env_or(const char *name, const char *other)
{
    const char *v = getenv(name);
    return v && *v ? v : other;
}

/* Says what is wrong where it returns false. */
static bool number(const char *flag, const char *text, long long low, long long high,
                   long long *out)
{
    char *end;
    long long v = strtoll(text, &end, 10);
    long long unit = *end == 'K'   ? 1ll << 10
                     : *end == 'M' ? 1ll << 20
                     : *end == 'G' ? 1ll << 30
                                   : 1;
    end += unit > 1;
    if (end != text && !*end && v >= 0 && v <= high / unit && v * unit >= low) {
        *out = v * unit;
        return true;
    }
    fprintf(stderr, "distill-worker: %s wants a number from %lld to %lld, not \"%s\"\n", flag, low,
            high, text);
    return false;
}

static int usable_cpus(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > KD_WORKER_THREADS ? KD_WORKER_THREADS : n;
}

/* The CPUs of a list such as "0,4-7" into cfg->cores. Says what is wrong where it returns false. */
static bool read_cores(const char *text, kd_worker_config *cfg)
{
    cpu_set_t usable, taken;
    CPU_ZERO(&taken);
    bool known = sched_getaffinity(0, sizeof usable, &usable) == 0;
    cfg->n_cores = 0;
    for (const char *at = text;; at++) {
        char *end;
        bool digit = *at >= '0' && *at <= '9';
        long first = strtol(at, &end, 10), last = first;
        if (digit && *end == '-' && end[1] >= '0' && end[1] <= '9')
            last = strtol(end + 1, &end, 10);
        if (!digit || last < first || last >= CPU_SETSIZE || (*end != ',' && *end != '\0')) {
            fprintf(stderr, "distill-worker: --cores wants CPUs, such as 0,4-7, not \"%s\"\n",
                    text);
            return false;
        }
        for (long cpu = first; cpu <= last; cpu++) {
            const bool usual = !known || CPU_ISSET((size_t)cpu, &usable);
            if (!usual || CPU_ISSET((size_t)cpu, &taken) || cfg->n_cores == KD_WORKER_THREADS) {
                fprintf(stderr, "distill-worker: --cores %s: %s\n", text,
                        !usual ? "this process may not use all of them; `nproc` says how many"
                        : cfg->n_cores == KD_WORKER_THREADS ? "more than 256 CPUs"
                                                            : "one of them stands there twice");
                return false;
            }
            CPU_SET((size_t)cpu, &taken);
            cfg->cores[cfg->n_cores++] = (int)cpu;
        }
        if (*end == '\0')
            return true;
        at = end;
    }
}

int kd_worker_options(int argc, char **argv, kd_worker_config *cfg)
{
    static const struct option options[] = {{"server", required_argument, NULL, 's'},
                                            {"data-root", required_argument, NULL, 'd'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"cores", required_argument, NULL, 'k'},
                                            {"cache-bytes", required_argument, NULL, 'c'},
                                            {"credentials", required_argument, NULL, 'C'},
                                            {"drain-s", required_argument, NULL, 'D'},
                                            {"insecure", no_argument, NULL, 'i'},
                                            {"log-level", required_argument, NULL, 'v'},
                                            {"log-format", required_argument, NULL, 'F'},
                                            {"teacher-ca", required_argument, NULL, 'A'},
                                            {"teacher-identity", required_argument, NULL, 'I'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    char host[40] = "worker";
    gethostname(host, sizeof host - 1);
    *cfg = (kd_worker_config){.server = env_or("DISTILL_SERVER", NULL),
                              .data_root = env_or("DISTILL_DATA_ROOT", "."),
                              .teacher_ca = env_or("DISTILL_TEACHER_CA", NULL),
                              .teacher_identity = env_or("DISTILL_TEACHER_IDENTITY", NULL),
                              .threads = usable_cpus(),
                              .drain_s = 25,
                              .cache_bytes = (size_t)1 << 30};
    snprintf(cfg->own_name, sizeof cfg->own_name, "%.40s-%ld", host, (long)getpid());
    const char *credentials = NULL;
    const char *insecure = env_or("DISTILL_INSECURE", "0");
    cfg->insecure = strcmp(insecure, "0") != 0;
    bool threads_given = false;
    long long v;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            cfg->server = optarg;
            break;
        case 'd':
            cfg->data_root = optarg;
            break;
        case 'n':
            cfg->name = optarg;
            break;
        case 't':
            if (!number("--threads", optarg, 1, KD_WORKER_THREADS, &v))
                return 2;
            cfg->threads = (int)v;
            threads_given = true;
            break;
        case 'k':
            if (!read_cores(optarg, cfg))
                return 2;
            break;
        case 'c':
            if (!number("--cache-bytes", optarg, 0, 1ll << 42, &v))
                return 2;
            cfg->cache_bytes = (size_t)v;
            break;
        case 'C':
            credentials = optarg;
            break;
        case 'D':
            if (!number("--drain-s", optarg, 0, 3600, &v))
                return 2;
            cfg->drain_s = (int)v;
            break;
        case 'i':
            cfg->insecure = true;
            break;
        case 'A':
            cfg->teacher_ca = optarg;
            break;
        case 'I':
            cfg->teacher_identity = optarg;
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
        case 'F':
            if (!kd_log_set_format(optarg)) {
                fprintf(stderr, "distill-worker: --log-format wants text or json\n");
                return 2;
            }
            break;
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
    if (cfg->n_cores > 0 && threads_given && cfg->threads != cfg->n_cores) {
        fprintf(stderr,
                "distill-worker: --threads %d, but %d CPUs in --cores; one of them will do\n",
                cfg->threads, cfg->n_cores);
        return 2;
    }
    if (cfg->n_cores > 0)
        cfg->threads = cfg->n_cores;
    kd_login_folder(credentials, "DISTILL_WORKER_CREDENTIALS", "distill-worker", true,
                    cfg->credentials, &cfg->credentials_chosen);
    if (!cfg->server)
        cfg->server =
            kd_login_server(cfg->credentials, cfg->joined) ? cfg->joined : KD_WORKER_DEFAULT_SERVER;
    return -1;
}
