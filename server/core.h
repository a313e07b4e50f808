/* The coordinator's mind: jobs, members, scheduling, stages.
 *
 * A pure state machine. kd_core_handle takes one event and the time and appends the actions that
 * follow; it does no I/O, reads no clock, starts no thread and draws no random number, so a run can
 * be replayed from its events. Bulk data never comes here: the exchange (exchange.h) sums gradients
 * and tells the core only that a version was committed, saved or evaluated.
 *
 * How a stage runs. Its members are told to prepare; when those that are needed are ready the stage
 * opens, at the end of its journal or at its newest checkpoint, and its units (slots) and chunks
 * are divided. Every change of who takes part is a generation: the chunks of who is gone go to
 * others, who rebuild them, and so do its unfinished units of the step under way; nothing is rolled
 * back. A worker that comes later prepares meanwhile and is taken in at the next checkpoint.
 * What the step is doing is asked for (KD_ACT_LOOK) and told (KD_EV_STEP) when a decision needs it.
 * A unit that takes much longer than others is given to somebody else as well; whose result comes
 * first counts. Units that are audited are run twice; who computes other bits than two others is
 * quarantined.
 *
 * Jobs of higher priority come first, then those that were submitted earlier. A queued job that
 * would fit takes workers from running ones of lower priority at a step border: first those beyond
 * their min_workers, then all of them.
 *
 * A stage may be held: another job makes what it would make. A job whose next stage is held takes
 * no workers and keeps nobody else from them; it goes on when the stage is taken over or held no
 * more.
 *
 * Threads: one. Memory: actions are plain data in a growing list that the caller reuses. */
#ifndef KD_SERVER_CORE_H
#define KD_SERVER_CORE_H

#include "kd/clock.h"
#include "kd/err.h"
#include "kd/hash.h"

#define KD_CORE_STAGES 24
#define KD_CORE_TEXT 400
#define KD_CORE_HELD 96

typedef uint64_t kd_job_id;    /* 48 random bits, shown as 12 hex digits */
typedef uint64_t kd_member_id; /* one control stream; each is greater than those before */

typedef struct kd_range {
    uint32_t first, count;
} kd_range;

enum kd_run_state {
    KD_RUN_QUEUED,
    KD_RUN_RUNNING,
    KD_RUN_SUCCEEDED,
    KD_RUN_FAILED,
    KD_RUN_CANCELLED
};
enum kd_core_stage_kind {
    KD_CORE_TRAIN,   /* steps and evaluations; also a network that is only evaluated (0 steps) */
    KD_CORE_MEASURE, /* one member measures costs */
    KD_CORE_EXPORT   /* the coordinator writes artefacts, no worker */
};

/* What the core must know of a stage; the same from every worker. */
typedef struct kd_core_stage_info {
    kd_digest identity;    /* of the whole StageInfo, fingerprint included */
    uint64_t last_version; /* steps + 1 */
    uint64_t eval_steps;   /* steps between two evaluations */
    uint32_t slots, chunks;
} kd_core_stage_info;

typedef struct kd_core_stage_setup {
    enum kd_core_stage_kind kind;
    bool done;
    uint64_t manifest;  /* durable version, 1 = initial */
    uint64_t evaluated; /* newest version whose evaluation is stored, 0 = none */
    bool has_info;
    kd_core_stage_info info;
    char held[KD_CORE_HELD]; /* what it waits for, for people; "" = it is not held */
} kd_core_stage_setup;

typedef struct kd_core_job_setup {
    kd_job_id id;
    uint32_t min_workers, max_workers;
    int priority; /* greater comes first */
    double audit; /* share of units that are run twice, 0..1 */
    uint32_t n_stages;
    kd_core_stage_setup stages[KD_CORE_STAGES];
    bool started; /* was running before a restart of the coordinator */
    bool paused;  /* by a user */
} kd_core_job_setup;

enum kd_event_kind {
    KD_EV_SUBMIT,    /* setup: new job, or a stored one at start-up, in order of submission */
    KD_EV_CANCEL,    /* job */
    KD_EV_FAIL,      /* job, text: the coordinator cannot go on with it */
    KD_EV_FORGET,    /* job: finished, drop it */
    KD_EV_JOIN,      /* member, process; job, stage, first_chunk of what it offers, job 0 = nothing;
                        drained, quarantined */
    KD_EV_LOST,      /* member, text: why */
    KD_EV_READY,     /* member, job, stage, info; text: non-empty = its info differs, and how */
    KD_EV_PROBLEM,   /* member, job, stage, worker_only, text */
    KD_EV_MEASURED,  /* member, job, stage */
    KD_EV_STALLED,   /* member, job, stage, generation, text: it cannot go on with it */
    KD_EV_COMMITTED, /* job, stage, generation of the opening, version */
    KD_EV_STEP,      /* job, stage, generation of the opening, step: the answer to KD_ACT_LOOK */
    KD_EV_CHECKED,  /* job, stage, generation of the opening, version = step, slot, process, other =
                     * whose run this second one of a unit differs from, 0 = nobody's */
    KD_EV_DIVERGED, /* job, stage, generation of the opening, version = step, slot, process: whose
                     * came first, other */
    KD_EV_ROLLBACK, /* job, stage, text: sums made of wrong numbers have left; version > 0: the
                       manifest is damaged, this checkpoint and evaluation are what there is */
    KD_EV_BLOCKED,  /* job, stage, text: why it waits for the disk; "" = it goes on */
    KD_EV_PAUSE,    /* job, text */
    KD_EV_RESUME,   /* job */
    KD_EV_SCALE,    /* job, min_workers, max_workers */
    KD_EV_DRAIN,    /* member, stop: false = it may be used again */

    KD_EV_SAVED,     /* job, stage, generation of the opening, version: checkpoint durable */
    KD_EV_EVALUATED, /* job, stage, version: all units in and stored; stop: it is the last one */
    KD_EV_EXPORTED,  /* job, stage; text: non-empty = failed */
    KD_EV_HOLD, /* job, stage, text: what a stage that has not begun waits for; "" = it may begin */
    KD_EV_TAKEN, /* job, stage: one that has not begun is done, as another job made it; stored
                    already */
    KD_EV_TICK
};

/* Where a step stands (kd_exchange_look_at). */
typedef struct kd_core_step {
    uint64_t version;
    kd_time_ms since;
    bool whole, want_state;
    bool held;                 /* sums wait for second runs or a verdict */
    const kd_time_ms *done_ms; /* [slots] 0 = not yet; borrowed during the call */
    /* [slots] NodeChunk.process of who told of the unit first, 0 = nobody has, and whether all that
     * it has told of was a second run; NULL = not told; likewise */
    const uint64_t *done_by;
    const bool *done_second;
    const bool *slices; /* [chunks] there of the next version, NULL = not told; likewise */
} kd_core_step;

typedef struct kd_event {
    enum kd_event_kind kind;
    kd_job_id job;
    kd_member_id member;
    uint32_t stage;
    uint64_t generation, version;
    uint64_t process, other; /* NodeChunk.process */
    uint32_t slot, first_chunk, min_workers, max_workers;
    uint32_t settled; /* KD_ACT_SETTLEs of the opening when it was found */
    bool worker_only, stop;
    bool more;                 /* another event follows at once: nobody is given work before it */
    bool drained, quarantined; /* of a member that joins: it was before its stream was lost */
    kd_core_step step;
    kd_core_stage_info info;
    const kd_core_job_setup *setup; /* borrowed during the call */
    const char *text;               /* likewise; may be NULL */
} kd_event;

enum kd_action_kind {
    KD_ACT_PREPARE, /* member, job, stage */
    KD_ACT_BEGIN,   /* member, job, stage, begin */
    KD_ACT_MEASURE, /* member, job, stage */
    KD_ACT_RELEASE, /* member, job, text */
    KD_ACT_OPEN,    /* job, stage, begin.generation, begin.version = manifest: the exchange opens;
                       begin.fresh: without its journal */
    KD_ACT_LOOK,    /* job, stage: KD_EV_STEP at once */
    KD_ACT_FENCE,   /* job, stage, begin.generation, chunks: they have new owners */
    KD_ACT_UNITS,   /* member, job, stage, version = step, units, check: to run besides */
    KD_ACT_SETTLE,  /* job, stage, version = step, check: redo it, process: whose numbers are wrong
                     */
    KD_ACT_CLOSE,   /* job, stage: exchange drops the stage; nothing of it counts any more */
    KD_ACT_CHECKPOINT, /* job, stage: checkpoint the next version that still can be */
    KD_ACT_STATE,      /* job, state, text = reason; to be stored */
    KD_ACT_STAGE_DONE, /* job, stage; to be stored */
    KD_ACT_MANIFEST,   /* job, stage, version: older checkpoints may go */
    KD_ACT_EXPORT,     /* job, stage */
    KD_ACT_NOTE        /* job, member (0 = none), note kind in `word`, text: an event for people */
};

typedef struct kd_begin {
    uint64_t generation, version, last_version;
    uint32_t rank, members;
    uint64_t manifest;
    bool evaluate_first, fresh, publish, publish_state; /* as in Begin */
} kd_begin;

enum kd_ranges { KD_RANGES_SLOTS, KD_RANGES_CHUNKS, KD_RANGES_UNITS, KD_RANGES_KINDS };

typedef struct kd_action {
    enum kd_action_kind kind;
    kd_job_id job;
    kd_member_id member;
    uint32_t stage;
    uint64_t version;
    enum kd_run_state state;
    kd_begin begin;
    struct {
        size_t at, n; /* in kd_actions.ranges */
    } ranges[KD_RANGES_KINDS];
    bool check;
    bool figures; /* STATE: the reason is the one before with other numbers in it */
    uint64_t process;
    const char *word; /* static string */
    char text[KD_CORE_TEXT];
} kd_action;

typedef struct kd_actions {
    kd_action *items;
    size_t count, cap;
    kd_range *ranges; /* of all actions */
    size_t n_ranges, cap_ranges;
} kd_actions;
void kd_actions_clear(kd_actions *a); /* frees */

typedef struct kd_core kd_core;
/* epoch: the coordinator's; generations are epoch * 2^32 + counter, so they never repeat. */
kd_core *kd_core_new(uint64_t epoch);
void kd_core_free(kd_core *c);
void kd_core_handle(kd_core *c, const kd_event *ev, kd_time_ms now, kd_actions *out);

/* ---- what others may ask between events */
typedef struct kd_core_view {
    enum kd_run_state state;
    uint32_t stage, n_stages;
    uint32_t members; /* workers in the running generation, or preparing */
    uint32_t min_workers, max_workers;
    bool preparing, paused;
    uint32_t queue_position; /* 1.. while queued */
    char reason[KD_CORE_TEXT];
} kd_core_view;
bool kd_core_job_view(kd_core *c, kd_job_id job, kd_core_view *out);
/* Whether the unit of a step is run twice: a function of its name. */
bool kd_core_audits(double share, kd_job_id job, uint32_t stage, uint64_t step, uint32_t slot);
/* Units that were given to others since it was slow; of this stream. */
uint64_t kd_core_member_slow(const kd_core *c, kd_member_id member);
/* Job a member works for, 0 = none; *out_state: idle, preparing, ready,
 * working, draining, drained or quarantined. */
kd_job_id kd_core_member_job(const kd_core *c, kd_member_id member, const char **out_state);
/* Whether the job makes the stage itself, now or already: it can be neither held nor taken over. */
bool kd_core_stage_begun(const kd_core *c, kd_job_id job, uint32_t stage);
/* Checks the invariants; returns NULL or the sentence that is broken. For tests. */
const char *kd_core_check(const kd_core *c);

#endif
