/* Service Storage: what is kept on the coordinator's disk. Banks are banks.c's. */
#include "config.h"
#include "loop_call.h"

#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- retention */

static void answer_retention(kd_daemon *d, kd_rpc_call *call)
{
    const kd_keep *k = &d->keep;
    Distill__V1__RetentionRule rules[2 * KD_KEEPS], *rule_list[2 * KD_KEEPS];
    Distill__V1__KeptSum sums[KD_KEEPS], *sum_list[KD_KEEPS];
    char names[2 * KD_KEEPS][40];
    Distill__V1__RetentionReply reply = DISTILL__V1__RETENTION_REPLY__INIT;
    for (int i = 0; i < 2 * KD_KEEPS; i++) {
        int w = i / 2, size = i % 2;
        Distill__V1__RetentionRule *m = rule_list[i] = &rules[i];
        distill__v1__retention_rule__init(m);
        snprintf(names[i], sizeof names[i], "keep_%s%s", kd_keep_words[w], size ? "_size" : "");
        m->name = names[i];
        m->size = size;
        m->value = size ? k->rules.bytes[w] : (uint64_t)k->rules.age_s[w];
        m->configured = size ? k->configured.bytes[w] : (uint64_t)k->configured.age_s[w];
        m->changed = k->changed[w][size];
    }
    for (int w = 0; w < KD_KEEPS; w++) {
        Distill__V1__KeptSum *m = sum_list[w] = &sums[w];
        distill__v1__kept_sum__init(m);
        m->what = (char *)kd_keep_words[w];
        m->items = k->kept[w].items;
        m->bytes = k->kept[w].bytes;
        m->dropped = k->dropped[w].items;
        m->dropped_bytes = k->dropped[w].bytes;
    }
    reply.rules = rule_list;
    reply.n_rules = KD_COUNT(rules);
    reply.kept = sum_list;
    reply.n_kept = KD_COUNT(sums);
    kd_answer(call, &reply);
}

static void do_get_retention(kd_daemon *d, kd_loop_call *c)
{
    answer_retention(d, c->call);
}

static void do_set_retention(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__SetRetentionRequest *r = (Distill__V1__SetRetentionRequest *)c->m;
    kd_diag diag = {0};
    char note[128];
    snprintf(note, sizeof note, "%s=%s", r->name, r->value);
    kd_rpc_call_set_note(c->call, note);
    if (kd_keep_set(d, r->name, r->value, &diag) != 0) {
        kd_rpc_finish_diag(c->call, &diag);
        return;
    }
    kd_info("retention was changed: %s=%s by=%s", r->name,
            r->value[0] ? r->value : "(as configured)", kd_access_who(c->call));
    answer_retention(d, c->call);
}

/* ---- checkpoints */

struct checkpoint_list {
    const kd_job_record *j;
    int stage; /* -1 = all */
    Distill__V1__CheckpointInfo *items, **list;
    struct {
        uint32_t stage;
        uint64_t version;
        char digest[33], content[33];
    } * rows;
    size_t n;
};

static int add_checkpoint(void *arg, const kd_file_row *row)
{
    struct checkpoint_list *l = arg;
    if (row->stage >= (uint32_t)l->j->n_stages ||
        (l->stage >= 0 && row->stage != (uint32_t)l->stage))
        return 0;
    if (l->n == KD_MAX_CHECKPOINTS)
        return 1;
    const kd_stage_record *s = &l->j->stages[row->stage];
    Distill__V1__CheckpointInfo *m = l->list[l->n] = &l->items[l->n];
    l->rows[l->n].stage = row->stage;
    l->rows[l->n].version = row->version;
    snprintf(l->rows[l->n].digest, sizeof l->rows->digest, "%s", row->digest);
    distill__v1__checkpoint_info__init(m);
    m->stage = (char *)s->row.name;
    m->step = row->version - 1;
    m->size = row->size;
    m->digest = l->rows[l->n].digest;
    m->content = l->rows[l->n].content;
    m->best = row->version == s->row.best_version;
    m->last = s->row.done && s->info && row->version == kd_stage_last_version(s);
    l->n++;
    return 0;
}

static int add_content(void *arg, uint32_t stage, uint64_t version, const char *digest)
{
    struct checkpoint_list *l = arg;
    for (size_t i = 0; i < l->n; i++)
        if (l->rows[i].stage == stage && l->rows[i].version == version)
            snprintf(l->rows[i].content, sizeof l->rows->content, "%s", digest);
    return 0;
}

static int stage_named(const kd_job_record *j, const char *name, kd_diag *diag)
{
    for (int i = 0; i < j->n_stages; i++)
        if (strcmp(j->stages[i].row.name, name) == 0)
            return i;
    return kd_fail(diag, -KD_ENOENT, "the job has no stage %.32s", name);
}

static void describe_network(const kd_job_record *j, int stage,
                             Distill__V1__ListCheckpointsReply *m)
{
    const Distill__V1__StageInfo *i = stage >= 0 ? j->stages[stage].info : NULL;
    if (!i)
        return;
    m->table = i->table;
    m->metadata = i->metadata;
    m->floats = kd_stage_vector_floats(i);
    m->vectors = i->optimizer_vectors;
    m->average = i->average;
    m->resized_from = (uint32_t)kd_job_squeezed_from(&j->spec, j->stages[stage].kind);
}

static void do_list_checkpoints(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__ListCheckpointsRequest *r = (Distill__V1__ListCheckpointsRequest *)c->m;
    kd_job_record *j = kd_call_job(d, c->call, r->job);
    kd_diag diag = {0};
    if (!j)
        return;
    struct checkpoint_list l = {.j = j,
                                .stage = -1,
                                .items = kd_xalloc(KD_MAX_CHECKPOINTS * sizeof *l.items),
                                .list = kd_xalloc(KD_MAX_CHECKPOINTS * sizeof *l.list),
                                .rows = kd_xalloc(KD_MAX_CHECKPOINTS * sizeof *l.rows)};
    if (r->stage[0])
        l.stage = stage_named(j, r->stage, &diag);
    int rc = r->stage[0] ? KD_MIN(l.stage, 0) : 0;
    if (rc == 0)
        rc = kd_state_each_checkpoint(&d->state, j->row.id, add_checkpoint, &l, &diag);
    if (rc >= 0)
        rc = kd_state_each_digest(&d->state, j->row.id, add_content, &l, &diag);
    if (rc < 0) {
        kd_rpc_finish_diag(c->call, &diag);
    } else {
        Distill__V1__ListCheckpointsReply reply = DISTILL__V1__LIST_CHECKPOINTS_REPLY__INIT;
        reply.checkpoints = l.list;
        reply.n_checkpoints = l.n;
        describe_network(j, l.stage, &reply);
        kd_answer(c->call, &reply);
    }
    free(l.items);
    free(l.list);
    free(l.rows);
}

static void do_fetch_checkpoint(kd_daemon *d, kd_loop_call *c)
{
    const Distill__V1__FetchCheckpointRequest *r = (Distill__V1__FetchCheckpointRequest *)c->m;
    kd_job_record *j = kd_call_job(d, c->call, r->job);
    kd_file_row row;
    kd_diag diag = {0};
    if (!j)
        return;
    int stage = stage_named(j, r->stage, &diag), rc = KD_MIN(stage, 0);
    if (rc == 0 && r->step < INT64_MAX)
        rc = kd_state_find_checkpoint(&d->state, j->row.id, (uint32_t)stage, r->step + 1, &row,
                                      &diag);
    if (rc == 1)
        rc = kd_send_file_piece(c->call, row.path, row.digest, r->offset, &diag);
    else if (rc == 0)
        rc = kd_fail(&diag, -KD_ENOENT,
                     "there is no checkpoint of step %llu of stage %s (`distill checkpoint ls` "
                     "lists them)",
                     (unsigned long long)r->step, r->stage);
    if (rc != 0)
        kd_rpc_finish_diag(c->call, &diag);
}

/* ---- the table */

KD_LOOP_HANDLER(on_get_retention, distill__v1__get_retention_request__descriptor, do_get_retention)
KD_LOOP_HANDLER(on_set_retention, distill__v1__set_retention_request__descriptor, do_set_retention)
KD_LOOP_HANDLER(on_list_banks, distill__v1__list_banks_request__descriptor, kd_banks_list)
KD_LOOP_HANDLER(on_verify_bank, distill__v1__bank_request__descriptor, kd_banks_verify)
KD_LOOP_HANDLER(on_remove_bank, distill__v1__bank_request__descriptor, kd_banks_remove)
KD_LOOP_HANDLER(on_list_checkpoints, distill__v1__list_checkpoints_request__descriptor,
                do_list_checkpoints)
KD_LOOP_HANDLER(on_fetch_checkpoint, distill__v1__fetch_checkpoint_request__descriptor,
                do_fetch_checkpoint)

#define UNARY(method, handler)                                                                     \
    KD_UNARY("/distill.v1.Storage/" method, KD_MAX_CONTROL_BYTES, handler)
const kd_rpc_method kd_storage_methods[] = {
    UNARY("GetRetention", on_get_retention),
    UNARY("SetRetention", on_set_retention),
    UNARY("ListBanks", on_list_banks),
    UNARY("VerifyBank", on_verify_bank),
    UNARY("RemoveBank", on_remove_bank),
    UNARY("ListCheckpoints", on_list_checkpoints),
    UNARY("FetchCheckpoint", on_fetch_checkpoint),
};
const size_t kd_n_storage_methods = KD_COUNT(kd_storage_methods);
