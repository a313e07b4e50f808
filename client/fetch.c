/* fetch: a job's artefacts into a folder, each whole and checked or not at all. */
#include "args.h"
#include "artefact.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "out_file.h"
#include "output.h"
#include "progress.h"
#include "sweep.h"
#include "verbs.h"
#include "views.h"

#include "job/job.h"
#include "kd/file.h"
#include "kd/hash.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESULT "result.json"

static const kd_opt g_opts[] = {
    {"output-dir", 'O', "DIR", "where to put them; made if it is not there (.)"},
};

/* The coordinator names files; they must stay plain names in our folder. */
static bool good_name(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > 200 || name[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return true;
}

static bool same_file(const char *path, uint64_t size, const char *digest)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return false;
    bool same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == size;
    kd_hasher *h = same ? kd_hasher_new() : NULL;
    static char buf[65536];
    ssize_t n = 0;
    while (h && kd_cli_signal() == 0 && (n = read(fd, buf, sizeof buf)) > 0)
        kd_hasher_add(h, buf, (size_t)n);
    same = h && n == 0 && kd_cli_signal() == 0;
    if (same) {
        char hex[KD_DIGEST_HEX];
        kd_digest d = kd_hasher_digest(h);
        kd_digest_hex(&d, hex);
        same = strcmp(hex, digest) == 0;
    }
    kd_hasher_free(h);
    close(fd);
    return same;
}

typedef struct fetcher {
    kd_conn *c;
    const char *job, *dir;
    json_t *list; /* of what was fetched, for -o json */
} fetcher;

typedef struct target {
    const kd_cli *cli;
    kd_file_draft draft;
} target;

static int write_piece(void *arg, const uint8_t *bytes, size_t len)
{
    target *t = arg;
    kd_diag diag = {0};
    const int rc = kd_file_draft_add(&t->draft, bytes, len, &diag);
    if (rc == 0)
        return KD_EXIT_OK;
    if (kd_cli_signal() != 0)
        return kd_cli_signal_exit();
    kd_error(t->cli, "%s", diag.msg);
    if (rc == -KD_ELIMIT)
        kd_hint(t->cli, "choose another folder with -O DIR");
    return KD_EXIT_FAILURE;
}

/* Into a file of that path, durably. */
static int receive(const fetcher *f, const Distill__V1__Artefact *a, const char *path)
{
    kd_diag diag = {0};
    kd_bar bar;
    target to = {.cli = f->c->cli, .draft = KD_FILE_DRAFT_INIT};
    if (kd_file_draft_open(path, &to.draft, &diag) != 0) {
        kd_error(to.cli, "%s", diag.msg);
        return KD_EXIT_FAILURE;
    }
    to.draft.stop = kd_cli_signal;
    kd_bar_start(&bar, to.cli, KD_BAR_BYTES, a->name, a->size, 0);
    int rc = kd_artefact_receive(f->c, &(kd_artefact_source){.job = f->job}, a,
                                 &(kd_artefact_sink){.take = write_piece, .arg = &to, .bar = &bar});
    kd_bar_end(&bar);
    if (rc == KD_EXIT_OK && (kd_file_draft_sync(&to.draft, kd_out_mode(), &diag) != 0 ||
                             kd_file_draft_place(&to.draft, &diag) != 0)) {
        kd_error(to.cli, "%s", diag.msg);
        rc = KD_EXIT_FAILURE;
    }
    kd_file_draft_clear(&to.draft);
    return rc;
}

static void report_file(const fetcher *f, const char *path, const char *name, uint64_t size,
                        const char *digest, const char *how)
{
    char a[KD_FMT];
    if (f->list)
        (void)json_array_append_new(f->list,
                                    json_pack("{s:o, s:o, s:I, s:o}", "name", kd_json_text(name),
                                              "path", kd_json_text(path), "size", (json_int_t)size,
                                              "digest", kd_json_text(digest)));
    else
        kd_out_clean(f->c->cli, "%s  %s%s", path, kd_fmt_bytes((double)size, a), how);
}

static int fetch_one(const fetcher *f, const Distill__V1__Artefact *a)
{
    const kd_cli *cli = f->c->cli;
    if (!good_name(a->name)) {
        kd_error(cli, "the coordinator names an artefact \"%s\", which is no plain file name",
                 a->name);
        return KD_EXIT_FAILURE;
    }
    if (a->size > KD_MAX_BLOB_BYTES) {
        kd_error(cli, "%s is larger than 4 GiB", a->name);
        return KD_EXIT_FAILURE;
    }
    char *path = NULL;
    if (asprintf(&path, "%s/%s", f->dir, a->name) < 0) {
        kd_error(cli, "no memory for a path");
        return KD_EXIT_FAILURE;
    }
    const bool here = same_file(path, a->size, a->digest);
    const int rc = here ? KD_EXIT_OK : receive(f, a, path);
    if (rc == KD_EXIT_OK)
        report_file(f, path, a->name, a->size, a->digest, here ? "  (was here already)" : "");
    free(path);
    return rc;
}

/* result.json may be known to the coordinator as text only. */
static int write_result(const fetcher *f, const char *text)
{
    char *path = NULL;
    kd_diag diag = {0};
    if (asprintf(&path, "%s/" RESULT, f->dir) < 0) {
        kd_error(f->c->cli, "no memory for a path");
        return KD_EXIT_FAILURE;
    }
    size_t len = strlen(text);
    int rc = KD_EXIT_OK;
    if (kd_out_files_write(&(kd_out_file){path, text, len}, 1, &diag) != 0) {
        kd_error(f->c->cli, "%s", diag.msg);
        rc = KD_EXIT_FAILURE;
    } else {
        char hex[KD_DIGEST_HEX];
        kd_digest d = kd_digest_of(text, len);
        kd_digest_hex(&d, hex);
        report_file(f, path, RESULT, len, hex, "");
    }
    free(path);
    return rc;
}

static int no_such(const fetcher *f, const Distill__V1__JobDetail *d, const char *name)
{
    const char *names[64];
    int n = 0;
    for (size_t i = 0; i < d->n_artefacts && n < (int)KD_COUNT(names); i++)
        names[n++] = d->artefacts[i]->name;
    kd_error(f->c->cli, "job %s has no artefact \"%s\"", d->summary->job, name);
    const char *near = kd_args_nearest(name, names, n);
    if (near)
        kd_hint(f->c->cli, "did you mean %s?", near);
    else
        kd_hint(f->c->cli, "`distill show %s` lists its artefacts", f->job);
    return KD_EXIT_NO_JOB;
}

static int fetch_all(fetcher *f, const kd_args *args, const Distill__V1__JobDetail *d)
{
    bool text_result = d->result[0] && !kd_artefact_find(d, RESULT);
    if (d->n_artefacts == 0 && !text_result) {
        kd_error(f->c->cli, "job %s has no artefacts: it is %s", d->summary->job,
                 kd_state_word(d->summary->state));
        if (kd_state_ended(d->summary->state))
            kd_hint(f->c->cli, "`distill show %s` tells more", f->job);
        else
            kd_hint(f->c->cli, "`distill wait %s` waits until it ends", f->job);
        return KD_EXIT_CONFLICT;
    }
    /* Names are checked before anything is written. */
    for (int i = 1; i < args->n_operands; i++)
        if (!kd_artefact_find(d, args->operands[i]) &&
            !(text_result && strcmp(args->operands[i], RESULT) == 0))
            return no_such(f, d, args->operands[i]);
    kd_diag diag = {0};
    struct stat st;
    if (stat(f->dir, &st) != 0 && kd_file_mkdirs(f->dir, &diag) != 0) {
        kd_error(f->c->cli, "%s", diag.msg);
        return KD_EXIT_FAILURE;
    }
    int rc = KD_EXIT_OK;
    if (args->n_operands == 1) {
        for (size_t i = 0; rc == KD_EXIT_OK && i < d->n_artefacts; i++)
            if (!kd_stage_name_tunes(d->artefacts[i]->name))
                rc = fetch_one(f, d->artefacts[i]);
        if (rc == KD_EXIT_OK && text_result)
            rc = write_result(f, d->result);
    }
    for (int i = 1; rc == KD_EXIT_OK && i < args->n_operands; i++) {
        const Distill__V1__Artefact *a = kd_artefact_find(d, args->operands[i]);
        rc = a ? fetch_one(f, a) : write_result(f, d->result);
    }
    return rc;
}

/* "ID_distill.loss.temperature=2_seed=1": what a folder may be called anywhere. */
static void child_folder(const Distill__V1__JobSummary *s, char *out, size_t size)
{
    int n = snprintf(out, size, "%.16s_%s", s->job, s->label);
    for (int i = 0; i < n && out[i]; i++) {
        char c = out[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     strchr("._=-+", c);
        if (!plain)
            out[i] = '_';
    }
    if (out[0] == '.')
        out[0] = '_';
}

/* Each child into its own folder; one without files is told and passed over. */
static int fetch_sweep(fetcher *f, const kd_args *args, const Distill__V1__JobDetail *d)
{
    const char *dir = f->dir, *sweep = f->job;
    char folder[160];
    int rc = KD_EXIT_OK, worst = KD_EXIT_OK;
    if (args->n_operands == 1 && (d->n_artefacts > 0 || d->result[0]))
        rc = fetch_all(f, args, d);
    for (size_t i = 0; rc == KD_EXIT_OK && i < d->n_jobs; i++) {
        Distill__V1__JobDetail *child = NULL;
        char *path = NULL;
        child_folder(d->jobs[i], folder, sizeof folder);
        if (asprintf(&path, "%s/%s", dir, folder) < 0) {
            kd_error(f->c->cli, "no memory for a path");
            return KD_EXIT_FAILURE;
        }
        rc = kd_conn_job(f->c, d->jobs[i]->job, &child);
        if (rc == KD_EXIT_OK) {
            f->dir = path;
            f->job = child->summary->job;
            int one = fetch_all(f, args, child);
            /* A job that failed has no files; the others are wanted all the same. */
            if (one == KD_EXIT_CONFLICT || one == KD_EXIT_NO_JOB)
                worst = one;
            else
                rc = one;
            kd_wire_free(&child->base);
        }
        free(path);
    }
    f->dir = dir;
    f->job = sweep;
    return rc != KD_EXIT_OK ? rc : worst;
}

static int fetch(kd_conn *c, const kd_args *args, const char *job, const char *dir)
{
    kd_cli *cli = c->cli;
    fetcher f = {.c = c, .job = job, .dir = dir, .list = cli->json ? json_array() : NULL};
    Distill__V1__JobDetail *detail = NULL;
    char id[KD_CONN_ID];
    int rc = kd_conn_job(c, job, &detail);
    if (rc == KD_EXIT_OK) {
        f.job = kd_conn_id(detail->summary, id);
        rc = kd_is_sweep(detail->summary) ? fetch_sweep(&f, args, detail)
                                          : fetch_all(&f, args, detail);
        kd_wire_free(&detail->base);
    }
    if (f.list) {
        int printed = kd_json_print(cli, json_pack("{s:O}", "files", f.list), false);
        rc = rc != KD_EXIT_OK ? rc : printed;
        json_decref(f.list);
    }
    return rc;
}

int kd_fetch_all(kd_conn *c, const char *job, const char *dir)
{
    return fetch(c, &(kd_args){.operands = &job, .n_operands = 1}, job, dir);
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *dir = kd_args_value(args, "output-dir");
    kd_conn conn;
    int rc = kd_conn_start(cli, NULL, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = fetch(&conn, args, args->operands[0], dir && *dir ? dir : ".");
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_fetch = {
    .name = "fetch",
    .operands = "JOB [NAME...]",
    .summary = "fetch a finished job's files",
    .help =
        "Without NAME all of them: networks as safetensors, result.json; but what a step of "
        "`compress`\n"
        "trains, tune.safetensors and so on, comes only when it is named. Each is written under a\n"
        "temporary name, checked against its digest and then renamed, so a file of its own name "
        "is\n"
        "whole. What is here already, with the same digest, is not fetched again. Of a sweep each "
        "job "
        "gets\n"
        "a folder of its own, named by its id and values.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = -1,
    .run = run};
