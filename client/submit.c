/* submit: a job file to the coordinator, with the local files it names. */
#include "args.h"
#include "connect.h"
#include "estimate.h"
#include "job/job.h"
#include "job/sweep.h"
#include "output.h"
#include "submission.h"
#include "upload.h"
#include "verbs.h"

#include "compress/possible.h"
#include "engine/plan.h"
#include "kd/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_SETS 64
#define MAX_FILES 16      /* that one submit names */
#define MAX_OUTSIDE 65536 /* bytes, with which a program can still be started */

static const kd_opt g_opts[] = {
    {"set", 0, "KEY=VALUE", "override a key of the job file, e.g. distill.epochs=3 (repeatable)"},
    {"watch", 'w', NULL, "then watch the job until it ends"},
    {"wait", 0, NULL, "then wait without a word; the exit code tells how it ended"},
    {"timeout", 0, "DURATION", "with --wait: give up after 90s, 10m ...; exit code 124"},
    {"key", 0, "KEY", "makes a repeated submit harmless: one key, one job (random)"},
    {"dry-run", 'n', NULL,
     "check the job and print it with every default; store nothing. An idle worker tries it, as "
     "`estimate` does: exit code 78 if it cannot do it"},
    {"quiet", 'q', NULL, "print the job's id (with -n the job) and no hints"},
};

struct kd_submit {
    kd_cli *cli;
    const char *file;
    char *text;
    size_t len;
    const char *sets[MAX_SETS];
    int n_sets;
    char key[KD_SUBMISSION_KEY + 1];
    bool dry_run, trial, quiet;
    kd_job job, child;
    kd_local_file files[MAX_FILES];
    int n_files;
    kd_buf outside; /* addresses of teachers, as text */
};

static int read_job(kd_submit *s)
{
    kd_diag diag = {0};
    int rc = strcmp(s->file, "-") == 0
                 ? kd_file_read_fd(STDIN_FILENO, "standard input", KD_MAX_JOB_TEXT, &s->text,
                                   &s->len, &diag)
                 : kd_file_read(s->file, KD_MAX_JOB_TEXT, &s->text, &s->len, &diag);
    if (rc != 0) {
        kd_error(s->cli, "%s", diag.msg);
        if (rc == -KD_ENOENT)
            kd_hint(s->cli, "`distill help job` shows what a job file may hold");
        return KD_EXIT_CONFIG;
    }
    if (memchr(s->text, '\0', s->len)) {
        kd_error(s->cli, "%s is no text file: it holds a NUL byte", s->file);
        return KD_EXIT_CONFIG;
    }
    if (kd_job_load(s->text, s->len, s->file, s->sets, s->n_sets, &s->job, &diag) != 0) {
        kd_error(s->cli, "%s", diag.msg);
        kd_hint(s->cli, "`distill help job` lists the keys");
        return KD_EXIT_CONFIG;
    }
    return KD_EXIT_OK;
}

/* What its structure alone tells of a job. last: the job that was asked for before, NULL = none; a
 * sweep seldom varies what this depends on. */
static int check_steps(const kd_submit *s, const kd_job *job, const kd_job *last)
{
    kd_diag diag = {0};
    if (last && last->n_compress == job->n_compress && last->data.size == job->data.size &&
        memcmp(&last->student, &job->student, sizeof job->student) == 0 &&
        memcmp(last->compress, job->compress, sizeof job->compress) == 0)
        return KD_EXIT_OK;
    kd_engine_thread();
    if (kd_compress_possible(job, &diag) == 0)
        return KD_EXIT_OK;
    kd_error(s->cli, "%s: %s", s->file, diag.msg);
    return KD_EXIT_CONFIG;
}

static int add_files(kd_submit *s, const kd_job *job)
{
    const char *names[KD_JOB_MAX_FILES];
    int n = kd_job_local_files(job, names);
    for (int i = 0; i < n && i < KD_JOB_MAX_FILES; i++) {
        bool again = false;
        for (int k = 0; k < s->n_files; k++)
            again = again || strcmp(s->files[k].name, names[i]) == 0;
        if (again)
            continue;
        if (s->n_files == MAX_FILES) {
            kd_error(s->cli, "%s names more than %d local files", s->file, MAX_FILES);
            return KD_EXIT_CONFIG;
        }
        kd_local_file *f = &s->files[s->n_files++];
        snprintf(f->name, sizeof f->name, "%s", names[i]);
        f->path = kd_local_path(s->file, names[i]);
        if (!f->path) {
            kd_error(s->cli, "no memory for a path");
            return KD_EXIT_FAILURE;
        }
        int rc = kd_local_file_measure(s->cli, f);
        if (rc != KD_EXIT_OK)
            return rc;
    }
    return KD_EXIT_OK;
}

static bool has_address(const char *list, const char *address)
{
    const size_t n = strlen(address);
    for (const char *at = list ? list : ""; *at; at += strcspn(at, ","), at += *at == ',')
        if (strncmp(at, address, n) == 0 && strcspn(at, ",") == n)
            return true;
    return false;
}

static void add_outside(kd_submit *s, const kd_job *job)
{
    for (int i = 0; i < job->n_teachers; i++) {
        const char *address = job->teachers[i].kserve;
        if (kd_teacher_is_outside(&job->teachers[i]) && !has_address(s->outside.data, address))
            (void)kd_buf_printf(&s->outside, "%s%s", s->outside.len ? "," : "", address);
    }
}

/* What a job needs beside its text. last: as of check_steps. */
static int add_needs(kd_submit *s, const kd_job *job, const kd_job *last)
{
    const int rc = check_steps(s, job, last);
    if (rc != KD_EXIT_OK)
        return rc;
    add_outside(s, job);
    return add_files(s, job);
}

/* A sweep may vary them, too: each of its jobs is asked for its own. */
static int find_needs(kd_submit *s)
{
    kd_sweep sweep = {0};
    kd_diag diag = {0};
    const char *sets[2 * MAX_SETS];
    int rc = add_needs(s, &s->job, NULL);
    if (rc == KD_EXIT_OK &&
        kd_sweep_load(s->text, s->len, s->file, s->sets, s->n_sets, &sweep, &diag) != 0) {
        kd_error(s->cli, "%s", diag.msg);
        kd_hint(s->cli, "`distill help job` lists the keys");
        return KD_EXIT_CONFIG;
    }
    memcpy(sets, s->sets, (size_t)s->n_sets * sizeof *sets);
    for (int i = 0; rc == KD_EXIT_OK && i < sweep.n; i++) {
        const kd_sweep_child *child = &sweep.child[i];
        int n = s->n_sets;
        for (int k = 0; k < child->n_sets && n < (int)KD_COUNT(sets); k++)
            sets[n++] = child->sets[k];
        if (kd_job_load(s->text, s->len, s->file, sets, n, &s->child, &diag) != 0) {
            kd_error(s->cli, "%s", diag.msg);
            rc = KD_EXIT_CONFIG;
        } else {
            rc = add_needs(s, &s->child, &s->job);
        }
    }
    kd_sweep_free(&sweep);
    return rc;
}

static int call_submit(kd_conn *c, kd_submit *s, Distill__V1__SubmitReply **out)
{
    Distill__V1__SubmitRequest request = DISTILL__V1__SUBMIT_REQUEST__INIT;
    Distill__V1__NamedBlob blobs[MAX_FILES], *list[MAX_FILES];
    const char *slash = strrchr(s->file, '/');
    request.key = s->key;
    request.text = s->text;
    request.n_set = (size_t)s->n_sets;
    request.set = (char **)s->sets;
    request.file_name = (char *)(slash ? slash + 1 : s->file);
    request.dry_run = s->dry_run;
    request.trial = s->trial;
    request.n_blobs = (size_t)s->n_files;
    request.blobs = list;
    for (int i = 0; i < s->n_files; i++) {
        distill__v1__named_blob__init(&blobs[i]);
        blobs[i].path = s->files[i].name;
        blobs[i].digest = s->files[i].digest;
        list[i] = &blobs[i];
    }
    return kd_submission_call(c, &request, out);
}

int kd_submit_try(kd_conn *c, kd_submit *s, Distill__V1__SubmitReply **out)
{
    s->dry_run = s->trial = true;
    kd_live_set(s->cli, "an idle worker tries the job ...");
    const int rc = call_submit(c, s, out);
    kd_live_clear(s->cli);
    return rc;
}

/* What the worker found is a result; that nobody could try the job is none. */
static int trial_exit(int rc)
{
    return rc == KD_EXIT_TEMPORARY ? KD_EXIT_OK : rc;
}

static int print_dry_json(const kd_submit *s, const Distill__V1__SubmitReply *r)
{
    json_t *o = json_object();
    (void)json_object_set_new(o, "notes", kd_submission_notes_json(r));
    (void)json_object_set_new(o, "resolved", kd_json_parse(r->resolved));
    (void)json_object_set_new(o, "estimate", kd_estimate_json(r->estimate));
    const int rc = kd_json_print(s->cli, o, false);
    return rc != KD_EXIT_OK ? rc : trial_exit(kd_estimate_exit(r->estimate));
}

static int print_dry_run(const kd_submit *s, const Distill__V1__SubmitReply *r)
{
    if (s->cli->json)
        return print_dry_json(s, r);
    kd_submission_notes(s->cli, r);
    const int rc = kd_json_print(s->cli, kd_json_parse(r->resolved), false);
    int tried = kd_estimate_exit(r->estimate);
    if (!s->quiet)
        kd_say(s->cli, "%s is a good job file; nothing was stored", s->file);
    if (!s->quiet || tried == KD_EXIT_CONFIG)
        tried = kd_estimate_tell(s->cli, r->estimate, true);
    return rc != KD_EXIT_OK ? rc : trial_exit(tried);
}

static int submit(kd_submit *s, const kd_submission_after *after)
{
    kd_conn conn;
    int rc = kd_conn_open(s->cli, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__SubmitReply *reply = NULL;
    kd_submission_style style = {
        .quiet = s->quiet, .stays = after->watch || after->wait, .compact = after->watch};
    for (int i = 0; rc == KD_EXIT_OK && i < s->n_files && !s->dry_run; i++)
        rc = kd_upload(&conn, &s->files[i]);
    if (rc == KD_EXIT_OK && s->dry_run)
        rc = kd_submit_try(&conn, s, &reply);
    else if (rc == KD_EXIT_OK)
        rc = call_submit(&conn, s, &reply);
    if (rc == KD_EXIT_OK && s->dry_run)
        rc = print_dry_run(s, reply);
    else if (rc == KD_EXIT_OK)
        rc = kd_submission_print(&conn, reply, s->key, &style);
    if (rc == KD_EXIT_OK && !s->dry_run)
        rc = kd_submission_follow(&conn, reply->job, after, s->quiet);
    if (reply)
        kd_wire_free(&reply->base);
    kd_conn_close(&conn);
    return rc;
}

int kd_submit_read(kd_cli *cli, const char *verb, const kd_args *args, kd_submit **out)
{
    /* A kd_job holds many KiB. */
    kd_submit *s = *out = kd_xalloc(sizeof *s);
    s->cli = cli;
    kd_buf_init(&s->outside, MAX_OUTSIDE);
    s->file = args->operands[0];
    s->dry_run = kd_args_has(args, "dry-run");
    s->quiet = kd_args_has(args, "quiet");
    s->n_sets = kd_args_values(args, "set", s->sets, MAX_SETS);
    if (s->n_sets > MAX_SETS)
        return kd_usage(cli, verb, NULL, "at most %d --set are accepted", MAX_SETS);
    for (int i = 0; i < s->n_sets; i++)
        if (!strchr(s->sets[i], '=') || s->sets[i][0] == '=')
            return kd_usage(cli, verb, "for example --set distill.epochs=3",
                            "--set %s: KEY=VALUE is expected", s->sets[i]);
    int rc = kd_submission_key(cli, verb, kd_args_value(args, "key"), s->key);
    if (rc == KD_EXIT_OK)
        rc = read_job(s);
    return rc == KD_EXIT_OK ? find_needs(s) : rc;
}

void kd_submit_free(kd_submit *s)
{
    for (int i = 0; i < s->n_files; i++)
        kd_local_file_clear(&s->files[i]);
    kd_buf_clear(&s->outside);
    free(s->text);
    free(s);
}

const kd_job *kd_submit_job(const kd_submit *s)
{
    return &s->job;
}

const char *kd_submit_outside(const kd_submit *s)
{
    return s->outside.failed ? NULL : s->outside.data ? s->outside.data : "";
}

int kd_submit_send(kd_conn *c, kd_submit *s, char id[KD_CONN_ID])
{
    Distill__V1__SubmitReply *reply = NULL;
    int rc = KD_EXIT_OK;
    for (int i = 0; rc == KD_EXIT_OK && i < s->n_files; i++)
        rc = kd_upload(c, &s->files[i]);
    if (rc == KD_EXIT_OK)
        rc = call_submit(c, s, &reply);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_submission_notes(s->cli, reply);
    snprintf(id, KD_CONN_ID, "%s", reply->job);
    kd_wire_free(&reply->base);
    return KD_EXIT_OK;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_submission_after after;
    kd_submit *s = NULL;
    int rc = kd_submission_flags(cli, "submit", args, &after);
    if (rc != KD_EXIT_OK)
        return rc;
    kd_cli_catch_signals();
    rc = kd_submit_read(cli, "submit", args, &s);
    if (rc == KD_EXIT_OK)
        rc = submit(s, &after);
    kd_submit_free(s);
    return rc;
}

const kd_verb kd_verb_submit = {
    .name = "submit",
    .operands = "FILE",
    .summary = "submit a job file",
    .help = "FILE is YAML (`-` reads standard input); `distill help job` lists its keys. A weights "
            "file that\n"
            "it names, relative to its own folder, is uploaded if the coordinator does not have "
            "it. The job\n"
            "is stored durably before the answer, and a repeat with the same --key finds it again.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
