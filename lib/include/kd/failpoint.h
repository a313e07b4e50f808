/* Failpoints: named places where a test may kill, stop, delay or fail this process.
 *
 * Only builds with -DKD_FAILPOINTS=ON have them; in others every macro compiles to nothing and the
 * variable is not read. Armed by the environment, before the program starts:
 *
 *     DISTILL_FAILPOINTS="name=action[@N][;name=action[@N]]..."
 *
 *     kill         SIGKILL to this process
 *     stop         SIGSTOP to this process; SIGCONT lets it go on
 *     error[:E]    the step fails with ENOSPC, EIO (also without :E), EACCES or ENOMEM; only for
 *                  names whose place can fail
 *     delay:MS     waits that long (0 only says that it was here)
 *
 * @N: at the N-th time only, counted from 1. Without it kill and stop happen at the first time,
 * error and delay every time. The name * means all names that can do the action and are not named
 * themselves. Each action says so on standard error. DISTILL_FAILPOINTS=list prints all names and
 * ends the program, and anything that is not understood ends it with 2. Threads: any. */
#ifndef KD_FAILPOINT_H
#define KD_FAILPOINT_H

#include <stdbool.h>

/* The one list: X(argument, name, whether the place can fail, where it is). */
#define KD_FAILPOINT_MAP(X, arg)                                                                   \
    X(arg, "file.write", true, "durable file: before its bytes are written")                       \
    X(arg, "file.fsync", true, "durable file: before its fsync, whose failure ends the process")   \
    X(arg, "file.rename", true, "durable file: before it gets its name")                           \
    X(arg, "file.renamed", false, "durable file: named, the folder not yet synced")                \
    X(arg, "file.synced", false, "durable file: named and the folder synced")                      \
    X(arg, "sql.run", true, "database: before a statement that commits by itself")                 \
    X(arg, "sql.ran", false, "database: after a statement that committed by itself")               \
    X(arg, "state.commit", true, "state: before a transaction commits")                            \
    X(arg, "state.committed", false, "state: committed, old files not yet removed")                \
    X(arg, "state.cleaned", false, "state: committed and old files removed")                       \
    X(arg, "start.locked", false, "coordinator: holds the state folder's lock")                    \
    X(arg, "start.opened", false, "coordinator: database open, epoch counted")                     \
    X(arg, "start.restored", false, "coordinator: jobs read, before the port opens")               \
    X(arg, "start.serving", false, "coordinator: the port is open")                                \
    X(arg, "submit.store", false, "coordinator: files of a new job made, before its row")          \
    X(arg, "submit.stored", false, "coordinator: a new job is stored, before the answer")          \
    X(arg, "bank.append", true, "logit bank: before a block is written")                           \
    X(arg, "bank.appended", false, "logit bank: a block is written, not synced")                   \
    X(arg, "bank.sync", true, "logit bank: before the sync of its file")                           \
    X(arg, "bank.synced", false, "logit bank: after the sync of its file")                         \
    X(arg, "bank.doomed", false, "logit bank: dropped, its folder not yet removed")                \
    X(arg, "keep.drop", false, "retention: before what a job kept is forgotten")                   \
    X(arg, "hook.tell", false, "hooks: before one is told")                                        \
    X(arg, "hook.told", false, "hooks: one was told, or failed, before that is stored")            \
    X(arg, "blob.piece", true, "upload: before a piece is appended")                               \
    X(arg, "blob.whole", true, "upload: all pieces are there, before the file is named")           \
    X(arg, "blob.named", false, "upload: the file is named, its pieces not yet removed")           \
    X(arg, "artefact.write", true, "artefact: before its file is written")                         \
    X(arg, "artefact.written", true, "artefact: its file is there, before its row")                \
    X(arg, "artefact.piece", true, "artefact from a worker: before a piece is written")            \
    X(arg, "artefact.whole", true, "artefact from a worker: all pieces are there")                 \
    X(arg, "result.write", true, "result.json: before it is written")                              \
    X(arg, "result.written", false, "result.json: written, before the stage ends")                 \
    X(arg, "client.submit", false, "client: before the call Submit")                               \
    X(arg, "client.submitted", false, "client: the answer is here, before it is printed")          \
    X(arg, "exchange.push", false, "coordinator: a pushed chunk has come")                         \
    X(arg, "exchange.sum", false, "coordinator: before a chunk's last sum")                        \
    X(arg, "exchange.publish", false, "coordinator: an updated chunk has come")                    \
    X(arg, "exchange.commit", false, "coordinator: before a step is committed")                    \
    X(arg, "journal.append", true, "journal: before a record is written")                          \
    X(arg, "journal.appended", false, "journal: a record is written, its sum has not left")        \
    X(arg, "journal.cut", false, "journal: before old files go")                                   \
    X(arg, "checkpoint.write", true, "checkpoint: before its file is written")                     \
    X(arg, "checkpoint.named", false, "checkpoint: its file is there, before its row")             \
    X(arg, "worker.ready", false, "worker: before it says that it is ready")                       \
    X(arg, "worker.push", false, "worker: before it pushes a chunk")                               \
    X(arg, "worker.apply", false, "worker: before it updates a chunk")                             \
    X(arg, "worker.publish", false, "worker: before it publishes a chunk")                         \
    X(arg, "worker.offer", false, "worker: before it offers what it holds")

#ifdef KD_FAILPOINTS
/* First thing in main: reads the variable. */
#define KD_FAILPOINTS_START() kd_failpoints_start()
/* A place that cannot fail. */
#define KD_FAILPOINT(name)                                                                         \
    do {                                                                                           \
        KD_FAILPOINT_KNOWN(name);                                                                  \
        (void)kd_failpoint_hit(name);                                                              \
    } while (0)
/* A place that can: true with errno set when it is to fail. Put before the real step:
 * if (KD_FAILPOINT_FAILS("file.rename") || rename(from, to) != 0) ... */
#define KD_FAILPOINT_FAILS(name)                                                                   \
    ({                                                                                             \
        KD_FAILPOINT_KNOWN(name);                                                                  \
        _Static_assert(0 KD_FAILPOINT_MAP(KD_FAILPOINT_CAN_, name),                                \
                       "the list says that this place cannot fail");                               \
        kd_failpoint_hit(name);                                                                    \
    })
#define KD_FAILPOINT_IS_(name, other, fails, where) || __builtin_strcmp(name, other) == 0
#define KD_FAILPOINT_CAN_(name, other, fails, where)                                               \
    || (__builtin_strcmp(name, other) == 0 && (fails))
#define KD_FAILPOINT_KNOWN(name)                                                                   \
    _Static_assert(0 KD_FAILPOINT_MAP(KD_FAILPOINT_IS_, name), "no such failpoint in the list")
void kd_failpoints_start(void);
bool kd_failpoint_hit(const char *name);
/* What kd_failpoints_start does with the variable's text. False with a message in why when it is
 * not understood; then nothing is armed. */
bool kd_failpoints_arm(const char *text, char why[256]);
#else
#define KD_FAILPOINTS_START() ((void)0)
#define KD_FAILPOINT(name) ((void)0)
#define KD_FAILPOINT_FAILS(name) false
#endif

#endif
