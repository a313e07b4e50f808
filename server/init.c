/* `distilld init`: all that a coordinator needs before other machines may reach it. */
#include "access.h"
#include "config.h"

#include "kd/clock.h"
#include "kd/file.h"

#include <getopt.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char g_usage[] =
    "Usage: distilld init [--state-dir DIR] [--listen HOST:PORT] [--host NAME]... [--config FILE]\n"
    "\n"
    "Makes in DIR/tls a certificate authority, the coordinator's certificate and one for its "
    "admin,\n"
    "and the configuration file FILE. What is there already stays, but the coordinator's\n"
    "certificate is made anew, so that a second run adds names to it, and the admin's where it is\n"
    "(nearly) over or was revoked (SIGHUP makes a running distilld take them). Certificates live\n"
    "as long as certificate_life says where FILE is there already.\n"
    "\n"
    "  --state-dir DIR     as of distilld                     (DISTILLD_STATE_DIR, "
    "./distilld-state)\n"
    "  --listen HOST:PORT  for the configuration file         (DISTILLD_LISTEN, 0.0.0.0:7070)\n"
    "  --host NAME         a further name or address that clients and workers reach it by; the\n"
    "                      names and addresses of this machine are taken anyhow\n"
    "  --config FILE       what to write                      (DIR/distilld.yaml)\n";

struct init {
    char *hosts[KD_PKI_MAX_HOSTS];
    size_t n_hosts;
    const char *state_dir, *listen, *config;
};

static void add_host(struct init *in, const char *host)
{
    for (size_t i = 0; i < in->n_hosts; i++)
        if (strcasecmp(in->hosts[i], host) == 0)
            return;
    if (host[0] && in->n_hosts < KD_PKI_MAX_HOSTS)
        in->hosts[in->n_hosts++] = kd_xstrdup(host);
}

/* Names and addresses by which this machine knows itself. Addresses that need a zone are of no use
 * to others. */
static void add_own_hosts(struct init *in)
{
    char name[256] = "", text[NI_MAXHOST];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME}, *found = NULL;
    struct ifaddrs *all = NULL;
    add_host(in, "localhost");
    if (gethostname(name, sizeof name - 1) == 0)
        add_host(in, name);
    if (name[0] && getaddrinfo(name, NULL, &hints, &found) == 0) {
        if (found->ai_canonname)
            add_host(in, found->ai_canonname);
        freeaddrinfo(found);
    }
    if (getifaddrs(&all) != 0)
        all = NULL;
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        int family = i->ifa_addr ? i->ifa_addr->sa_family : AF_UNSPEC;
        socklen_t len = family == AF_INET    ? sizeof(struct sockaddr_in)
                        : family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                             : 0;
        if (len && getnameinfo(i->ifa_addr, len, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0 &&
            !strchr(text, '%'))
            add_host(in, text);
    }
    if (all)
        freeifaddrs(all);
}

/* -1 = go on, else an exit code. */
static int read_flags(int argc, char **argv, struct init *in)
{
    static const struct option options[] = {{"state-dir", required_argument, NULL, 's'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"host", required_argument, NULL, 'n'},
                                            {"config", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            in->state_dir = optarg;
            break;
        case 'l':
            in->listen = optarg;
            break;
        case 'n':
            add_host(in, optarg);
            break;
        case 'c':
            in->config = optarg;
            break;
        case 'h':
            fputs(g_usage, stdout);
            return 0;
        default:
            fputs("Try `distilld init --help`.\n", stderr);
            return 2;
        }
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "distilld: unexpected argument \"%s\"; try `distilld init --help`\n",
            argv[optind]);
    return 2;
}

/* An administrator's own file is not written over. */
static int write_config(const struct init *in, const char *path, kd_diag *diag)
{
    kd_buf text;
    if (access(path, F_OK) == 0) {
        printf("kept      %s\n", path);
        return 0;
    }
    kd_buf_init(&text, 65536);
    kd_config_write(in->state_dir, in->listen, &text);
    int rc = text.failed ? kd_fail(diag, -KD_ENOMEM, "no memory for the configuration")
                         : kd_file_write(path, text.data, text.len, diag);
    kd_buf_clear(&text);
    if (rc == 0)
        printf("wrote     %s\n", path);
    return rc;
}

/* Of certificates, by the file that the coordinator is to read. */
static int read_life(const char *path, int64_t *out, kd_diag *diag)
{
    kd_daemon_config cfg = {.certificate_life_s = KD_CERTIFICATE_LIFE_S};
    int rc = access(path, F_OK) == 0 ? kd_config_read(path, &cfg, diag) : 0;
    if (rc == 0)
        *out = cfg.certificate_life_s;
    return rc;
}

/* There has to be one admin who can let others in, and himself. */
static int keep_admin(const struct init *in, kd_authority *a, kd_diag *diag)
{
    kd_authority_read_admin(a);
    const char *why = a->admin.role == KD_ROLE_NONE                  ? "was no admin's"
                      : kd_pki_is_due(&a->admin, kd_clock_wall_ms()) ? "was over, or nearly"
                                                                     : NULL;
    if (!why) {
        int revoked = kd_access_was_revoked(in->state_dir, a->admin.serial, diag);
        if (revoked <= 0)
            return revoked;
        why = "was revoked";
    }
    int rc = kd_authority_make_admin(a, diag);
    if (rc == 0)
        printf("renewed   %s/admin, which %s\n", a->dir, why);
    return rc;
}

static int make(struct init *in, kd_diag *diag)
{
    int64_t life_s;
    char tls[4096], config[4096], state[4096], server[300], digest[KD_PKI_DIGEST];
    kd_authority *authority = NULL;
    const char *port = strrchr(in->listen, ':');
    if (!port || strlen(in->listen) > 255)
        return kd_fail(diag, -KD_EINVAL, "--listen wants HOST:PORT, not %.255s", in->listen);
    int rc = kd_file_mkdirs(in->state_dir, diag);
    if (rc == 0 && !realpath(in->state_dir, state))
        rc = kd_fail(diag, -KD_EIO, "cannot find %.300s", in->state_dir);
    if (rc != 0)
        return rc;
    in->state_dir = state;
    snprintf(tls, sizeof tls, "%.3000s/tls", state);
    snprintf(config, sizeof config, "%.3000s/distilld.yaml", state);
    snprintf(server, sizeof server, "localhost%s", port);
    const char *path = in->config ? in->config : config;
    rc = read_life(path, &life_s, diag);
    if (rc == 0)
        rc = kd_authority_make(tls, (const char *const *)in->hosts, in->n_hosts, server, life_s,
                               diag);
    if (rc == 0)
        rc = kd_authority_open(tls, life_s, &authority, diag);
    if (rc != 0)
        return rc;
    memcpy(digest, authority->digest, sizeof digest);
    printf("wrote     %s (keep ca.key to yourself)\n", tls);
    rc = keep_admin(in, authority, diag);
    kd_authority_close(authority);
    if (rc == 0)
        rc = write_config(in, path, diag);
    if (rc != 0)
        return rc;
    printf("CA        %s\nhosts    ", digest);
    for (size_t i = 0; i < in->n_hosts; i++)
        printf(" %s", in->hosts[i]);
    printf("\n\nstart it        distilld --config %s\n"
           "be its admin    export DISTILL_CREDENTIALS=%s/admin\n"
           "let others in   distill token create --role worker --ttl 1h\n",
           path, tls);
    return 0;
}

static const char *env_or(const char *name, const char *other)
{
    const char *v = getenv(name);
    return v && *v ? v : other;
}

int kd_init_run(int argc, char **argv)
{
    kd_diag diag = {0};
    struct init in = {.state_dir = env_or("DISTILLD_STATE_DIR", "distilld-state"),
                      .listen = env_or("DISTILLD_LISTEN", "0.0.0.0:7070")};
    int rc = read_flags(argc, argv, &in);
    if (rc < 0) {
        add_own_hosts(&in);
        rc = make(&in, &diag) == 0 ? 0 : 1;
        if (rc)
            fprintf(stderr, "distilld: %s\n", diag.msg);
    }
    for (size_t i = 0; i < in.n_hosts; i++)
        free(in.hosts[i]);
    return rc;
}
