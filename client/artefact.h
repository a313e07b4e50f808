/* One artefact of a job, fetched piece by piece and checked: each piece against its checksum, the
 * whole against its digest. Outages are waited for. Threads: the main thread. */
#ifndef KD_CLI_ARTEFACT_H
#define KD_CLI_ARTEFACT_H

#include "connect.h"
#include "progress.h"

typedef struct kd_artefact_sink {
    /* Takes the next bytes in order; returns an exit code, having said why it is not 0. */
    int (*take)(void *arg, const uint8_t *bytes, size_t len);
    void *arg;
    kd_bar *bar; /* shows the bytes that are there; may be NULL */
} kd_artefact_sink;

/* What is fetched: an artefact, or with `stage` the checkpoint of a step, whose size and digest a
 * has. */
typedef struct kd_artefact_source {
    const char *job, *stage; /* stage NULL = an artefact */
    uint64_t step;
    bool *gone; /* set, and nothing said, when it is not there; NULL = it is said */
} kd_artefact_source;

/* Returns an exit code. What was taken before a failure is to be thrown away. */
int kd_artefact_receive(kd_conn *c, const kd_artefact_source *from, const Distill__V1__Artefact *a,
                        const kd_artefact_sink *sink) KD_MUST_CHECK;
/* NULL if the job has none of that name. */
const Distill__V1__Artefact *kd_artefact_find(const Distill__V1__JobDetail *d, const char *name);
/* Whole into memory, NUL-terminated; caller frees. One larger than max is refused. Returns an exit
 * code. */
int kd_artefact_read(kd_conn *c, const kd_artefact_source *from, const Distill__V1__Artefact *a,
                     size_t max, char **out_data, size_t *out_len) KD_MUST_CHECK;

#endif
