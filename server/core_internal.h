/* What core.c (jobs, stages, events), core_schedule.c (members, who works for whom) and core_step.c
 * (one step: units, chunks, slow and odd workers) share. */
#ifndef KD_SERVER_CORE_INTERNAL_H
#define KD_SERVER_CORE_INTERNAL_H

#include "core.h"
#include "ids.h"

#define KD_CORE_TIMES 64

enum member_state { IDLE, PREPARING, READY, WORKING };

struct member {
    kd_member_id id;
    uint64_t process;
    enum member_state state;
    kd_job_id job;      /* 0 = none */
    kd_job_id *refused; /* jobs that this worker cannot serve */
    size_t n_refused;
    bool drain;       /* takes no new work */
    bool quarantined; /* computed wrong numbers */
    bool leaving;     /* has no part in the next step; goes when this one is over */
    bool drained;     /* leaves because of a drain */
    kd_job_id offer;  /* whose stage it holds from before, 0 = none */
    uint32_t offer_stage, offer_chunk;
    uint64_t slow;
    uint32_t slow_row;     /* steps in a row in which it was slow */
    uint64_t slow_step;    /* the last of them */
    kd_time_ms slow_until; /* helped early until then */
};

struct stage {
    kd_core_stage_setup s;
    bool committed_last; /* version last_version is whole */
    bool saved_last;     /* and durable: a network that is only loaded starts at its last version */
    uint64_t pending_manifest; /* saved, but an evaluation before it is still open; 0 = none */
};

/* Two runs of a unit differ; a third one decides. */
struct dispute {
    bool open;
    uint64_t step;
    uint32_t slot;
    kd_member_id first, other, third; /* third 0 = nobody yet */
};

/* What a queued job was last told that it waits for. */
struct queued {
    size_t need, fit, of;
    size_t told; /* 0 = its reason is another one */
};

struct job {
    kd_job_id id;
    uint64_t order; /* of submission */
    enum kd_run_state state;
    uint32_t position; /* in the queue, from 1; as of kd_core.positions_known */
    size_t have;       /* as of the last take_survey (core_schedule.c) */
    struct kd_core *core;
    struct queued queued;
    uint32_t min_workers, max_workers, n_stages, stage;
    int priority;
    double audit;
    struct stage stages[KD_CORE_STAGES];
    bool open; /* the exchange runs */
    bool export_running;
    bool join_requested; /* a checkpoint was asked for, to take members in */
    bool paused;         /* by a user */
    bool yielding;       /* stops at the next step border */
    bool discard;        /* the next opening is without the journal */
    uint64_t opening, generation;
    uint32_t stalls;        /* since the last step that was committed */
    kd_time_ms first_ready; /* of the stage's preparation; 0 = nobody yet */
    char reason[KD_CORE_TEXT];
    char problem[KD_CORE_TEXT]; /* why the last worker could not serve it */
    char blocked[KD_CORE_TEXT]; /* why its sums do not leave */
    char yield_why[KD_CORE_TEXT];

    /* ---- the step: core_step.c */
    bool fresh;                /* nobody has a part since the stage opened */
    bool push_again;           /* the exchange has dropped what it had of the step */
    bool reshape;              /* parts are to be divided anew once the step is known */
    bool short_handed;         /* fewer members than it needs */
    uint64_t step;             /* T as far as it is known */
    kd_time_ms step_since;     /* when it was heard of */
    kd_time_ms hung_after;     /* how long its owners may take for what nobody else can do */
    uint64_t next_from;        /* first step of `next` */
    kd_member_id *chunk_owner; /* [chunks] 0 = nobody */
    kd_member_id *runner;      /* [slots] of `step` */
    kd_member_id *second;      /* [slots] who runs it besides, 0 = nobody */
    uint32_t settled;          /* disputes of this opening, each of which makes older news void */
    bool *checked;      /* [slots] its runner ran it besides, before the one who had it went */
    kd_member_id *next; /* [slots] of steps from next_from on */
    uint32_t n_chunks, n_slots;
    kd_time_ms times[KD_CORE_TIMES]; /* members' times to their last unit, newest steps */
    size_t n_times, at_times;
    struct dispute dispute;
};

struct kd_core {
    uint64_t epoch, counter;
    struct member *members; /* in order of joining, that is by id */
    size_t n_members;
    /* Three lists, so that an event costs no look at jobs that it cannot concern: there may be
     * thousands that are over or queued. */
    struct job **jobs;    /* in order of submission */
    struct job **live;    /* queued or running: by priority, then in that order */
    struct job **running; /* in order of submission */
    size_t n_jobs, n_live, n_running, cap_jobs;
    kd_ids index;
    uint64_t submitted;
    bool positions_known;
    bool settled; /* since nobody was given other work nothing has changed that decides it */
};

/* ---- core_jobs.c: the lists of jobs */
/* Copies the setup; the job is queued. */
struct job *kd_core_add_job(kd_core *c, const kd_core_job_setup *setup);
void kd_core_remove_job(kd_core *c, struct job *j);
void kd_core_free_jobs(kd_core *c);
struct job *kd_core_job(const kd_core *c, kd_job_id id);
/* Sets the state and keeps the lists. */
void kd_core_move_job(struct job *j, enum kd_run_state state);
/* Copy of a list that may change while it is gone through; the caller frees it. */
struct job **kd_core_copy_list(struct job *const *list, size_t n);
/* Place in the queue, from 1; 0 for a job that is not queued. */
uint32_t kd_core_position(kd_core *c, struct job *j);

/* ---- core.c */
kd_action *kd_core_act(kd_actions *out, enum kd_action_kind kind, kd_job_id job, uint32_t stage);
void kd_core_note(kd_actions *out, kd_job_id job, kd_member_id member, const char *word,
                  const char *fmt, ...) KD_PRINTF(5, 6);
/* What the job's next stage waits for, "" if it may run. */
const char *kd_core_held(const struct job *j);
bool kd_core_border(const kd_core_stage_info *info, uint64_t version);
void kd_core_set_state(struct job *j, enum kd_run_state state, const char *reason, kd_actions *out);
/* Goes to the next stage that is not done, or ends the job. */
void kd_core_enter_stage(kd_core *c, struct job *j, kd_actions *out);

/* ---- core_schedule.c */
struct member *kd_core_member(const kd_core *c, kd_member_id id);
bool kd_core_refused(const struct member *m, kd_job_id job);
void kd_core_refuse(struct member *m, kd_job_id job);
/* The job's members: in this state or a later one, and not on their way out; or just in it. */
size_t kd_core_count(const kd_core *c, kd_job_id job, enum member_state least);
size_t kd_core_count_in(const kd_core *c, kd_job_id job, enum member_state state);
/* Slots and chunks bound how many members can have work at once. */
size_t kd_core_most_members(const struct job *j);
void kd_core_prepare(struct member *m, struct job *j, kd_actions *out);
/* Takes a member out of its job. */
void kd_core_release(struct member *m, const char *why, kd_actions *out);
/* The same, and the job goes on without it or waits for another. lost: its stream is closed. */
void kd_core_gone(kd_core *c, struct member *m, const char *why, bool lost, kd_actions *out);
/* The member finishes its units of the step under way and has no part in the next one. */
void kd_core_let_go(kd_core *c, struct job *j, struct member *m, const char *why, kd_actions *out);
/* Stops a job at its next step border. */
void kd_core_yield(kd_core *c, struct job *j, const char *why, kd_actions *out);
/* Stops it at once; it goes on from the end of its journal. */
void kd_core_yield_now(kd_core *c, struct job *j, kd_actions *out);
/* Gives idle workers to jobs. */
void kd_core_schedule(kd_core *c, kd_actions *out);
/* Begins a stage whose members are ready, or goes on with one that was short of them. */
void kd_core_try_begin(kd_core *c, struct job *j, kd_time_ms now, kd_actions *out);

/* ---- core_step.c */
/* The stage's exchange opens; parts are divided as soon as the step is known. */
void kd_step_open(kd_core *c, struct job *j, kd_actions *out);
void kd_step_close(struct job *j, kd_actions *out);
void kd_step_free(struct job *j);
/* Who takes part has changed. */
void kd_step_reshape(struct job *j, kd_actions *out);
void kd_step_news(kd_core *c, struct job *j, const kd_core_step *step, kd_time_ms now,
                  kd_actions *out);
/* The step before `version` was committed; step: how it went. */
void kd_step_committed(kd_core *c, struct job *j, uint64_t version, const kd_core_step *step,
                       kd_time_ms now, kd_actions *out);
void kd_step_tick(kd_core *c, struct job *j, kd_time_ms now, kd_actions *out);
/* Both return the member that is to be quarantined, 0 = nobody. */
kd_member_id kd_step_diverged(kd_core *c, struct job *j, const kd_event *ev, kd_actions *out);
kd_member_id kd_step_checked(kd_core *c, struct job *j, const kd_event *ev, kd_actions *out);

#endif
