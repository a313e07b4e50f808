#include "compress/possible.h"

#include "compress/fold.h"
#include "compress/prune.h"
#include "compress/quantise.h"
#include "models/models.h"

#include <stdlib.h>
#include <string.h>

#define CLASSES 10 /* of the head, which no step touches */

/* A network with numbers that are made up. */
typedef struct network {
    kd_graph *graph; /* NULL = it could not be made here */
    float *vector;
} network;

static void drop(network *n)
{
    kd_graph_free(n->graph);
    free(n->vector);
    *n = (network){0};
}

static network student_of(const kd_job *job)
{
    network n = {0};
    kd_diag diag = {0};
    const kd_model_spec *m = &job->student;
    const kd_model_config cfg = kd_model_config_of(m, m->size ? m->size : job->data.size, CLASSES);
    if (strcmp(m->model, "onnx") == 0 || kd_model_build(&cfg, &n.graph, &diag) != 0)
        return n;
    n.vector = calloc(n.graph->vector_len + 1, sizeof *n.vector);
    if (n.vector)
        kd_graph_init(n.graph, 1, n.vector);
    else
        drop(&n);
    return n;
}

/* In 8 bits: what runs so if every value has a range. Where no plan can be made this machine's
 * oneDNN lacks one, and others may not. */
static int try_int8(const network *from, network *out, kd_diag *diag)
{
    kd_diag why = {0};
    if (kd_fold(from->graph, from->vector, &out->graph, &out->vector, &why) != 0)
        return 0;
    const int n = kd_quantise_choose(out->graph, out->vector, NULL, NULL, NULL, &why);
    return n == 0 ? kd_fail(diag, -KD_EINVAL, "%s", why.msg) : 0;
}

static int try_channels(const kd_compress_spec *c, const network *from, network *out, kd_diag *diag)
{
    kd_diag why = {0};
    const int rc = kd_prune_channels_less(from->graph, from->vector, c->share, c->multiple,
                                          &out->graph, &out->vector, &why);
    return rc == -KD_EINVAL ? kd_fail(diag, rc, "%s", why.msg) : 0;
}

int kd_compress_possible(const kd_job *job, kd_diag *diag)
{
    network made[KD_MAX_COMPRESS] = {{0}}, student = {0};
    const network *at[KD_MAX_COMPRESS]; /* what each step leaves */
    bool any = false;
    kd_diag why = {0};
    int rc = 0;
    for (int i = 0; i < job->n_compress; i++)
        any = any || job->compress[i].kind == KD_COMPRESS_CHANNELS ||
              job->compress[i].kind == KD_COMPRESS_QUANTIZE;
    if (any)
        student = student_of(job);
    for (int i = 0; i < job->n_compress && rc == 0; i++) {
        const kd_compress_spec *c = &job->compress[i];
        const int source = kd_compress_source(job, i);
        const network *from = source < 0 ? &student : at[source];
        const bool other = c->kind == KD_COMPRESS_CHANNELS || c->kind == KD_COMPRESS_QUANTIZE;
        at[i] = other ? &made[i] : from;
        if (!other || !from->graph)
            continue;
        rc = c->kind == KD_COMPRESS_CHANNELS ? try_channels(c, from, &made[i], &why)
                                             : try_int8(from, &made[i], &why);
        if (rc != 0)
            kd_fail(diag, rc, "compress[%d]: %s", i, why.msg);
    }
    for (int i = 0; i < job->n_compress; i++)
        drop(&made[i]);
    drop(&student);
    return rc;
}
