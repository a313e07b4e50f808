/* Logit banks as jobs and people see them: which there are, who uses them, whether they are whole.
 * What reads or removes files runs on libuv's pool. */
#include "loop_call.h"

#include "kd/file.h"
#include "kd/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- who uses them */

static bool is_over(const kd_daemon *d, uint64_t job)
{
    const kd_job_record *j = kd_daemon_job((kd_daemon *)d, job);
    return !j || j->row.state >= KD_RUN_SUCCEEDED;
}

bool kd_bank_is_needed(kd_daemon *d, const char *id)
{
    kd_bank_use *uses;
    size_t n = kd_bank_uses(d->bank, id, &uses);
    bool needed = false;
    for (size_t i = 0; i < n; i++)
        needed = needed || !is_over(d, uses[i].job);
    free(uses);
    return needed;
}

/* ---- dropping one */

struct removal {
    kd_daemon *daemon;
    uv_work_t work;
    char path[4096];
    kd_diag diag;
    int rc;
};

static void remove_files(uv_work_t *work)
{
    struct removal *r = work->data;
    r->rc = kd_file_remove_tree(r->path, &r->diag);
}

static void files_removed(uv_work_t *work, int status)
{
    struct removal *r = work->data;
    r->daemon->writes_running--;
    if (status == 0 && r->rc != 0)
        kd_warn("a dropped logit bank stays until the next start: %s", r->diag.msg);
    free(r);
}

int kd_bank_drop(kd_daemon *d, const char *id, kd_diag *diag)
{
    struct removal *r = kd_xalloc(sizeof *r);
    int rc = kd_bank_doom(d->bank, id, r->path, diag);
    if (rc != 0) {
        free(r);
        return rc;
    }
    r->daemon = d;
    r->work.data = r;
    d->writes_running++;
    KD_BUG_ON(uv_queue_work(&d->loop, &r->work, remove_files, files_removed) != 0);
    return 0;
}

/* ---- calls: begun on the loop, read on the pool, answered on the loop */

struct bank_call {
    kd_daemon *daemon;
    uv_work_t work;
    kd_rpc_call *call;
    size_t n, cap;
    kd_bank_about *about; /* of a list */
    char id[33];
    kd_bank_check check;
    kd_diag diag;
    int rc;
};

static struct bank_call *new_call(kd_daemon *d, kd_loop_call *c)
{
    struct bank_call *b = kd_xalloc(sizeof *b);
    b->daemon = d;
    b->work.data = b;
    b->call = kd_rpc_call_ref(c->call);
    return b;
}

static void free_call(struct bank_call *b)
{
    kd_rpc_call_unref(b->call);
    free(b->about);
    free(b);
}

static void queue_call(struct bank_call *b, uv_work_cb run, uv_after_work_cb answer)
{
    b->daemon->writes_running++;
    KD_BUG_ON(uv_queue_work(&b->daemon->loop, &b->work, run, answer) != 0);
}

static void add_bank(void *arg, const char *id, uint64_t bytes, int64_t used_ms)
{
    struct bank_call *b = arg;
    (void)bytes;
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        kd_bank_about *p = realloc(b->about, b->cap * sizeof *p);
        KD_BUG_ON(!p);
        b->about = p;
    }
    kd_bank_about *a = &b->about[b->n++];
    *a = (kd_bank_about){.used_ms = used_ms};
    snprintf(a->id, sizeof a->id, "%s", id);
}

static int last_used_first(const void *a, const void *b)
{
    const kd_bank_about *p = a, *q = b;
    return p->used_ms > q->used_ms ? -1 : p->used_ms < q->used_ms ? 1 : strcmp(p->id, q->id);
}

static void read_list(uv_work_t *work)
{
    struct bank_call *b = work->data;
    kd_bank_store_each(b->daemon->bank, add_bank, b);
    if (b->n)
        qsort(b->about, b->n, sizeof *b->about, last_used_first);
    size_t kept = 0;
    for (size_t i = 0; i < b->n && kept < KD_MAX_BANKS && !atomic_load(&b->daemon->closing); i++) {
        kd_bank_about about;
        /* One that went meanwhile is left out. */
        if (kd_bank_describe(b->daemon->bank, b->about[i].id, &about, NULL) == 0)
            b->about[kept++] = about;
    }
    b->n = kept;
}

struct bank_row {
    Distill__V1__BankInfo m;
    char ids[KD_MAX_BANK_JOBS][KD_ID_TEXT], *list[KD_MAX_BANK_JOBS];
};

/* The newest of its jobs that the caller may read. */
static void list_jobs(kd_daemon *d, const kd_rpc_call *call, const char *id, struct bank_row *r)
{
    kd_bank_use *uses;
    size_t n = kd_bank_uses(d->bank, id, &uses), k = KD_MAX_BANK_JOBS;
    for (size_t i = n; i > 0; i--) {
        const kd_job_record *j = kd_daemon_job(d, uses[i - 1].job);
        r->m.wanted = KD_MAX(r->m.wanted, uses[i - 1].wanted);
        r->m.in_use |= !is_over(d, uses[i - 1].job);
        if (!j || k == 0 || kd_access_job(d->access, call, j->row.owner, NULL) != 0)
            continue;
        kd_id_text(j->row.id, r->ids[--k]);
        r->list[k] = r->ids[k];
    }
    r->m.jobs = r->list + k;
    r->m.n_jobs = KD_MAX_BANK_JOBS - k;
    free(uses);
}

static void answer_list(uv_work_t *work, int status)
{
    struct bank_call *b = work->data;
    Distill__V1__ListBanksReply reply = DISTILL__V1__LIST_BANKS_REPLY__INIT;
    struct bank_row *rows = kd_xalloc((b->n + 1) * sizeof *rows);
    Distill__V1__BankInfo **list = kd_xalloc((b->n + 1) * sizeof *list);
    size_t bytes = 0;
    (void)status;
    b->daemon->writes_running--;
    for (size_t i = 0; i < b->n; i++) {
        const kd_bank_about *a = &b->about[i];
        Distill__V1__BankInfo *m = list[i] = &rows[i].m;
        distill__v1__bank_info__init(m);
        m->bank = (char *)a->id;
        m->teacher = (char *)a->teacher;
        m->precision = (char *)a->precision;
        m->data = (char *)a->data;
        m->classes = a->classes;
        m->records = a->records;
        m->bytes = a->bytes;
        m->used_ms = a->used_ms;
        m->damaged = a->damaged;
        list_jobs(b->daemon, b->call, a->id, &rows[i]);
        bytes += protobuf_c_message_get_packed_size(&m->base) + 8;
        if (bytes > KD_MAX_CONTROL_BYTES)
            break;
        reply.n_banks++;
    }
    reply.banks = list;
    kd_answer(b->call, &reply);
    free(list);
    free(rows);
    free_call(b);
}

void kd_banks_list(kd_daemon *d, kd_loop_call *c)
{
    queue_call(new_call(d, c), read_list, answer_list);
}

struct match {
    const char *text;
    char id[33];
    size_t n, bytes;
};

static void match_bank(void *arg, const char *id, uint64_t bytes, int64_t used_ms)
{
    struct match *m = arg;
    (void)used_ms;
    if (strncmp(id, m->text, strlen(m->text)) != 0)
        return;
    snprintf(m->id, sizeof m->id, "%s", id);
    m->bytes = bytes;
    m->n++;
}

/* The bank that a person means by its id or the beginning of it. */
static bool find_bank(kd_daemon *d, kd_loop_call *c, struct match *out)
{
    kd_diag diag = {0};
    *out = (struct match){.text = ((Distill__V1__BankRequest *)c->m)->bank};
    kd_rpc_call_set_note(c->call, out->text);
    if (strlen(out->text) >= 4)
        kd_bank_store_each(d->bank, match_bank, out);
    if (out->n == 1) {
        kd_rpc_call_set_note(c->call, out->id);
        return true;
    }
    if (out->n)
        (void)kd_fail(&diag, -KD_EINVAL, "more than one bank begins with %.32s; give more digits",
                      out->text);
    else
        (void)kd_fail(&diag, -KD_ENOENT,
                      "no logit bank %.64s here; a bank is named by its id or the first digits of "
                      "it, at least 4 (`distill bank ls` lists them)",
                      out->text);
    kd_rpc_finish_diag(c->call, &diag);
    return false;
}

static void read_check(uv_work_t *work)
{
    struct bank_call *b = work->data;
    b->rc = kd_bank_verify(b->daemon->bank, b->id, &b->daemon->closing, &b->check, &b->diag);
}

static void answer_check(uv_work_t *work, int status)
{
    struct bank_call *b = work->data;
    Distill__V1__BankCheck reply = DISTILL__V1__BANK_CHECK__INIT;
    (void)status;
    b->daemon->writes_running--;
    b->daemon->verifying = false;
    reply.bank = b->id;
    reply.whole = !b->check.bad;
    reply.blocks = b->check.blocks;
    reply.records = b->check.records;
    reply.bytes = b->check.bytes;
    reply.bad_at = b->check.bad_at;
    if (b->rc == 0 && b->check.bad)
        kd_warn("logit bank is damaged: bank=%s at=%llu", b->id,
                (unsigned long long)b->check.bad_at);
    if (b->rc == 0)
        kd_answer(b->call, &reply);
    else
        kd_rpc_finish_diag(b->call, &b->diag);
    free_call(b);
}

void kd_banks_verify(kd_daemon *d, kd_loop_call *c)
{
    struct match m;
    if (!find_bank(d, c, &m))
        return;
    if (d->verifying) {
        kd_rpc_finish(c->call, -KD_EUNAVAIL, "another bank is being verified; try again later");
        return;
    }
    struct bank_call *b = new_call(d, c);
    snprintf(b->id, sizeof b->id, "%s", m.id);
    d->verifying = true;
    queue_call(b, read_check, answer_check);
}

void kd_banks_remove(kd_daemon *d, kd_loop_call *c)
{
    struct match m;
    kd_diag diag = {0};
    Distill__V1__RemoveReply reply = DISTILL__V1__REMOVE_REPLY__INIT;
    if (!find_bank(d, c, &m))
        return;
    reply.freed_bytes = m.bytes;
    int rc = kd_bank_is_needed(d, m.id)
                 ? kd_fail(&diag, -KD_ESTATE,
                           "a job that is not over uses the bank (`distill bank ls` names it)")
                 : kd_bank_drop(d, m.id, &diag);
    if (rc != 0) {
        kd_rpc_finish_diag(c->call, &diag);
        return;
    }
    kd_info("a logit bank was removed: bank=%s bytes=%zu by=%s", m.id, m.bytes,
            kd_access_who(c->call));
    kd_answer(c->call, &reply);
}
