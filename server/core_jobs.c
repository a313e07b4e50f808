/* The lists of jobs: all of them, those that are not over, those that run; and the way by id. */
#include "core_internal.h"

#include <stdlib.h>
#include <string.h>

static void insert(struct job **list, size_t *n, size_t at, struct job *j)
{
    memmove(list + at + 1, list + at, (*n - at) * sizeof *list);
    list[at] = j;
    ++*n;
}

static void take_out(struct job **list, size_t *n, const struct job *j)
{
    size_t at = 0;
    while (at < *n && list[at] != j)
        at++;
    if (at == *n)
        return;
    --*n;
    memmove(list + at, list + at + 1, (*n - at) * sizeof *list);
}

static void make_room(kd_core *c)
{
    if (c->n_jobs < c->cap_jobs)
        return;
    size_t cap = c->cap_jobs ? 2 * c->cap_jobs : 16;
    struct job ***lists[] = {&c->jobs, &c->live, &c->running};
    for (size_t i = 0; i < KD_COUNT(lists); i++) {
        struct job **p = realloc(*lists[i], cap * sizeof *p);
        KD_BUG_ON(!p);
        *lists[i] = p;
    }
    c->cap_jobs = cap;
}

struct job *kd_core_add_job(kd_core *c, const kd_core_job_setup *setup)
{
    KD_BUG_ON(setup->n_stages > KD_CORE_STAGES);
    struct job *j = kd_xalloc(sizeof *j);
    *j = (struct job){.id = setup->id,
                      .order = c->submitted++,
                      .core = c,
                      .state = KD_RUN_QUEUED,
                      .min_workers = setup->min_workers,
                      .max_workers = setup->max_workers,
                      .priority = setup->priority,
                      .audit = setup->audit,
                      .paused = setup->paused,
                      .n_stages = setup->n_stages};
    for (uint32_t i = 0; i < setup->n_stages; i++)
        j->stages[i].s = setup->stages[i];
    make_room(c);
    c->jobs[c->n_jobs++] = j;
    kd_ids_add(&c->index, j->id, j);
    size_t at = c->n_live;
    while (at > 0 && c->live[at - 1]->priority < j->priority)
        at--;
    insert(c->live, &c->n_live, at, j);
    c->positions_known = false;
    return j;
}

static void free_job(struct job *j)
{
    kd_step_free(j);
    free(j);
}

void kd_core_remove_job(kd_core *c, struct job *j)
{
    KD_BUG_ON(j->state < KD_RUN_SUCCEEDED);
    take_out(c->jobs, &c->n_jobs, j);
    kd_ids_remove(&c->index, j->id);
    free_job(j);
}

void kd_core_free_jobs(kd_core *c)
{
    for (size_t i = 0; i < c->n_jobs; i++)
        free_job(c->jobs[i]);
    free(c->jobs);
    free(c->live);
    free(c->running);
    kd_ids_clear(&c->index);
}

struct job *kd_core_job(const kd_core *c, kd_job_id id)
{
    return kd_ids_find(&c->index, id);
}

void kd_core_move_job(struct job *j, enum kd_run_state state)
{
    kd_core *c = j->core;
    if (j->state == state)
        return;
    KD_BUG_ON(j->state >= KD_RUN_SUCCEEDED);
    if (j->state == KD_RUN_RUNNING)
        take_out(c->running, &c->n_running, j);
    if (state == KD_RUN_RUNNING) {
        size_t at = c->n_running;
        while (at > 0 && c->running[at - 1]->order > j->order)
            at--;
        insert(c->running, &c->n_running, at, j);
    }
    if (state >= KD_RUN_SUCCEEDED)
        take_out(c->live, &c->n_live, j);
    j->state = state;
    c->positions_known = false;
}

struct job **kd_core_copy_list(struct job *const *list, size_t n)
{
    struct job **copy = kd_xalloc((n + 1) * sizeof *copy);
    if (n)
        memcpy(copy, list, n * sizeof *copy);
    return copy;
}

uint32_t kd_core_position(kd_core *c, struct job *j)
{
    uint32_t position = 0;
    if (j->state != KD_RUN_QUEUED)
        return 0;
    for (size_t i = 0; i < c->n_jobs && !c->positions_known; i++)
        if (c->jobs[i]->state == KD_RUN_QUEUED)
            c->jobs[i]->position = ++position;
    c->positions_known = true;
    return j->position;
}
