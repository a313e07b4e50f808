/* A run: its configuration, its faults, and the end that it comes to. */
#include "sim_internal.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONGEST_MS 4000000

/* ---- the configuration */

void kd_sim_draw(uint64_t seed, kd_sim_config *out)
{
    kd_rng r;
    kd_rng_init(&r, seed, KD_RNG_TEST, 1, 0);
    uint32_t slots = 1u << kd_rng_below(&r, 5);
    *out = (kd_sim_config){.seed = seed,
                           .workers = 1 + (int)kd_rng_below(&r, 6),
                           .threads = 1 + (int)kd_rng_below(&r, 3),
                           .slots = slots,
                           .chunks = 1 + kd_rng_below(&r, 6),
                           .steps = 6 + kd_rng_below(&r, 20),
                           .eval_steps = 2 + kd_rng_below(&r, 7),
                           .checkpoint_every = 1 + kd_rng_below(&r, 9),
                           .min_workers = 1,
                           .max_workers = 8,
                           .clip_norm = kd_rng_below(&r, 3) == 0 ? 1.5 : 0,
                           .average = kd_rng_below(&r, 3) == 0,
                           .loop_ms = 20,
                           .odd_worker = -1};
    if (out->workers > 2 && kd_rng_below(&r, 4) == 0)
        out->min_workers = 2;
    if (kd_rng_below(&r, 3) > 0)
        out->worker_kills = (int)kd_rng_below(&r, 5);
    if (kd_rng_below(&r, 2))
        out->worker_stops = (int)kd_rng_below(&r, 3);
    if (kd_rng_below(&r, 2))
        out->partitions = (int)kd_rng_below(&r, 3);
    if (kd_rng_below(&r, 2))
        out->coordinator_kills = (int)kd_rng_below(&r, 4);
    if (kd_rng_below(&r, 4) == 0)
        out->power_failures = 1 + (int)kd_rng_below(&r, 2);
    if (kd_rng_below(&r, 3) == 0)
        out->joins = (int)kd_rng_below(&r, 4);
    if (kd_rng_below(&r, 3) == 0)
        out->drains = 1 + (int)kd_rng_below(&r, 2);
    if (kd_rng_below(&r, 3) == 0)
        out->slow_starts = 1 + (int)kd_rng_below(&r, 3);
    if (kd_rng_below(&r, 4) == 0)
        out->audit = 0.3;
    if (kd_rng_below(&r, 3) == 0)
        out->loss = 0.03;
    out->bfloat16 = seed % 3 == 0;
    if (out->workers >= 4 && kd_rng_below(&r, 4) == 0) {
        /* To be found it needs three others who stay. */
        out->odd_worker = 1;
        out->audit = 1;
        out->worker_kills = out->worker_stops = out->partitions = out->drains = out->joins = 0;
    }
}

/* ---- faults */

static void cut_journal(struct world *w)
{
    char command[256], path[256];
    snprintf(command, sizeof command, "ls -1 %s 2>/dev/null", w->dir);
    FILE *p = popen(command, "r");
    while (p && fgets(path, sizeof path, p)) {
        char whole[400];
        struct stat st;
        path[strcspn(path, "\n")] = '\0';
        snprintf(whole, sizeof whole, "%s/%s", w->dir, path);
        if (stat(whole, &st) == 0)
            (void)!truncate(whole, (off_t)kd_rng_below(&w->rng, (uint32_t)st.st_size + 1));
    }
    if (p)
        pclose(p);
}

enum fault { KILL, STOP, CUT, COORDINATOR, POWER, JOIN, DRAIN, SLOW };

static void on_heal(struct world *w, void *a, uint64_t b)
{
    struct worker *k = a;
    if (b == KILL) { /* a new process in its place */
        k->alive = true;
        sim_at(w, w->now + 1, sim_on_connect, k, k->life);
        return;
    }
    SAY(w, "worker %d is well again", k->index);
    k->stopped = k->cut = k->ends = false;
    k->slow = 1;
    /* Its stream broke meanwhile, or goes on. */
    if (!k->member)
        sim_at(w, w->now + 1, sim_on_connect, k, k->life);
    if (b == DRAIN && k->member && w->up)
        sim_to_core(w, &(kd_event){.kind = KD_EV_DRAIN, .member = k->member, .stop = true});
    sim_pump(k);
}

void sim_kill_worker(struct worker *k)
{
    struct world *w = k->world;
    k->alive = k->ends = false;
    k->life++;
    sim_drop_stage(k);
    sim_disconnect(k);
    sim_at(w, w->now + 100 + sim_random(w, 1500), on_heal, k, KILL);
}

static void on_fault(struct world *w, void *a, uint64_t kind)
{
    struct worker *k = &w->workers[kd_rng_below(&w->rng, (uint32_t)w->n_workers)];
    (void)a;
    if (w->state >= KD_RUN_SUCCEEDED)
        return;
    SAY(w, "fault %d on worker %d", (int)kind, k->index);
    switch ((enum fault)kind) {
    case KILL:
        if (k->alive)
            sim_kill_worker(k);
        break;
    case STOP:
        k->stopped = true;
        sim_at(w, w->now + sim_random(w, 2500), on_heal, k, STOP);
        break;
    case CUT:
        k->cut = true;
        sim_at(w, w->now + sim_random(w, 2500), on_heal, k, CUT);
        break;
    case COORDINATOR:
        if (kd_rng_below(&w->rng, 2))
            w->sums_to_live = 1 + kd_rng_below(&w->rng, 2 * w->cfg.chunks);
        else
            sim_kill_coordinator(w);
        break;
    case POWER:
        if (w->up) {
            sim_kill_coordinator(w);
            cut_journal(w);
            w->power_failed = true;
        }
        break;
    case DRAIN:
        k->ends = kd_rng_below(&w->rng, 2) > 0;
        if (k->member && w->up)
            sim_to_core(w, &(kd_event){.kind = KD_EV_DRAIN, .member = k->member});
        sim_at(w, w->now + sim_random(w, 1500), on_heal, k, DRAIN);
        break;
    case SLOW:
        k->slow = 2 + sim_random(w, 10);
        sim_at(w, w->now + sim_random(w, 3000), on_heal, k, SLOW);
        break;
    case JOIN:
        break;
    }
}

static void on_join(struct world *w, void *a, uint64_t b)
{
    struct worker *k = a;
    (void)b;
    k->alive = true;
    sim_on_connect(w, k, k->life);
}

static void faults(struct world *w, int n, enum fault kind, double until)
{
    for (int i = 0; i < n; i++)
        sim_at(w, 100 + sim_random(w, until), on_fault, NULL, kind);
}

/* ---- the run */

static void print_end(struct world *w)
{
    const kd_sim_config *cfg = &w->cfg;
    if (w->exchange) {
        kd_exchange_look l;
        kd_exchange_look_at(w->exchange, &l);
        printf("coordinator: version %llu%s, %u audits missing%s, units done at",
               (unsigned long long)l.step.version, l.step.whole ? " whole" : "", l.audits,
               l.disputed ? ", disputed" : "");
        for (uint32_t s = 0; s < cfg->slots; s++)
            printf(" %lld", (long long)l.step.done_ms[s]);
        printf("; audited");
        for (uint32_t s = 0; s < cfg->slots; s++)
            if (kd_core_audits(cfg->audit, JOB, 0, l.step.version, s))
                printf(" %u", s);
        printf("\n");
        kd_exchange_look_clear(&l);
    }
    for (int i = 0; i < w->n_workers; i++) {
        const struct worker *k = &w->workers[i];
        char text[600] = "";
        if (k->part)
            kd_part_describe(k->part, text, sizeof text);
        printf(
            "worker %d: alive %d stopped %d cut %d member %llu round_left %d evaluates %llu; %s\n",
            i, k->alive, k->stopped, k->cut, (unsigned long long)k->member, k->round_left,
            (unsigned long long)k->evaluate, text);
    }
}

/* What must be true of a job that is over. */
static void check_end(struct world *w)
{
    if (!w->out->broken && w->state != KD_RUN_SUCCEEDED)
        sim_broken(w, "a job succeeds", "state %d", (int)w->state);
    for (uint64_t v = 2; v <= w->cfg.steps + 1 && !w->out->broken; v++)
        if (sim_border(w, v) && !w->evaluations[v])
            sim_broken(w, "no evaluation is lost", "version %llu", (unsigned long long)v);
    if (!w->out->broken)
        sim_check_vector(w, w->saved[0].vector, w->cfg.steps + 1, "the last checkpoint");
}

static void tear_down(struct world *w)
{
    w->up = false;
    sim_close_exchange(w);
    kd_core_free(w->core);
    kd_actions_clear(&w->actions);
    for (int i = 0; i < w->n_workers; i++)
        if (w->workers[i].state == HOLDS)
            sim_drop_stage(&w->workers[i]);
    sim_world_clear(w);
}

void kd_sim_run(const kd_sim_config *cfg, kd_sim_result *out)
{
    struct world w;
    sim_world_init(&w, cfg, out);
    sim_start_coordinator(&w);
    double busy = 400 + (double)cfg->steps * UNIT_MS *
                            ceil((double)cfg->slots / (cfg->workers * cfg->threads)) * 1.5;
    for (int i = 0; i < w.n_workers; i++) {
        struct worker *k = &w.workers[i];
        *k = (struct worker){.world = &w, .index = i, .life = 1, .slow = 1, .members = 1};
        k->odd = i == cfg->odd_worker;
        if (i == 0 && cfg->slow_worker > 0)
            k->slow = cfg->slow_worker;
        k->digests = kd_xalloc((size_t)cfg->slots * cfg->chunks * sizeof *k->digests);
        double joins = i < cfg->workers ? 1 + sim_random(&w, 5) : 200 + sim_random(&w, busy);
        sim_at(&w, joins, on_join, k, 0);
    }
    faults(&w, cfg->worker_kills, KILL, busy);
    faults(&w, cfg->worker_stops, STOP, busy);
    faults(&w, cfg->partitions, CUT, busy);
    faults(&w, cfg->coordinator_kills, COORDINATOR, busy);
    faults(&w, cfg->power_failures, POWER, busy);
    faults(&w, cfg->drains, DRAIN, busy);
    faults(&w, cfg->slow_starts, SLOW, busy);
    sim_at(&w, TICK_MS, sim_on_tick, NULL, 0);
    while (!out->broken && w.state < KD_RUN_SUCCEEDED) {
        struct event e = sim_next(&w);
        w.now = e.time;
        e.fn(&w, e.a, e.b);
        if (w.now - w.last_progress > 60000 || w.now > LONGEST_MS)
            sim_broken(&w, "a job goes on", "nothing was committed since %.0f ms, version %llu",
                       w.last_progress, (unsigned long long)w.committed);
    }
    if (out->broken && cfg->verbose)
        print_end(&w);
    out->virtual_ms = w.now;
    check_end(&w);
    tear_down(&w);
}
