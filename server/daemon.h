/* The coordinator process: one struct, one loop.
 *
 * gRPC's threads take calls and either hand them to an exchange directly (bulk data) or queue a
 * task for the loop (everything else). The loop alone touches the core, the database, the jobs'
 * records and the watchers, so none of those has a lock. Slow file work (checkpoints) runs on
 * libuv's pool and comes back as a task.
 *
 * Files: daemon.c the loop, tasks, and the core's actions; stages.c what a running stage does with
 * disks, stage_info.c what it is made of, stage_news.c what its exchange tells; watch.c events and
 * who reads them; wishes.c what users change of what runs; keep.c what is dropped when; svc_jobs.c,
 * svc_access.c, svc_storage.c, svc_cluster.c, svc_exchange.c the services.
 */
#ifndef KD_SERVER_DAEMON_H
#define KD_SERVER_DAEMON_H

#include "access.h"
#include "bank.h"
#include "core.h"
#include "exchange.h"
#include "hooks.h"
#include "ids.h"
#include "job/job.h"
#include "keep.h"
#include "meter.h"
#include "room.h"
#include "rpc/rpc.h"
#include "state.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

typedef struct kd_daemon kd_daemon;
typedef struct kd_http kd_http;

typedef struct kd_stage_record {
    kd_stage_row row;
    enum kd_stage_kind kind;
    Distill__V1__StageInfo *info;     /* unpacked row.info, NULL before a worker told */
    kd_exchange *exchange;            /* while it runs; see kd_daemon.exchanges for other threads */
    kd_step_totals sums;              /* since the last evaluation */
    kd_step_totals pending_sums;      /* the same at the version being saved */
    struct kd_exchange_span *trained; /* for clipping, owned */
    uint64_t version;                 /* committed */
    uint64_t generation;              /* of its opening; news of another one is dropped */
    char blocked[KD_CORE_TEXT];       /* why its journal takes no more, "" = it does */
    char no_room[KD_CORE_TEXT];       /* why the oldest of `writes` waits, "" = it does not */
    kd_time_ms write_at;              /* when that is tried again, 0 = at once */
    kd_time_ms fault_at;              /* of the step under way, 0 = none */
    bool fault_own;                   /* of the coordinator */
    uint64_t fault_redone;            /* steps computed again because of it */
    uint64_t lost;                    /* newest version whose checkpoint could not be written */
    kd_meter *meter;                  /* owned; NULL before its first step in this process */
    double ms_per_image, ms_per_image_64; /* of what it makes, as ModelCost; 0 = not measured */
    double last_loss;
    double rate;  /* samples a second, smoothed */
    void *writes; /* checkpoints.c: those that wait for the one being written */
    bool writing;
    kd_time_ms last_commit;
    kd_time_ms begun; /* of the stage in this process, 0 = not yet */
    bool shareable;   /* among the children of a sweep; see sweep.h */
    kd_digest share_key;
} kd_stage_record;

typedef struct kd_job_record {
    struct kd_job_record *next; /* in order of submission */
    kd_job_row row;
    kd_job spec;
    kd_stage_record stages[KD_MAX_STAGES];
    int n_stages;
    kd_epoch_row *epochs;
    int n_epochs;
    const char *phase;
    bool saving;    /* a checkpoint is being written */
    bool planned;   /* it stands still because that was wanted: going on is no fault's recovery */
    unsigned lines; /* of its workers' logs, kept in this process */
    bool export_waits; /* for room for result.json */
    uint32_t export_stage;
    bool told_no_room; /* for the files that its workers send */
    struct {
        bool known; /* once it is over */
        uint64_t bytes[KD_KEEP_OF_JOBS];
    } kept;
    struct {
        uint64_t process; /* 0 = nobody measures */
        kd_time_ms until; /* then another one may */
    } choosing[KD_MAX_TEACHERS];
} kd_job_record;

typedef struct kd_worker_record {
    struct kd_worker_record *next;
    kd_member_id id;
    kd_rpc_call *call; /* reference held */
    char address[128], name[65], version[32], cpu[97], blas[65], isa[65], numerics[33];
    char incarnation[17];
    uint64_t process;
    kd_job_id offer; /* whose stage it came back with, 0 = none */
    uint32_t offer_stage;
    uint64_t offer_version;
    uint32_t threads;
    bool joined; /* hello accepted */
    bool leaves; /* it was told to stop */
    bool trials; /* it tries jobs */
    bool sealed; /* its messages come with checksums */
    kd_time_ms seen;
    int64_t seen_wall_ms;
    uint64_t resident_bytes;
    uint32_t descriptors;
    uint64_t units;
    kd_time_ms units_at;
    double units_rate;
    uint64_t teacher_forwards, bank_hits; /* of its stage, for the job's sums */
    double teacher_seconds;
    kd_job_id beat_job;
    uint32_t beat_stage;
    kd_time_ms lines_since; /* log lines since then, within a second */
    unsigned lines;
    char waits[65]; /* what it waits for, as its heart-beats say; "" = nothing */
} kd_worker_record;

/* A log line of a worker that is not stored yet. */
typedef struct kd_worker_line {
    kd_job_id job;
    int64_t time_ms;
    uint64_t seq, step;
    uint32_t stage;
    const char *level;
    char worker[65], text[601];
} kd_worker_line;

/* A worker that was drained or quarantined when its stream was lost: so it is when it comes back.
 */
typedef struct kd_aside {
    char name[65], incarnation[17];
    bool drained, quarantined;
} kd_aside;

/* Where the events of a job go: a call's stream, or one over HTTP. */
typedef struct kd_watch_sink {
    int (*send)(void *to, const Distill__V1__Event *e);
    size_t (*queued)(void *to);                           /* bytes that its reader has not taken */
    void (*finish)(void *to, int code, const char *text); /* no more comes; may be said again */
    void (*drop)(void *to);                               /* the watcher is gone */
} kd_watch_sink;

typedef struct kd_watcher {
    struct kd_watcher *next;
    const kd_watch_sink *sink;
    void *to;
    kd_job_id job;
    uint64_t next_seq;
    uint64_t seen; /* kd_state.events + 1 when all that was stored had been sent; 0 = never */
    bool follow, progress;
    kd_time_ms last_progress;
} kd_watcher;

typedef struct kd_task {
    struct kd_task *next;
    void (*run)(kd_daemon *d, void *arg);
    void *arg;
} kd_task;

/* An exchange that other threads may find: by job and stage, reference-counted. */
typedef struct kd_exchange_entry {
    struct kd_exchange_entry *next;
    kd_job_id job;
    uint32_t stage;
    kd_exchange *x;
    int refs;
} kd_exchange_entry;

struct kd_daemon {
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t tick;
    uv_signal_t sigint, sigterm, sighup;
    int stopping;
    int writes_running; /* works on libuv's pool that a stop waits for */
    kd_rpc *rpc;
    kd_rpc_server *server;
    kd_http *http;                /* NULL = not wanted */
    const char *outside_teachers; /* of the configuration */
    kd_counts counts;
    kd_keep keep;
    kd_hooks *hooks;         /* NULL before they are opened */
    kd_authority *authority; /* NULL = plain text */
    kd_access *access;
    kd_time_ms looked;     /* when certificates were last looked after */
    uint64_t refused, cut; /* connections, as last told to the log */
    kd_time_ms refused_told;
    kd_state state;
    kd_room room;
    kd_bank_store *bank;
    atomic_bool bank_failed, closing;
    bool verifying; /* a bank */
    kd_core *core;
    kd_actions actions; /* of events under way, in order */
    bool carrying;
    kd_job_record *jobs, *last_job;       /* in order of submission */
    size_t jobs_in[KD_RUN_CANCELLED + 1]; /* of them by state, sweeps not counted */
    kd_ids job_ids;
    bool exports_wait; /* of some job, for room */
    kd_worker_record *workers;
    kd_watcher *watchers;
    kd_worker_line lines[256];
    size_t n_lines;
    kd_time_ms lines_at;                          /* when the first of them came */
    struct kd_submission *submits, **submits_end; /* in order of coming */
    size_t submits_waiting;                       /* of that list */
    atomic_int submits_coming, submits_open;      /* being read; not answered yet */
    uint64_t next_member;
    int64_t started_wall_ms;
    kd_time_ms started;
    uint32_t heartbeat_ms, lease_ms;
    struct kd_trial *trials; /* under way; see trials.h */
    uint32_t last_trial;
    kd_aside *aside; /* oldest first */
    size_t n_aside;

    pthread_mutex_t task_mu; /* guards the queue below */
    kd_task *tasks, **tasks_end;
    bool tasks_closed;

    pthread_mutex_t exchange_mu; /* guards the list below; taken before an exchange's own lock */
    kd_exchange_entry *exchanges;
};

typedef struct kd_daemon_config {
    const char *state_dir, *listen, *port_file; /* port_file NULL = none */
    uint32_t heartbeat_ms, lease_ms;
    uint64_t min_free;                 /* bytes kept for checkpoints and the database */
    const char *http, *http_port_file; /* NULL = no HTTP; no file */
    bool insecure;                     /* plain text and HTTP, also beyond this machine */
    const char *outside_teachers;      /* HOST:PORT, ... that jobs may name; NULL or "" = none */
    int64_t certificate_life_s;
    kd_quotas quotas;
    kd_keep_rules keep;
    kd_hook_config hooks;
    char held[5][1024]; /* texts that came from the configuration file */
} kd_daemon_config;
/* options.c: configuration file, environment and flags into *cfg, whose texts are borrowed from
 * these and from itself. -1 = run with it; else the exit code, with everything said. */
int kd_daemon_options(int argc, char **argv, kd_daemon_config *cfg) KD_MUST_CHECK;
/* Runs until SIGINT or SIGTERM. Returns 0, or an error with diag filled (nothing left running). */
int kd_daemon_run(const kd_daemon_config *cfg, kd_diag *diag) KD_MUST_CHECK;

/* ---- for the other files of this folder */
/* Any thread: runs fn(d, arg) on the loop. After the loop closed, fn is not called and false comes
 * back; the caller frees arg. */
bool kd_daemon_post(kd_daemon *d, void (*run)(kd_daemon *, void *), void *arg);
/* Loop only: gives the event to the core and carries out what it wants. */
void kd_daemon_event(kd_daemon *d, const kd_event *ev);
kd_job_record *kd_daemon_job(kd_daemon *d, kd_job_id id);
/* Takes the record over, at the end of the list; takes it out and gives it back. */
void kd_daemon_add_job(kd_daemon *d, kd_job_record *j);
void kd_daemon_take_job(kd_daemon *d, kd_job_record *j);
/* In memory; of one that is in the list. */
void kd_daemon_set_job_state(kd_daemon *d, kd_job_record *j, enum kd_run_state state);
kd_worker_record *kd_daemon_worker(kd_daemon *d, kd_member_id id);
/* Stops the process after an error it cannot go on from (the database is gone). */
void kd_daemon_fatal(kd_daemon *d, const kd_diag *diag);

/* Makes a record from a stored or new job; takes row's strings. spec: what its resolved text loads
 * to, NULL = not loaded yet. NULL with diag on failure. */
kd_job_record *kd_job_record_new(kd_job_row *row, const kd_job *spec, kd_diag *diag);
void kd_job_record_free(kd_job_record *j);
/* How many workers it wants: as its file says, or as it was scaled since. */
uint32_t kd_job_min_workers(const kd_job_record *j);
uint32_t kd_job_max_workers(const kd_job_record *j);
/* Tells the core of the job; `more` follow at once, and it looks for workers after the last. */
void kd_daemon_introduce(kd_daemon *d, kd_job_record *j, bool more);
/* Records of all stored jobs, of which the core does not know yet. */
int kd_daemon_restore(kd_daemon *d, kd_diag *diag) KD_MUST_CHECK;

/* stage_info.c */
int kd_stage_set_info(kd_stage_record *s, const uint8_t *packed, size_t len,
                      kd_diag *diag) KD_MUST_CHECK;
void kd_stage_core_info(const kd_job_record *j, const kd_stage_record *s, kd_core_stage_info *out);
/* Sentence that says how two infos differ, "" if they do not. */
void kd_stage_compare(const Distill__V1__StageInfo *have, const Distill__V1__StageInfo *got,
                      char out[KD_CORE_TEXT]);
/* Version that the stage ends at: its last step's, or where it was stopped early. */
uint64_t kd_stage_last_version(const kd_stage_record *s);
uint64_t kd_stage_epoch_steps(const Distill__V1__StageInfo *i);
uint64_t kd_stage_eval_steps(const Distill__V1__StageInfo *i); /* between two evaluations */
uint64_t kd_stage_vector_floats(const Distill__V1__StageInfo *i);

/* stage_news.c */
/* A worker has failed that works for the stage of the job: the time until the next step is
 * committed is what it costs. */
void kd_stage_fault(kd_daemon *d, kd_job_id job);
/* Tells the core why the stage waits for the disk, "" = it goes on. */
void kd_stage_tell_waiting(kd_daemon *d, kd_job_record *j, uint32_t stage, const char *why);
/* The same with what its journal and its checkpoints wait for. */
void kd_stage_tell_blocked(kd_daemon *d, kd_job_record *j, uint32_t stage);

/* stages.c */
void kd_stage_open(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_begin *begin);
void kd_stage_close(kd_daemon *d, kd_job_record *j, uint32_t stage);
/* Tells the core where the step stands. */
void kd_stage_look(kd_daemon *d, kd_job_record *j, uint32_t stage);
void kd_stage_settle(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t step, bool redo,
                     uint64_t odd);
/* Exchanges whose journal took no more try again, and so do checkpoints that wait for room. */
void kd_stage_tick(kd_daemon *d, kd_time_ms now);
/* Path of the stage's journal without what kd_journal adds. */
void kd_stage_journal_prefix(const kd_daemon *d, kd_job_id job, uint32_t stage, char *out,
                             size_t size);
void kd_stage_finished(kd_daemon *d, kd_job_record *j, uint32_t stage);
void kd_stage_manifest(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version);
/* Drops checkpoints that are of no use any more. Of a stage of the student that is done its last
 * and its best version stay, for jobs that go on from there. */
void kd_stage_tidy(kd_daemon *d, kd_job_record *j, uint32_t stage, bool done);
void kd_stage_store(kd_daemon *d, kd_job_record *j, uint32_t stage);
/* NULL if the job or the stage is gone. */
kd_stage_record *kd_stage_record_of(kd_daemon *d, kd_job_id job, uint32_t stage,
                                    kd_job_record **out_job);
/* The coordinator cannot go on with the job. */
void kd_stage_fail(kd_daemon *d, kd_job_record *j, const char *text);
/* Any thread. NULL if that stage does not run; release afterwards. */
kd_exchange_entry *kd_stage_acquire(kd_daemon *d, kd_job_id job, uint32_t stage);
void kd_stage_release(kd_daemon *d, kd_exchange_entry *e);

/* evaluations.c */
/* Callback of an exchange. */
void kd_evaluation_done(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                        uint64_t version, double learning_rate, const float *rows);
/* Evaluation of a version (0: the newest) of a stage, NULL = none; borrowed until the next one. */
const kd_epoch_row *kd_stage_evaluation(const kd_job_record *j, uint32_t stage, uint64_t version);

/* Evaluations of later versions are forgotten, since they will be made again: what is the best and
 * when a stage ends early follows from those before. */
void kd_stage_forget_evaluations(kd_job_record *j, uint32_t stage, uint64_t version);

/* checkpoints.c */
/* Callback of an exchange: queues the write. */
void kd_checkpoint_snapshot(void *arg, kd_exchange_snapshot *snap);
/* Those of the stage that wait for room, when it is time to try again. */
void kd_checkpoint_tick(kd_daemon *d, kd_job_record *j, kd_stage_record *s, kd_time_ms now);
/* Forgets writes that have not begun. */
void kd_checkpoint_drop_waiting(kd_stage_record *s);
/* The vectors of a checkpoint's bytes, which need not be trusted: caller frees both, vector
 * [floats] and state [vectors][floats], NULL where there is none. -KD_EDATA when they do not hold
 * just that; the out-parameters are untouched then. */
int kd_checkpoint_read(const void *data, size_t len, const char *name, size_t floats,
                       uint32_t vectors, float **out_vector, float **out_state,
                       kd_diag *diag) KD_MUST_CHECK;
/* Reads a checkpoint back; its bytes must have the digest that was stored with it. Caller frees
 * both: vector [vector_floats], state [optimizer_vectors][vector_floats]. */
int kd_stage_load_checkpoint(kd_daemon *d, kd_job_record *j, uint32_t stage, uint64_t version,
                             float **out_vector, float **out_state, kd_diag *diag) KD_MUST_CHECK;

/* artefacts.c */
/* What the network is called that a stage makes: "student", else as the stage; NULL for a stage
 * that makes none. */
const char *kd_stage_makes(enum kd_stage_kind kind);
/* "student.safetensors", of its best version "student.best.safetensors". */
#define KD_NETWORK_FILE 64
void kd_stage_network_file(enum kd_stage_kind kind, bool best, char out[KD_NETWORK_FILE]);
/* Digest of the artefact of a finished stage, of its best version or its last ("" if there is
 * none). */
void kd_stage_artefact_digest(kd_daemon *d, kd_job_record *j, enum kd_stage_kind kind, bool best,
                              char out[33]);
/* The vector by its table, as one safetensors file that is named in the database when this returns.
 * digest: of the vector. */
int kd_artefact_write_network(kd_daemon *d, kd_job_record *j, uint32_t stage, bool best,
                              const float *vector, const char *digest, kd_diag *diag) KD_MUST_CHECK;
/* Writes bytes as an artefact of the job, durably. */
int kd_artefact_write(kd_daemon *d, kd_job_record *j, uint32_t stage, const char *name,
                      const void *bytes, size_t len, kd_diag *diag) KD_MUST_CHECK;
/* Adds a piece of a file that a worker made for the job's running stage evaluate; reply->complete
 * once the whole is there and durable. Pieces may come again, also after that. */
/* What is left of files that workers did not finish sending. */
void kd_artefact_drop_pieces(kd_daemon *d, const kd_job_record *j);
int kd_artefact_add_piece(kd_daemon *d, const Distill__V1__ArtefactPiece *m, const uint8_t *piece,
                          size_t len, Distill__V1__UploadReply *reply, kd_diag *diag) KD_MUST_CHECK;

/* choices.c: what a job leaves to a measurement. reply's text lives as long as the program. */
int kd_choice_make(kd_daemon *d, const Distill__V1__Choice *m, Distill__V1__ChoiceReply *reply,
                   kd_diag *diag) KD_MUST_CHECK;

/* result.c: result.json, the last artefact of a job. Where the disk is full, the tick tries again.
 */
void kd_result_tick(kd_daemon *d);
/* What a worker has measured of the job's networks, for that file. One of another name is left out,
 * and an event says so. */
void kd_result_costs(kd_daemon *d, kd_job_record *j, const char *worker,
                     const Distill__V1__Measured *m);
void kd_result_export(kd_daemon *d, kd_job_record *j, uint32_t stage);

/* watch.c */
void kd_watch_add(kd_daemon *d, kd_watcher *w);
void kd_watch_drop(kd_daemon *d, const void *to);
void kd_watch_tick(kd_daemon *d, kd_time_ms now);
/* The event of a row, whose texts it borrows. */
void kd_watch_fill(Distill__V1__Event *e, const kd_event_row *row);
/* Sends what was stored of a job in a transaction that is over now. */
void kd_watch_fed(kd_daemon *d, const kd_job_record *j);
/* Stores an event, logs it and sends it to who watches. worker "" = none, data NULL = none. */
void kd_watch_event(kd_daemon *d, kd_job_record *j, const char *kind, const char *worker,
                    const char *data, const char *fmt, ...) KD_PRINTF(6, 7);
/* The same of what was said at a time by a worker, within a transaction. */
void kd_watch_line(kd_daemon *d, kd_job_record *j, const char *kind, const char *worker,
                   const char *data, int64_t time_ms, const char *text);

/* worker_log.c */
void kd_worker_log_add(kd_daemon *d, kd_worker_record *w, const Distill__V1__WorkerLog *l);
/* Stores what has come; events of later do so before themselves. */
void kd_worker_log_flush(kd_daemon *d);
void kd_worker_log_tick(kd_daemon *d, kd_time_ms now);
/* Fills a Progress of a running job; false if it does not run. p->stage and p->phase borrow. */
bool kd_watch_progress(kd_daemon *d, kd_job_record *j, Distill__V1__Progress *p);

/* blobs.c: files that clients uploaded or that jobs start from, by digest. */
int kd_blob_add_piece(kd_daemon *d, const Distill__V1__BlobChunk *m, const uint8_t *piece,
                      size_t len, Distill__V1__UploadReply *reply, kd_diag *diag) KD_MUST_CHECK;
/* Puts the digest of every file that the job starts from into it; each has to be here. A file of
 * another job (job:ID/NAME) becomes a blob, so that it outlives that job; `dry` leaves that out and
 * does not ask for uploads. */
int kd_blobs_bind(kd_daemon *d, const kd_rpc_call *call, Distill__V1__NamedBlob *const *uploaded,
                  size_t n, kd_job *job, bool dry, kd_diag *diag) KD_MUST_CHECK;
/* Whether the job starts from any file. */
bool kd_blobs_needed(const kd_job *job);
/* Unlinks those of the job's blobs that no stored job names. */
void kd_blobs_drop_unused(kd_daemon *d, const kd_job *job);
/* At start: second names of artefacts that no job came to name. */
void kd_blobs_drop_strays(kd_daemon *d);
/* Calls fn for each upload, whole or in pieces, that no job names. */
typedef void (*kd_blob_fn)(void *arg, const char *path, uint64_t bytes, int64_t changed_ms);
void kd_blobs_each_waiting(kd_daemon *d, kd_blob_fn fn, void *arg);

/* banks.c: logit banks as jobs and people see them. */
/* Whether a job that is not over uses it. */
bool kd_bank_is_needed(kd_daemon *d, const char *id);
/* From then on it is no bank any more; its files are removed on libuv's pool. -KD_ESTATE while it
 * is read or written. */
int kd_bank_drop(kd_daemon *d, const char *id, kd_diag *diag) KD_MUST_CHECK;
/* Answers of the calls that are named so. */
struct kd_loop_call;
void kd_banks_list(kd_daemon *d, struct kd_loop_call *c);
void kd_banks_verify(kd_daemon *d, struct kd_loop_call *c);
void kd_banks_remove(kd_daemon *d, struct kd_loop_call *c);

/* submit.c: the call Submit, on any thread; takes r. It waits for kd_submit_run on the loop, which
 * stores what has come together in one transaction and answers. */
void kd_submit(kd_daemon *d, kd_rpc_call *call, Distill__V1__SubmitRequest *r);
void kd_submit_run(kd_daemon *d);

/* wishes.c: what users want of jobs and workers. Stored when these return; `who` asks. Of a sweep
 * all its jobs that are not over. -KD_ESTATE when the job is over. */
int kd_wish_pause(kd_daemon *d, kd_job_record *j, bool pause, const char *who,
                  kd_diag *diag) KD_MUST_CHECK;
/* min, max: 0 = as it is. */
int kd_wish_scale(kd_daemon *d, kd_job_record *j, uint32_t min, uint32_t max, const char *who,
                  kd_diag *diag) KD_MUST_CHECK;
/* By name; in memory only. NULL with diag if it is not connected. */
kd_worker_record *kd_wish_drain(kd_daemon *d, const char *name, bool undo, const char *who,
                                kd_diag *diag);
/* Whether a user has paused the job, or all jobs of the sweep that are not over. */
bool kd_wish_paused(kd_daemon *d, const kd_job_record *j);

/* The job that a person means by an id or the beginning of one (at least 4 digits), else by a name
 * that one job alone has, if the call may do to it what its method does (call NULL: it may); NULL
 * with diag. The second: by the id only, for what is kept and must mean the same job later. */
kd_job_record *kd_job_find(kd_daemon *d, const kd_rpc_call *call, const char *text, kd_diag *diag);
kd_job_record *kd_job_find_id(kd_daemon *d, const kd_rpc_call *call, const char *text,
                              kd_diag *diag);

/* svc_*.c: rows of the method table */
extern const kd_rpc_method kd_jobs_methods[], kd_access_methods[], kd_storage_methods[],
    kd_cluster_methods[], kd_exchange_methods[];
extern const size_t kd_n_jobs_methods, kd_n_access_methods, kd_n_storage_methods,
    kd_n_cluster_methods, kd_n_exchange_methods;
/* Ends every control stream (at stop). */
void kd_cluster_close(kd_daemon *d, const char *why);
/* Sends a message to a worker; a worker that does not take its messages is dropped. */
void kd_cluster_send(kd_daemon *d, kd_worker_record *w, const Distill__V1__CoordinatorMessage *m);
void kd_cluster_tick(kd_daemon *d, kd_time_ms now);
void kd_cluster_drop(kd_daemon *d, kd_worker_record *w, int code, const char *why);

/* Parses an id as the core knows it: 12 hex digits. */
bool kd_id_parse(const char *text, kd_job_id *out);
/* Answers a unary call with the BlobChunk of a file from offset on. Not answered on failure. */
int kd_send_file_piece(kd_rpc_call *call, const char *path, const char *digest, uint64_t offset,
                       kd_diag *diag) KD_MUST_CHECK;
/* Packs a message and answers a unary call with it. */
void kd_answer(kd_rpc_call *call, const void *message);

#endif
