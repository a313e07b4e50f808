/* checkpoint: versions of a job's networks on the way, as files that can be used. */
#include "args.h"
#include "artefact.h"
#include "format.h"
#include "list.h"
#include "out_file.h"

#include "kd/hash.h"
#include "store/network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 8 /* a job that runs replaces its newest checkpoint */
#define MAX_CHECKPOINT ((size_t)6 << 30)

static const kd_opt g_opts[] = {
    {"stage", 0, "STAGE", "teacher, distill, scratch, ...; get: distill unless it says so"},
    {"step", 0, "N|best|last", "get: the step it was made after; else the best, else the newest"},
    {"output-file", 'O', "FILE", "get: where to write it (STAGE-STEP.safetensors)"},
};

static int ask_list(kd_conn *c, const char *job, const char *stage,
                    Distill__V1__ListCheckpointsReply **out)
{
    Distill__V1__ListCheckpointsRequest request = DISTILL__V1__LIST_CHECKPOINTS_REQUEST__INIT;
    request.job = (char *)job;
    request.stage = (char *)(stage ? stage : "");
    ProtobufCMessage *reply = NULL;
    int rc = kd_conn_ask(c, "Storage/ListCheckpoints", &request, job,
                         &distill__v1__list_checkpoints_reply__descriptor, &reply);
    *out = (Distill__V1__ListCheckpointsReply *)reply;
    return rc;
}

static json_t *to_json(const void *item)
{
    const Distill__V1__CheckpointInfo *m = item;
    return json_pack("{s:o, s:I, s:I, s:o, s:o, s:b, s:b}", "stage", kd_json_text(m->stage), "step",
                     (json_int_t)m->step, "size", (json_int_t)m->size, "digest",
                     kd_json_text(m->digest), "content", kd_json_text(m->content), "best",
                     (int)m->best, "last", (int)m->last);
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const Distill__V1__CheckpointInfo *m = item;
    char a[KD_FMT];
    (void)now;
    kd_table_add(t, KD_PLAIN, "%s", m->stage);
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_count(m->step, a));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_bytes((double)m->size, a));
    kd_table_add(t, KD_PLAIN, "%s", m->content);
    kd_table_add(t, KD_PLAIN, "%s", m->digest);
    kd_table_add(t, m->best ? KD_GREEN : KD_PLAIN, "%s",
                 m->best && m->last ? "best, last"
                 : m->best          ? "best"
                 : m->last          ? "last"
                                    : "");
}

static const kd_column g_columns[] = {
    {"STAGE", "stage", KD_ALWAYS},     {"STEP>", "step", KD_ALWAYS},  {"SIZE>", "size", KD_ALWAYS},
    {"CONTENT", "content", KD_ALWAYS}, {"DIGEST", "digest", KD_WIDE}, {"WHICH", "best", KD_ALWAYS},
    {NULL, "last", KD_ALWAYS},
};

static const kd_list g_list = {.key = "checkpoints",
                               .name = "digest",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

static int print_list(const kd_cli *cli, const Distill__V1__ListCheckpointsReply *r)
{
    int rc =
        kd_list_print(cli, &g_list, (const void *const *)r->checkpoints, r->n_checkpoints, NULL);
    if (r->n_checkpoints == 0 && !cli->json)
        kd_say(cli, "the job has no checkpoints there");
    return rc;
}

/* The one that --step means; NULL when there is none. */
static const Distill__V1__CheckpointInfo *choose(const Distill__V1__ListCheckpointsReply *r,
                                                 const char *step)
{
    const Distill__V1__CheckpointInfo *best = NULL, *newest = NULL;
    for (size_t i = 0; i < r->n_checkpoints; i++) {
        const Distill__V1__CheckpointInfo *m = r->checkpoints[i];
        char text[24];
        snprintf(text, sizeof text, "%llu", (unsigned long long)m->step);
        if (step && strcmp(step, text) == 0)
            return m;
        best = m->best ? m : best;
        newest = !newest || m->step > newest->step ? m : newest;
    }
    if (step && strcmp(step, "best") == 0)
        return best;
    if (step && strcmp(step, "last") == 0)
        return newest;
    return step ? NULL : best ? best : newest;
}

/* The vectors of the file: parameters, or the moving average where the stage makes that. */
static const float *parameters(const kd_st_file *f, const Distill__V1__ListCheckpointsReply *r,
                               kd_diag *diag)
{
    char name[32] = "vector";
    if (r->average && r->vectors)
        snprintf(name, sizeof name, "state.%u", r->vectors - 1);
    const kd_st_tensor *t = kd_st_find(f, name);
    if (t && strcmp(t->dtype, "F32") == 0 && r->floats <= KD_MAX_VECTOR_FLOATS &&
        t->bytes == r->floats * sizeof(float))
        return (const float *)(const void *)t->data;
    (void)kd_fail(diag, -KD_EDATA, "the checkpoint has no %s of %llu numbers", name,
                  (unsigned long long)r->floats);
    return NULL;
}

static int write_network(const char *job, const Distill__V1__ListCheckpointsReply *r,
                         const Distill__V1__CheckpointInfo *m, const char *data, size_t len,
                         const char *path, char digest[KD_DIGEST_HEX], kd_diag *diag)
{
    kd_st_file *f = NULL;
    char step[24], side[16];
    int rc = kd_st_open_memory(data, len, "the checkpoint", &f, diag);
    const float *lies = rc == 0 ? parameters(f, r, diag) : NULL;
    /* It may lie at any address; floats must not. */
    float *vector = lies ? malloc((size_t)r->floats * sizeof *vector + 1) : NULL;
    if (lies && !vector)
        (void)kd_fail(diag, -KD_ENOMEM, "no memory for the network");
    rc = vector ? 0 : diag->code;
    kd_buf out;
    kd_buf_init(&out, (size_t)1 << 33);
    if (rc == 0) {
        memcpy(vector, lies, (size_t)r->floats * sizeof *vector);
        kd_digest d = kd_digest_of(vector, (size_t)r->floats * sizeof *vector);
        kd_digest_hex(&d, digest);
        snprintf(step, sizeof step, "%llu", (unsigned long long)m->step);
        snprintf(side, sizeof side, "%u", r->resized_from);
        const kd_st_pair first[] = {{"format", "pt"},
                                    {"distilld.job", job},
                                    {"distilld.digest", digest},
                                    {"distilld.stage", m->stage},
                                    {"distilld.step", step},
                                    {"resized_from", side}};
        rc = kd_network_pack(r->table, r->metadata, vector, r->floats, first,
                             KD_COUNT(first) - (r->resized_from == 0), &out, diag);
    }
    if (rc == 0)
        rc = kd_out_files_write(&(kd_out_file){path, out.data, out.len}, 1, diag);
    kd_buf_clear(&out);
    free(vector);
    kd_st_close(f);
    return rc;
}

struct wanted {
    const char *job, *stage, *step, *file; /* step, file: NULL = not said */
};

/* Once. *out_gone: a newer one took its place meanwhile. Returns an exit code. */
static int get_once(kd_conn *c, const struct wanted *w, bool *out_gone)
{
    const kd_cli *cli = c->cli;
    Distill__V1__ListCheckpointsReply *r = NULL;
    int rc = ask_list(c, w->job, w->stage, &r);
    if (rc != KD_EXIT_OK)
        return rc;
    const Distill__V1__CheckpointInfo *m = choose(r, w->step);
    if (!m) {
        kd_error(cli, "job %s has no %scheckpoint of stage %s", w->job, w->step ? "such " : "",
                 w->stage);
        kd_hint(cli, "`distill checkpoint ls %s` lists those that are kept", w->job);
        kd_wire_free(&r->base);
        return KD_EXIT_NO_JOB;
    }
    char path[128], digest[KD_DIGEST_HEX] = "", *data = NULL;
    size_t len = 0;
    kd_diag diag = {0};
    snprintf(path, sizeof path, "%.32s-%llu.safetensors", m->stage, (unsigned long long)m->step);
    for (char *p = path; *p; p++)
        *p = *p == '/' ? '_' : *p;
    Distill__V1__Artefact a = DISTILL__V1__ARTEFACT__INIT;
    a.name = path;
    a.size = m->size;
    a.digest = m->digest;
    const kd_artefact_source from = {
        .job = w->job, .stage = m->stage, .step = m->step, .gone = out_gone};
    rc = kd_artefact_read(c, &from, &a, MAX_CHECKPOINT, &data, &len);
    const char *file = w->file ? w->file : path;
    if (rc == KD_EXIT_OK && write_network(w->job, r, m, data, len, file, digest, &diag) != 0) {
        kd_error(cli, "%s", diag.msg);
        rc = KD_EXIT_FAILURE;
    }
    free(data);
    if (rc == KD_EXIT_OK && cli->json)
        rc = kd_json_print(cli,
                           json_pack("{s:o, s:o, s:I, s:o}", "path", kd_json_text(file), "stage",
                                     kd_json_text(m->stage), "step", (json_int_t)m->step, "digest",
                                     kd_json_text(digest)),
                           false);
    else if (rc == KD_EXIT_OK)
        kd_out_clean(cli, "%s  %s after step %llu, digest %s", file, m->stage,
                     (unsigned long long)m->step, digest);
    kd_wire_free(&r->base);
    return rc;
}

/* A number, best or last. */
static bool is_step(const char *step)
{
    return strcmp(step, "best") == 0 || strcmp(step, "last") == 0 ||
           (step[0] && step[strspn(step, "0123456789")] == '\0');
}

static int get(kd_conn *c, const kd_args *args)
{
    const char *stage = kd_args_value(args, "stage");
    const struct wanted w = {.job = args->operands[1],
                             .stage = stage ? stage : "distill",
                             .step = kd_args_value(args, "step"),
                             .file = kd_args_value(args, "output-file")};
    bool gone = true;
    int rc = KD_EXIT_OK;
    for (int i = 0; i < TRIES && gone && kd_cli_signal() == 0; i++) {
        gone = false;
        rc = get_once(c, &w, &gone);
    }
    if (gone) {
        kd_error(c->cli, "the checkpoints of job %s are replaced faster than they are fetched",
                 w.job);
        kd_hint(c->cli, "--step best stays longer; or pause the job: distill pause %s", w.job);
        return KD_EXIT_TEMPORARY;
    }
    return rc;
}

static int run(kd_cli *cli, const kd_args *args)
{
    bool lists = strcmp(args->operands[0], "ls") == 0, gets = strcmp(args->operands[0], "get") == 0;
    if (!lists && !gets)
        return kd_usage(cli, "checkpoint", "ls JOB or get JOB",
                        "checkpoint: no such thing as \"%s\"", args->operands[0]);
    if (gets && kd_cli_no_list(cli, "checkpoint get") != KD_EXIT_OK)
        return KD_EXIT_USAGE;
    const char *step = kd_args_value(args, "step");
    if (gets && step && !is_step(step))
        return kd_usage(cli, "checkpoint", NULL,
                        "--step %s: the number of a step, best or last is expected", step);
    kd_conn conn;
    int rc = kd_conn_start(cli, args->operands[1], &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    if (lists) {
        Distill__V1__ListCheckpointsReply *r = NULL;
        rc = ask_list(&conn, args->operands[1], kd_args_value(args, "stage"), &r);
        if (rc == KD_EXIT_OK)
            rc = print_list(cli, r);
        if (r)
            kd_wire_free(&r->base);
    } else {
        rc = get(&conn, args);
    }
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_checkpoint = {
    .name = "checkpoint",
    .operands = "ls|get JOB",
    .summary = "list a job's checkpoints, fetch one as a network",
    .help =
        "get fetches the file, compares its digest, and writes the network in it as safetensors\n"
        "with its metadata, which predict, evaluate, export and other jobs take; of a stage that\n"
        "averages, the averaged one. It works while the job runs. CONTENT is the digest of\n"
        "parameters and optimiser state, the same for two runs of one job. `distill retention`\n"
        "says how long the checkpoints of a job that is over stay.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 2,
    .max_operands = 2,
    .lists = true,
    .run = run};
