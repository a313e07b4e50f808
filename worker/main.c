/* distill-worker: what happens around the daemon. */
#include "daemon.h"
#include "engine/plan.h"
#include "kd/failpoint.h"
#include "kd/log.h"
#include "kd/memory.h"

#include <string.h>

int main(int argc, char **argv)
{
    kd_engine_mend_blas(argv);
    kd_memory_for_chunks();
    KD_FAILPOINTS_START();
    kd_log_set_name("distill-worker");
    if (argc > 1 && strcmp(argv[1], "join") == 0)
        return kd_worker_join(argc - 1, argv + 1);
    kd_worker_config cfg;
    int rc = kd_worker_options(argc, argv, &cfg);
    if (rc >= 0)
        return rc;
    kd_diag diag = {0};
    rc = kd_worker_run(&cfg, &diag);
    if (rc == 0)
        return 0;
    kd_err("%s", diag.msg);
    bool refused = rc == -KD_ESTATE || rc == -KD_EINVAL || rc == -KD_EPERM || rc == -KD_EAUTH;
    return refused ? 78 : 1;
}
