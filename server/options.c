/* The command line of distilld. */
#include "config.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char g_head[] =
    "distilld " KD_VERSION " - coordinator of distillation jobs\n"
    "\n"
    "Usage: distilld [--config FILE] [flags]\n"
    "       distilld init [--state-dir DIR] [--listen HOST:PORT] [--host NAME]... [--config FILE]\n"
    "\n"
    "  init                makes a CA, the coordinator's certificate, one for its admin and a\n"
    "                      configuration file (`distilld init --help`)\n"
    "  --config FILE       settings in YAML, by the names of the flags  (DISTILLD_CONFIG)\n"
    "  --port-file FILE    writes the port there once it serves\n"
    "  --http-port-file FILE  the same of --http\n";
static const char g_tail[] =
    "  --version, --help\n"
    "\n"
    "SIGHUP reads the certificates in DIR/tls again. Exit codes: 0 stopped by a signal, 1 "
    "failure,\n"
    "2 usage, 65 what is stored is damaged, 75 state folder or port in use.\n";

/* "  --min-free SIZE     meaning" with its further lines below, default and environment last. */
static void print_setting(const kd_setting *s)
{
    char flag[64], more[96] = "";
    int n =
        snprintf(flag, sizeof flag, "--%s%s%s", s->key, s->meta ? " " : "", s->meta ? s->meta : "");
    for (int i = 2; i < n && flag[i] != ' '; i++)
        if (flag[i] == '_')
            flag[i] = '-';
    snprintf(more, sizeof more, " (%s%s%s)", s->env ? s->env : "", s->env ? ", " : "", s->example);
    printf("  %-19s%s", flag, n > 18 ? "\n                      " : " ");
    for (const char *p = s->meaning; *p; p++)
        printf("%c%s", *p, *p == '\n' ? "                      " : "");
    printf("%s\n", more);
}

static void print_usage(void)
{
    fputs(g_head, stdout);
    for (size_t i = 0; i < kd_n_settings; i++)
        print_setting(&kd_settings[i]);
    fputs(g_tail, stdout);
}

enum { CONFIG = 1000, PORT_FILE, HTTP_PORT_FILE };

/* getopt's table out of the settings: value 1 + number of the setting. */
static void make_options(struct option *out, char (*names)[32])
{
    size_t n = 0;
    for (; n < kd_n_settings; n++) {
        snprintf(names[n], sizeof names[n], "%s", kd_settings[n].key);
        for (char *p = names[n]; *p; p++)
            *p = *p == '_' ? '-' : *p;
        out[n] = (struct option){names[n], kd_settings[n].meta ? required_argument : no_argument,
                                 NULL, (int)n + 1};
    }
    out[n++] = (struct option){"config", required_argument, NULL, CONFIG};
    out[n++] = (struct option){"port-file", required_argument, NULL, PORT_FILE};
    out[n++] = (struct option){"http-port-file", required_argument, NULL, HTTP_PORT_FILE};
    out[n++] = (struct option){"version", no_argument, NULL, 'V'};
    out[n++] = (struct option){"help", no_argument, NULL, 'h'};
    out[n] = (struct option){0};
}

static const char *env_of(const char *name)
{
    const char *v = name ? getenv(name) : NULL;
    return v && *v ? v : NULL;
}

/* Says what is wrong where it does not return -1. */
static int put(const kd_setting *s, const char *where, const char *text, kd_daemon_config *cfg)
{
    kd_diag diag = {0};
    if (kd_setting_put(s, text, cfg, &diag) == 0)
        return -1;
    fprintf(stderr, "distilld: %s %s\n", where, diag.msg);
    return 2;
}

/* The file that --config or the environment names, then the environment. */
static int read_before_flags(int argc, char **argv, const struct option *options,
                             kd_daemon_config *cfg)
{
    const char *path = env_of("DISTILLD_CONFIG");
    kd_diag diag = {0};
    opterr = 0; /* the second reading complains */
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;)
        if (c == CONFIG)
            path = optarg;
    optind = 0; /* glibc: begin anew */
    opterr = 1;
    if (path && kd_config_read(path, cfg, &diag) != 0) {
        fprintf(stderr, "distilld: %s\n", diag.msg);
        return 2;
    }
    for (size_t i = 0; i < kd_n_settings; i++) {
        const char *text = env_of(kd_settings[i].env);
        int rc = text ? put(&kd_settings[i], kd_settings[i].env, text, cfg) : -1;
        if (rc >= 0)
            return rc;
    }
    return -1;
}

static int read_flags(int argc, char **argv, const struct option *options, kd_daemon_config *cfg)
{
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        char where[40];
        int rc = -1;
        if (c > 0 && c <= (int)kd_n_settings) {
            snprintf(where, sizeof where, "--%s", options[c - 1].name);
            rc = put(&kd_settings[c - 1], where, optarg ? optarg : "true", cfg);
        } else if (c == PORT_FILE) {
            cfg->port_file = optarg;
        } else if (c == HTTP_PORT_FILE) {
            cfg->http_port_file = optarg;
        } else if (c == 'V') {
            puts("distilld " KD_VERSION);
            rc = 0;
        } else if (c == 'h') {
            print_usage();
            rc = 0;
        } else if (c != CONFIG) {
            fputs("Try `distilld --help`.\n", stderr);
            rc = 2;
        }
        if (rc >= 0)
            return rc;
    }
    return -1;
}

int kd_daemon_options(int argc, char **argv, kd_daemon_config *cfg)
{
    struct option options[64];
    char names[64][32];
    KD_BUG_ON(kd_n_settings + 6 > 64);
    make_options(options, names);
    *cfg = (kd_daemon_config){.state_dir = "distilld-state",
                              .listen = "127.0.0.1:7070",
                              .heartbeat_ms = 1000,
                              .lease_ms = 5000,
                              .min_free = 64u << 20,
                              .certificate_life_s = KD_CERTIFICATE_LIFE_S,
                              .quotas = KD_QUOTAS_DEFAULT,
                              .keep = KD_KEEP_DEFAULT,
                              .hooks = {.timeout_s = 30}};
    int rc = read_before_flags(argc, argv, options, cfg);
    if (rc < 0)
        rc = read_flags(argc, argv, options, cfg);
    if (rc >= 0)
        return rc;
    if (optind < argc) {
        fprintf(stderr, "distilld: unexpected argument \"%s\"; try `distilld --help`\n",
                argv[optind]);
        return 2;
    }
    if (cfg->http && !cfg->http[0])
        cfg->http = NULL;
    if (cfg->lease_ms < 2 * cfg->heartbeat_ms) {
        fprintf(stderr, "distilld: --lease-ms must be at least twice --heartbeat-ms\n");
        return 2;
    }
    return -1;
}
