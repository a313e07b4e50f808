/* Submits a job file many times, each under a key of its own, several calls at once, and prints how
 * many a second were acknowledged. */
#include "kd/clock.h"
#include "kd/file.h"
#include "rpc/rpc.h"
#include "wire/limits.h"
#include "wire/wire.h"

#include "distill.pb-c.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct run {
    kd_rpc_channel *channel;
    char *text;
    const char *key; /* what the keys begin with */
    pthread_mutex_t mu;
    pthread_cond_t changed;
    int next, total, open, failed;
    char why[256];
};

static void start(struct run *r);

static void on_done(const kd_rpc_result *result, void *arg)
{
    struct run *r = arg;
    pthread_mutex_lock(&r->mu);
    r->open--;
    if (result->code != 0 && r->failed++ == 0)
        snprintf(r->why, sizeof r->why, "%.250s", result->text);
    start(r);
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->mu);
}

/* Under r->mu. */
static void start(struct run *r)
{
    if (r->next == r->total || r->failed)
        return;
    char key[32];
    snprintf(key, sizeof key, "%.20s-%d", r->key, r->next++);
    Distill__V1__SubmitRequest m = DISTILL__V1__SUBMIT_REQUEST__INIT;
    m.key = key;
    m.text = r->text;
    m.file_name = "job.yaml";
    kd_buf buf;
    kd_buf_init(&buf, KD_MAX_CONTROL_BYTES);
    int rc = kd_wire_pack(&m, &buf);
    if (rc == 0)
        rc = kd_rpc_unary_start(r->channel, "/distill.v1.Jobs/Submit",
                                &(struct iovec){buf.data, buf.len}, 1, 60000, true, on_done, r);
    kd_buf_clear(&buf);
    if (rc == 0)
        r->open++;
    else
        r->failed++;
}

static int measure(struct run *r, int parallel)
{
    kd_time_ms begun = kd_clock_ms();
    pthread_mutex_lock(&r->mu);
    for (int i = 0; i < parallel; i++)
        start(r);
    while (r->open > 0)
        pthread_cond_wait(&r->changed, &r->mu);
    pthread_mutex_unlock(&r->mu);
    double seconds = (double)(kd_clock_ms() - begun) / 1000;
    if (r->failed) {
        fprintf(stderr, "submit-rate: %d calls failed: %s\n", r->failed, r->why);
        return 1;
    }
    printf("%.1f\n", r->total / seconds);
    return 0;
}

int main(int argc, char **argv)
{
    kd_diag diag = {0};
    kd_rpc *rpc = NULL;
    struct run r = {.mu = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    size_t len;
    if (argc != 6) {
        fputs("Usage: submit-rate HOST:PORT JOB.yaml CALLS PARALLEL KEY\n", stderr);
        return 2;
    }
    r.total = atoi(argv[3]);
    r.key = argv[5];
    int rc = kd_file_read(argv[2], KD_MAX_JOB_TEXT, &r.text, &len, &diag);
    if (rc == 0)
        rc = kd_rpc_new(1, &rpc, &diag);
    if (rc == 0)
        rc = kd_rpc_channel_new(rpc, argv[1], NULL, KD_MAX_CONTROL_BYTES, &r.channel, &diag);
    int code = rc == 0 ? measure(&r, atoi(argv[4])) : 1;
    if (rc != 0)
        fprintf(stderr, "submit-rate: %s\n", diag.msg);
    if (r.channel)
        kd_rpc_channel_free(r.channel);
    if (rpc)
        kd_rpc_free(rpc);
    free(r.text);
    return code;
}
