/* `distill-worker join`: a certificate for this machine, by a token. */
#include "daemon.h"

#include "login/login.h"

#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char g_usage[] =
    "Usage: distill-worker join TOKEN [--server HOST:PORT] [--name NAME] [--credentials DIR]\n"
    "                           [--replace]\n"
    "\n"
    "Gets a certificate by a token (`distill token create --role worker`): checks that the\n"
    "coordinator has the CA that the token names, makes a key that never leaves this machine, and\n"
    "has it certified. A worker that is started with the same --credentials then joins with it, "
    "and\n"
    "renews it in time. A token is good once.\n"
    "\n"
    "  --server HOST:PORT  the coordinator, also for later        (DISTILL_SERVER, "
    "127.0.0.1:7070)\n"
    "  --name NAME         how it is called, if the token leaves that open (the host's name)\n"
    "  --credentials DIR   where it is kept, readable by this user alone\n"
    "                      (DISTILL_WORKER_CREDENTIALS, $STATE_DIRECTORY/credentials,\n"
    "                      /var/lib/distill-worker/credentials as root, who writes there as\n"
    "                      the owner of /var/lib/distill-worker, else\n"
    "                      ~/.config/distill-worker)\n"
    "  --replace           give up what lies there of another name or coordinator\n"
    "\n"
    "Exit codes: 0 joined, 1 failure, 2 usage or a token that is not for a worker, 78 refused by "
    "the\n"
    "coordinator, or another login is there.\n";

/* Root joins for the service: as the user that its folder belongs to, so that the files are that
 * one's, and root follows no link that it may have put there. */
static int be_owner_of_folder(const char *credentials, kd_diag *diag)
{
    char folder[4096];
    struct stat st;
    snprintf(folder, sizeof folder, "%s", credentials);
    char *last = strrchr(folder, '/');
    if (geteuid() != 0 || !last || last == folder)
        return 0;
    *last = '\0';
    if (stat(folder, &st) != 0 || st.st_uid == 0)
        return 0;
    if (setgroups(0, NULL) != 0 || setgid(st.st_gid) != 0 || setuid(st.st_uid) != 0)
        return kd_fail(diag, -KD_EPERM, "cannot become the owner of %s: %s", folder,
                       strerror(errno));
    return 0;
}

static int join(const kd_worker_config *cfg, const char *token, bool replace, kd_diag *diag)
{
    kd_rpc *rpc = NULL;
    kd_login l = {0};
    char host[65] = "worker";
    gethostname(host, sizeof host - 1);
    host[strcspn(host, ".")] = '\0';
    const kd_login_wish wish = {.holder = KD_HOLDER_WORKER,
                                .name = cfg->name ? cfg->name : "",
                                .suggested = host,
                                .replace = replace,
                                .keep = "with another --credentials DIR"};
    int rc = kd_rpc_new(1, &rpc, diag);
    if (rc == 0)
        rc = kd_login_join(rpc, cfg->credentials, cfg->server, token, &wish, &l, diag);
    if (rpc)
        kd_rpc_free(rpc);
    if (rc == 0)
        printf("%s may work for %s; certificate and key are in %s\n", l.who.name, l.server, l.dir);
    kd_login_clear(&l);
    return rc;
}

int kd_worker_join(int argc, char **argv)
{
    static const struct option options[] = {{"server", required_argument, NULL, 's'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"credentials", required_argument, NULL, 'C'},
                                            {"replace", no_argument, NULL, 'R'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *credentials = NULL, *server = getenv("DISTILL_SERVER");
    kd_worker_config cfg = {.server = server && *server ? server : KD_WORKER_DEFAULT_SERVER};
    bool replace = false;
    kd_diag diag = {0};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's':
            cfg.server = optarg;
            break;
        case 'n':
            cfg.name = optarg;
            break;
        case 'C':
            credentials = optarg;
            break;
        case 'R':
            replace = true;
            break;
        case 'h':
            fputs(g_usage, stdout);
            return 0;
        default:
            fputs("Try `distill-worker join --help`.\n", stderr);
            return 2;
        }
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "distill-worker: join wants one token; try `distill-worker join --help`\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    kd_login_folder(credentials, "DISTILL_WORKER_CREDENTIALS", "distill-worker", true,
                    cfg.credentials, &cfg.credentials_chosen);
    int rc = cfg.credentials_chosen ? 0 : be_owner_of_folder(cfg.credentials, &diag);
    if (rc == 0)
        rc = join(&cfg, argv[optind], replace, &diag);
    if (rc == 0)
        return 0;
    fprintf(stderr, "distill-worker: %s\n", diag.msg);
    return rc == -KD_EINVAL ? 2 : rc == -KD_EAUTH || rc == -KD_EPERM || rc == -KD_EEXIST ? 78 : 1;
}
