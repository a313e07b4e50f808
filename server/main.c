/* distilld: what happens around the daemon. */
#include "config.h"
#include "kd/failpoint.h"
#include "kd/log.h"
#include "kd/memory.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>

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
    kd_memory_for_chunks();
    KD_FAILPOINTS_START();
    kd_log_set_name("distilld");
    if (argc > 1 && strcmp(argv[1], "init") == 0)
        return kd_init_run(argc - 1, argv + 1);
    kd_daemon_config cfg;
    int rc = kd_daemon_options(argc, argv, &cfg);
    if (rc >= 0)
        return rc;
    raise_descriptors();
    signal(SIGPIPE, SIG_IGN); /* a hook need not read what it is told */
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is told by write, as a full disk is */
    kd_diag diag = {0};
    rc = kd_daemon_run(&cfg, &diag);
    if (rc == 0)
        return 0;
    kd_err("%s", diag.msg);
    return rc == -KD_ESTATE || rc == -KD_EEXIST ? 75 : rc == -KD_EDATA ? 65 : 1;
}
