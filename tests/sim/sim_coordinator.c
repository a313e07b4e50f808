/* The virtual coordinator: the real core, exchange and journal, and a disk that takes its time. */
#include "sim_internal.h"

#define LEASE_MS 1000
#define SAVE_MS 150

/* ---- the loop */

static void drop_event(void *a)
{
    kd_event *ev = a;
    free((void *)ev->step.done_ms);
    free(ev);
}

static void on_loop(struct world *w, void *a, uint64_t epoch)
{
    if (w->up && epoch == w->epoch)
        sim_to_core(w, a);
    drop_event(a);
}

/* In order, but what the core looks up meanwhile (KD_ACT_LOOK) may be newer than what it is told.
 */
static void post(struct world *w, const kd_event *ev)
{
    kd_event *mine = kd_xalloc(sizeof *mine);
    *mine = *ev;
    const double at = w->now + sim_random(w, w->cfg.loop_ms);
    w->loop_at = KD_MAX(w->loop_at, at);
    sim_at_owning(w, w->loop_at, on_loop, mine, w->epoch, drop_event);
}

/* ---- what the exchange tells */

static void x_committed(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                        uint64_t version, const kd_step_totals *totals,
                        const kd_exchange_course *course)
{
    struct world *w = arg;
    kd_time_ms *copy = kd_xalloc(cfg->slots * sizeof *copy);
    memcpy(copy, course->done_ms, cfg->slots * sizeof *copy);
    SAY(w, "committed %llu", (unsigned long long)version);
    if (totals->samples != (double)cfg->slots)
        sim_broken(w, "no sample is lost", "step %llu counts %g of %u units",
                   (unsigned long long)version - 1, totals->samples, cfg->slots);
    if (version <= w->committed)
        w->out->steps_redone++;
    w->committed = KD_MAX(w->committed, version);
    w->kept = version;
    w->last_progress = w->now;
    post(w, &(kd_event){.kind = KD_EV_COMMITTED,
                        .job = JOB,
                        .generation = generation,
                        .version = version,
                        .step = {.version = version - 1, .since = course->since, .done_ms = copy}});
}

static void forget(struct checkpoint *c)
{
    free(c->vector);
    free(c->state);
    *c = (struct checkpoint){0};
}

static void drop_checkpoint(void *c)
{
    forget(c);
    free(c);
}

static void on_saved(struct world *w, void *a, uint64_t epoch)
{
    struct checkpoint *c = a;
    if (w->up && epoch == w->epoch && w->exchange && c->opening == w->opening) {
        sim_check_vector(w, c->vector, c->version, "a checkpoint");
        forget(&w->saved[1]);
        w->saved[1] = *c;
        kd_event ev = {
            .kind = KD_EV_SAVED, .job = JOB, .generation = c->opening, .version = c->version};
        *c = (struct checkpoint){0}; /* is there now */
        sim_to_core(w, &ev);
    }
    drop_checkpoint(c);
}

static void x_snapshot(void *arg, kd_exchange_snapshot *snap)
{
    struct world *w = arg;
    struct checkpoint *c = kd_xalloc(sizeof *c);
    *c = (struct checkpoint){snap->version, snap->generation, snap->vector, snap->state};
    if (!c->state)
        sim_broken(w, "checkpoints have their state", "version %llu",
                   (unsigned long long)snap->version);
    /* In order: the same time for all. */
    sim_at_owning(w, w->now + SAVE_MS, on_saved, c, w->epoch, drop_checkpoint);
}

static void x_evaluated(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                        uint64_t version, double rate, const float *rows)
{
    struct world *w = arg;
    (void)cfg;
    (void)generation;
    (void)rate;
    if (version > w->kept)
        sim_broken(w, "news of an evaluation comes after that of its version", "version %llu",
                   (unsigned long long)version);
    for (size_t u = 0; u < EVAL_UNITS; u++)
        if (rows[u * KD_EVAL_UNIT * KD_EVAL_COLUMNS] != w->truth[version][0])
            sim_broken(w, "evaluations are of their version", "version %llu",
                       (unsigned long long)version);
    post(w, &(kd_event){.kind = KD_EV_EVALUATED, .job = JOB, .version = version});
}

static void x_divergence(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                         const char *what, uint64_t step, uint32_t slot, uint64_t first,
                         uint64_t other, uint32_t settled)
{
    struct world *w = arg;
    (void)cfg;
    SAY(w, "divergence: %s, step %llu slot %u, %llu and %llu", what, (unsigned long long)step, slot,
        (unsigned long long)first, (unsigned long long)other);
    if (w->cfg.odd_worker < 0)
        sim_broken(w, "equal units have equal bits", "%s", what);
    post(w, &(kd_event){.kind = KD_EV_DIVERGED,
                        .job = JOB,
                        .generation = generation,
                        .version = step,
                        .slot = slot,
                        .process = first,
                        .other = other,
                        .settled = settled});
}

static void x_checked(void *arg, const kd_exchange_config *cfg, uint64_t generation, uint64_t step,
                      uint32_t slot, uint64_t process, uint64_t against, uint32_t settled)
{
    (void)cfg;
    SAY((struct world *)arg, "second run of step %llu slot %u by %llu, against %llu",
        (unsigned long long)step, slot, (unsigned long long)process, (unsigned long long)against);
    post(arg, &(kd_event){.kind = KD_EV_CHECKED,
                          .job = JOB,
                          .generation = generation,
                          .version = step,
                          .slot = slot,
                          .process = process,
                          .other = against,
                          .settled = settled});
}

static float *copy_of(const float *v, size_t n)
{
    float *p = kd_xalloc(n * sizeof *p);
    memcpy(p, v, n * sizeof *p);
    return p;
}

static void on_base(struct world *w, void *a, uint64_t epoch)
{
    (void)a;
    if (!w->up || epoch != w->epoch || !w->exchange)
        return;
    const struct checkpoint *c = &w->saved[0];
    if (c->vector && c->version == w->manifest)
        kd_exchange_set_base(w->exchange, c->version, copy_of(c->vector, w->floats),
                             copy_of(c->state, w->floats * w->vectors), "");
    else
        kd_exchange_set_base(w->exchange, 0, NULL, NULL, "none");
}

static void x_need_base(void *arg, const kd_exchange_config *cfg)
{
    struct world *w = arg;
    (void)cfg;
    sim_at(w, w->now + 3, on_base, NULL, w->epoch);
}

static void x_blocked(void *arg, const kd_exchange_config *cfg, uint64_t generation,
                      const char *why)
{
    (void)cfg;
    (void)generation;
    sim_broken(arg, "the journal takes sums", "%s", why ? why : "");
}

static kd_time_ms x_now(void *arg)
{
    return (kd_time_ms)((struct world *)arg)->now;
}

/* ---- its actions */

static void open_exchange(struct world *w, const kd_action *act)
{
    char prefix[96];
    kd_exchange_config cfg = {.job = JOB,
                              .slots = w->cfg.slots,
                              .chunk_floats = CHUNK_FLOATS,
                              .chunks = w->cfg.chunks,
                              .vector_floats = w->floats,
                              .state_vectors = w->vectors,
                              .eval_steps = w->cfg.eval_steps,
                              .last_version = act->begin.last_version,
                              .checkpoint_every = w->cfg.checkpoint_every,
                              .val_samples = VAL_SAMPLES,
                              .eval_unit = KD_EVAL_UNIT,
                              .average = w->cfg.average,
                              .bfloat16 = w->cfg.bfloat16,
                              .clip_norm = w->cfg.clip_norm,
                              .audit = w->cfg.audit};
    static struct kd_exchange_span all; /* is looked at as long as the exchange lives */
    all = (struct kd_exchange_span){0, w->floats};
    cfg.trained = &all;
    cfg.n_trained = 1;
    kd_exchange_events ev = {x_committed,  x_snapshot, x_evaluated,
                             x_divergence, x_checked,  x_need_base,
                             x_blocked,    x_now,      w};
    w->exchange = kd_exchange_new(&cfg, &ev);
    snprintf(prefix, sizeof prefix, "%s/stage0", w->dir);
    if (act->begin.fresh)
        kd_journal_remove(prefix);
    kd_exchange_start start = {
        .opening = act->begin.generation, .manifest = w->manifest, .evaluated = w->evaluated};
    kd_digest identity = kd_digest_of("sim", 3);
    uint64_t torn;
    kd_diag diag = {0};
    if (kd_journal_open(prefix, &identity, w->cfg.chunks, CHUNK_FLOATS, w->floats, w->manifest,
                        &start.journal, &torn, &diag) != 0)
        sim_broken(w, "the journal opens", "%s", diag.msg);
    uint64_t end = kd_journal_end(start.journal), every = w->cfg.eval_steps;
    uint64_t stop = (w->manifest - 1 + every) / every * every + 1;
    if (w->manifest > 1 && (w->manifest - 1) % every == 0)
        stop = w->evaluated < w->manifest ? w->manifest : w->manifest + every;
    start.version = KD_MIN(KD_MIN(end, stop), act->begin.last_version);
    /* What was committed and neither lost with the power nor wrong is there. */
    if (!w->power_failed && !act->begin.fresh && KD_MAX(start.version, end) < w->kept)
        sim_broken(w, "no step is rolled back", "opens at %llu, %llu was committed",
                   (unsigned long long)start.version, (unsigned long long)w->kept);
    w->kept = start.version;
    w->power_failed = false;
    if (start.version == w->manifest && w->manifest > 1) {
        KD_BUG_ON(w->saved[0].version != w->manifest);
        start.vector = copy_of(w->saved[0].vector, w->floats);
        start.state = copy_of(w->saved[0].state, w->floats * w->vectors);
    }
    SAY(w, "opens at %llu (manifest %llu, journal to %llu)", (unsigned long long)start.version,
        (unsigned long long)w->manifest, (unsigned long long)end);
    w->opening = act->begin.generation;
    w->out->reopened++;
    kd_exchange_open(w->exchange, &start);
}

void sim_close_exchange(struct world *w)
{
    kd_exchange_free(w->exchange);
    w->exchange = NULL;
}

static void look(struct world *w)
{
    if (!w->exchange)
        return;
    kd_exchange_look l;
    kd_exchange_look_at(w->exchange, &l);
    sim_to_core(
        w, &(kd_event){.kind = KD_EV_STEP, .job = JOB, .generation = w->opening, .step = l.step});
    kd_exchange_look_clear(&l);
}

static void set_manifest(struct world *w, uint64_t version)
{
    if (w->saved[1].version == version) {
        forget(&w->saved[0]);
        w->saved[0] = w->saved[1];
        w->saved[1] = (struct checkpoint){0};
    }
    if (w->saved[0].version != version)
        sim_broken(w, "a manifest names what is there", "version %llu",
                   (unsigned long long)version);
    w->manifest = version;
    if (w->exchange)
        kd_exchange_manifest(w->exchange, version);
}

static void carry_out(struct world *w, const kd_action *act)
{
    switch (act->kind) {
    case KD_ACT_OPEN:
        open_exchange(w, act);
        break;
    case KD_ACT_LOOK:
        look(w);
        break;
    case KD_ACT_FENCE:
        w->out->reshapes++;
        if (w->exchange)
            kd_exchange_fence(w->exchange, act->begin.generation, act->begin.members,
                              w->actions.ranges + act->ranges[KD_RANGES_CHUNKS].at,
                              act->ranges[KD_RANGES_CHUNKS].n);
        break;
    case KD_ACT_SETTLE:
        if (w->exchange && !kd_exchange_settle(w->exchange, act->version, act->check, act->process))
            sim_to_core(w, &(kd_event){.kind = KD_EV_ROLLBACK, .job = JOB, .text = "left already"});
        break;
    case KD_ACT_CLOSE:
        sim_close_exchange(w);
        break;
    case KD_ACT_CHECKPOINT:
        if (w->exchange)
            kd_exchange_checkpoint(w->exchange);
        break;
    case KD_ACT_STATE:
        SAY(w, "job: %d %s", (int)act->state, act->text);
        w->state = act->state;
        break;
    case KD_ACT_STAGE_DONE:
        if (act->stage == 0) {
            if (w->manifest != w->cfg.steps + 1)
                sim_broken(w, "a stage ends with its last version saved", "manifest %llu",
                           (unsigned long long)w->manifest);
            w->stage_done = true;
        }
        break;
    case KD_ACT_MANIFEST:
        set_manifest(w, act->version);
        break;
    case KD_ACT_EXPORT:
        post(w, &(kd_event){.kind = KD_EV_EXPORTED, .job = JOB, .stage = act->stage});
        break;
    case KD_ACT_NOTE:
        SAY(w, "note %s: %s (%llu)", act->word, act->text, (unsigned long long)act->member);
        if (strncmp(act->text, "quarantined", 11) == 0) {
            struct worker *k = sim_worker_of(w, act->member);
            w->out->quarantined++;
            if (!k || k->index != w->cfg.odd_worker)
                sim_broken(w, "only who is odd is quarantined", "worker %d", k ? k->index : -1);
        }
        break;
    default:
        sim_send_control(w, act);
        break;
    }
}

void sim_to_core(struct world *w, const kd_event *ev)
{
    if (ev->kind == KD_EV_EVALUATED) {
        w->evaluations[ev->version] = true;
        w->evaluated = KD_MAX(w->evaluated, ev->version);
    }
    kd_core_handle(w->core, ev, (kd_time_ms)w->now, &w->actions);
    const char *wrong = kd_core_check(w->core);
    if (wrong)
        sim_broken(w, "the core's own invariants", "%s", wrong);
    if (w->carrying)
        return;
    w->carrying = true;
    for (size_t i = 0; i < w->actions.count; i++) {
        kd_action act = w->actions.items[i];
        carry_out(w, &act);
    }
    kd_actions_clear(&w->actions);
    w->carrying = false;
}

/* ---- its life */

void sim_on_tick(struct world *w, void *a, uint64_t b)
{
    (void)a;
    (void)b;
    for (int i = 0; i < w->n_workers && w->up; i++) {
        struct worker *k = &w->workers[i];
        if (!k->member)
            continue;
        if (k->alive && !k->stopped && !k->cut)
            k->heard = w->now;
        else if (w->now - k->heard > LEASE_MS)
            sim_disconnect(k);
    }
    if (w->up)
        sim_to_core(w, &(kd_event){.kind = KD_EV_TICK});
    sim_at(w, w->now + TICK_MS, sim_on_tick, NULL, 0);
}

void sim_start_coordinator(struct world *w)
{
    w->up = true;
    w->core = kd_core_new(++w->epoch);
    kd_core_job_setup setup = {.id = JOB,
                               .min_workers = w->cfg.min_workers,
                               .max_workers = w->cfg.max_workers,
                               .audit = w->cfg.audit,
                               .n_stages = 2,
                               .started = w->state == KD_RUN_RUNNING};
    setup.stages[0] = (kd_core_stage_setup){.kind = KD_CORE_TRAIN,
                                            .done = w->stage_done,
                                            .manifest = w->manifest,
                                            .evaluated = w->evaluated,
                                            .has_info = w->epoch > 1,
                                            .info = w->info};
    setup.stages[1] = (kd_core_stage_setup){.kind = KD_CORE_EXPORT, .manifest = 1};
    sim_to_core(w, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &setup});
}

static void on_restart(struct world *w, void *a, uint64_t b)
{
    (void)a;
    (void)b;
    if (!w->up)
        sim_start_coordinator(w);
}

void sim_kill_coordinator(struct world *w)
{
    if (!w->up)
        return;
    SAY(w, "the coordinator dies");
    /* Nobody's actions: what was being carried out is lost with the process. */
    w->up = false;
    for (int i = 0; i < w->n_workers; i++) {
        struct worker *k = &w->workers[i];
        if (k->member) {
            k->member = 0;
            k->conn++;
            if (k->alive)
                sim_at(w, w->now + 50 + sim_random(w, 300), sim_on_connect, k, k->life);
        }
    }
    sim_close_exchange(w);
    kd_core_free(w->core);
    w->core = NULL;
    kd_actions_clear(&w->actions);
    forget(&w->saved[1]);
    sim_at(w, w->now + 20 + sim_random(w, 800), on_restart, NULL, 0);
}
