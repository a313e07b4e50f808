/* What the files of the simulation share. sim.c draws the configuration and the faults and runs the
 * world; sim_world.c has its time and its truth; sim_network.c carries calls and control streams,
 * and loses some; sim_worker.c and sim_coordinator.c are what the two processes do around the real
 * part, core and exchange. One event heap moves everything; what happens is a function of (world,
 * argument, number). */
#ifndef KD_TESTS_SIM_INTERNAL_H
#define KD_TESTS_SIM_INTERNAL_H

#include "sim.h"

#include "core.h"
#include "exchange.h"
#include "part.h"
#include "tree.h"

#include "kd/bfloat16.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_FLOATS 3
#define VAL_SAMPLES 70
#define EVAL_UNITS 3
#define JOB 0x123456789abcu
#define TICK_MS 25 /* the coordinator's timer */
#define UNIT_MS 40 /* one unit on a worker that is not slow */

struct world;
typedef void (*event_fn)(struct world *w, void *a, uint64_t b);
struct event {
    double time;
    uint64_t seq, b;
    event_fn fn;
    void *a;
    void (*drop)(void *a); /* of `a` when it is not run any more; NULL = it is not the event's */
};

struct worker {
    struct world *world;
    int index;
    bool alive, stopped, cut, odd;
    bool ends; /* once it is let go */
    double slow;
    uint64_t life, conn; /* of the process, of its control stream; 0 = not connected */
    uint64_t parts;      /* stages that it has let go: answers for those are nobody's */
    kd_member_id member; /* what the coordinator calls the stream; 0 = lost */
    double heard;
    enum { EMPTY, HOLDS } state;
    kd_part *part;
    kd_reducer *reducer;
    uint32_t *digests;
    kd_span round;
    bool round_checks;
    int round_left;
    uint64_t round_number;
    uint32_t rank, members;
    uint64_t evaluate;
    bool evaluated[EVAL_UNITS];
    bool awake; /* a wake-up is on its way */
};

struct kd_rpc_call {
    struct world *world;
    struct worker *worker;
    int refs;
    uint64_t life, parts, epoch;
    bool over;
    int gather_unit; /* -1 = what the part asked for */
    kd_todo todo;
    float *payload;
    size_t floats;
    uint32_t leaves[KD_MAX_SLOTS];
    kd_tree_sums sums;
    uint64_t process, version;
    uint8_t *reply;
    size_t reply_len;
    int code;
};

/* A message of a control stream, in either direction. */
struct control {
    uint64_t number; /* in its stream, from 0 */
    struct worker *worker;
    uint64_t life, conn, epoch;
    kd_action action;
    kd_range ranges[3][KD_MAX_SLOTS];
    kd_event event;
    kd_member_id member;
};

struct checkpoint {
    uint64_t version, opening;
    float *vector, *state;
};

struct world {
    kd_sim_config cfg;
    kd_sim_result *out;
    kd_rng rng;
    double now;
    uint64_t seq;
    struct event *heap;
    size_t n_heap, cap_heap;

    size_t floats;
    uint32_t vectors;
    float *initial;
    float **truth;      /* [steps + 2] */
    float **truth_sums; /* [steps + 1], scaled not yet */
    float *truth_scale; /* [steps + 1] */
    kd_core_stage_info info;

    struct worker *workers;
    int n_workers;
    struct stream {
        double at;           /* when the last message arrives */
        uint64_t sent, done; /* messages: streams are in order */
    } * control;             /* [workers] to each of them */

    /* on disk */
    char dir[64];
    uint64_t epoch, manifest, evaluated;
    struct checkpoint saved[2];
    enum kd_run_state state;
    bool stage_done;

    /* the coordinator's memory */
    bool up;
    kd_core *core;
    kd_exchange *exchange;
    kd_actions actions;
    bool carrying, power_failed;
    double loop_at;                    /* when the last event that was posted arrives */
    uint32_t sums_to_live;             /* it dies when that many sums have arrived, 0 = not so */
    uint64_t opening, committed, kept; /* kept: of the course that the stage is on */
    kd_member_id next_member;
    double last_progress;
    bool *evaluations; /* [steps + 2] that are stored */
};

#define SAY(w, ...)                                                                                \
    do {                                                                                           \
        if ((w)->cfg.verbose) {                                                                    \
            printf("%9.1f ", (w)->now);                                                            \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

/* ---- sim_world.c */
/* All of it but the processes: the truth, an empty heap, an empty disk, workers that are not there
 * yet. Clear frees it again, with the events that did not happen. */
void sim_world_init(struct world *w, const kd_sim_config *cfg, kd_sim_result *out);
void sim_world_clear(struct world *w);
/* A promise was not kept; the first one is what the run says. */
void sim_broken(struct world *w, const char *promise, const char *fmt, ...) KD_PRINTF(3, 4);
/* fn(w, a, b) happens at that time; a is nobody's, or belongs to the event (sim_at_owning). */
void sim_at(struct world *w, double time, event_fn fn, void *a, uint64_t b);
void sim_at_owning(struct world *w, double time, event_fn fn, void *a, uint64_t b,
                   void (*drop)(void *a));
/* The next event, taken from the heap. */
struct event sim_next(struct world *w);
/* From the seed: 0 to most. */
double sim_random(struct world *w, double most);
/* What everybody computes: the gradient of a unit, an owner's update of n parameters. */
void sim_gradient(const struct world *w, const float *vector, uint64_t step, uint32_t slot,
                  float *out);
void sim_update(const struct world *w, size_t n, float *slice, float *state, const float *sum,
                float scale);
size_t sim_chunk_len(const struct world *w, uint32_t chunk);
/* Whether the version must be evaluated. */
bool sim_border(const struct world *w, uint64_t version);
void sim_check_vector(struct world *w, const float *vector, uint64_t version, const char *whose);

/* ---- sim_network.c */
kd_rpc_call *sim_call_new(struct worker *k);
/* Takes the call. */
void sim_call_start(kd_rpc_call *c);
/* A call's next moment, which has this reference to it. */
void sim_call_at(kd_rpc_call *c, double time, event_fn fn);
/* A message's next moment. */
void sim_control_at(struct control *m, double time, event_fn fn);
/* To the member that the action names, if it is there. */
void sim_send_control(struct world *w, const kd_action *act);
/* The worker has done what it was asked to. */
void sim_send_answer(const struct control *asked, const kd_event *ev);
/* NULL when it is gone. */
struct worker *sim_worker_of(struct world *w, kd_member_id member);
/* The worker connects, if it is still in that life of its. */
void sim_on_connect(struct world *w, void *worker, uint64_t life);
void sim_disconnect(struct worker *k);

/* ---- sim_worker.c */
void sim_on_reply(struct world *w, void *call, uint64_t b);
void sim_on_control(struct world *w, void *control, uint64_t b);
/* Does all that there is to do now. */
void sim_pump(struct worker *k);
void sim_drop_stage(struct worker *k);
/* sim.c: the process ends, and another one takes its place some time later. */
void sim_kill_worker(struct worker *k);

/* ---- sim_coordinator.c */
void sim_start_coordinator(struct world *w);
/* It comes back by itself. */
void sim_kill_coordinator(struct world *w);
void sim_close_exchange(struct world *w);
/* Hands the core an event and carries out what follows. */
void sim_to_core(struct world *w, const kd_event *ev);
void sim_on_tick(struct world *w, void *a, uint64_t b);

#endif
