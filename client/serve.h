/* What the files of `distill serve` share: a network that answers the Open Inference Protocol
 * (lib/kserve), its requests in order of arrival, and the threads that work on them.
 *
 * A thread takes one picture at a time, of whichever request is next, so that concurrent requests
 * share all threads and a large one is spread over them; larger batches of a plan are no faster on
 * a CPU (docs/models.md). A picture's answer depends on nothing but the picture.
 *
 * Threads: calls come on gRPC's, pictures are computed on the lanes'. What is guarded by `mu` says
 * so; all else is written before the server begins. */
#ifndef KD_CLI_SERVE_H
#define KD_CLI_SERVE_H

#include "kserve/kserve.h"
#include "lanes.h"
#include "rpc/rpc.h"

#include <stdatomic.h>

#define KD_SERVE_NAME 72
#define KD_SERVE_VERSION "1" /* of the model: there is one */

/* Two models of the one network, by what they are given. */
enum kd_serve_input {
    KD_SERVE_PIXELS, /* FP32, prepared as the network reads them */
    KD_SERVE_FILES,  /* BYTES, a JPEG or PNG file each */
    KD_SERVE_INPUTS
};

/* One tensor of an answer. */
typedef struct kd_serve_output {
    bool probabilities; /* else logits */
    size_t top;         /* the classification extension: so many classes as text; 0 = the values */
} kd_serve_output;

typedef struct kd_serve_request {
    struct kd_serve_request *next;
    kd_rpc_call *call;               /* a reference */
    Inference__ModelInferRequest *m; /* owned; pictures point into it */
    enum kd_serve_input input;
    struct iovec *pictures; /* [n] a file each, or its pixels */
    size_t n;
    float *logits; /* [n][classes] */
    kd_serve_output outputs[KD_MAX_TENSORS];
    size_t n_outputs;
    double arrived; /* kd_clock_s */
    /* ---- guarded by the server's mu */
    int refs; /* the call's and the lanes' */
    size_t begun, done;
    bool gone;   /* the client wants no answer any more */
    kd_diag why; /* of the first picture that failed */
} kd_serve_request;

#define KD_SERVE_BUCKETS 420
typedef struct kd_serve_counts {
    uint64_t answered, pictures, refused, failed, gone; /* requests but pictures */
    double seconds;                                     /* of those that were answered, summed */
    uint64_t buckets[KD_SERVE_BUCKETS];                 /* of latency, see kd_serve_percentile */
} kd_serve_counts;

typedef struct kd_serve {
    kd_predictor net;
    bool nchw; /* pixels come as [3,h,w], else [h,w,3] */
    char names[KD_SERVE_INPUTS][KD_SERVE_NAME];
    int64_t shapes[KD_SERVE_INPUTS][4]; /* of their inputs */
    size_t n_shape[KD_SERVE_INPUTS];
    size_t most;        /* pictures of a request */
    size_t max_request; /* its bytes */
    int queue;          /* requests at once, waiting or worked on */
    int threads;
    atomic_bool draining;
    pthread_t lanes[KD_LANES_MAX];
    int n_lanes;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    /* ---- guarded by mu */
    kd_serve_request *first, **end; /* whose pictures are not all begun */
    int inside;                     /* requests */
    int ready;                      /* lanes that have begun */
    bool stop;
    kd_diag broken; /* why a lane could not begin */
    kd_serve_counts counts;
} kd_serve;

/* ---- serve_queue.c */
/* Starts the lanes and waits until each is ready, or none is left and diag says why. */
int kd_serve_start(kd_serve *s, kd_diag *diag) KD_MUST_CHECK;
/* After the last call is over. */
void kd_serve_stop(kd_serve *s);
/* Whether one more request has room; if so it is counted until kd_serve_leave, or until it was
 * answered. */
bool kd_serve_enter(kd_serve *s);
void kd_serve_leave(kd_serve *s);
/* Takes the request over, to be answered by a lane. */
void kd_serve_push(kd_serve *s, kd_serve_request *r);
/* The call of a request is over. cancelled: its client went away. */
void kd_serve_call_over(kd_serve *s, kd_serve_request *r, bool cancelled);
void kd_serve_request_free(kd_serve_request *r);
/* Milliseconds that `share` of the answered requests took at most, to 5 %; NAN without any. */
double kd_serve_percentile(const kd_serve_counts *c, double share);

/* ---- serve_answer.c: a request whose pictures are done. */
void kd_serve_answer(const kd_serve *s, const kd_serve_request *r);

/* ---- serve_calls.c */
#define KD_SERVE_METHODS 6
void kd_serve_methods(kd_serve *s, kd_rpc_method rows[KD_SERVE_METHODS]);

#endif
