#include "fuzz.h"

#include "daemon.h"
#include "kd/log.h"

#include <getopt.h>
#include <stdlib.h>

int kd_fuzz_worker(const uint8_t *data, size_t len)
{
    kd_fuzz_words w;
    kd_worker_config cfg = {0};
    kd_fuzz_words_of("distill-worker", data, len, &w);
    optind = 0; /* glibc: begin anew */
    kd_fuzz_silence(true);
    int rc = kd_worker_options(w.argc, w.argv, &cfg);
    kd_fuzz_silence(false);
    kd_log_set_level(KD_LOG_ERR);
    KD_FUZZ_CHECK(rc == -1 || rc == 0 || rc == 2);
    if (rc == -1) {
        KD_FUZZ_CHECK(cfg.server && (cfg.name || cfg.own_name[0]) && cfg.data_root);
        KD_FUZZ_CHECK(cfg.threads >= 1 && cfg.threads <= KD_WORKER_THREADS);
        KD_FUZZ_CHECK(cfg.n_cores == 0 || cfg.n_cores == cfg.threads);
        KD_FUZZ_CHECK(cfg.cache_bytes <= (size_t)1 << 42);
    }
    free(w.text);
    return rc == -1;
}
