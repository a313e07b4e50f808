#include "meter.h"

#include <stdlib.h>
#include <string.h>

const char *const kd_meter_phases[KD_METER_PHASES] = {"compute", "wait", "release", "apply"};
const double kd_histogram_bounds[KD_HISTOGRAM_BOUNDS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                         1,     2.5,  5,     10,   30,  60};

void kd_histogram_add(kd_histogram *h, double seconds)
{
    size_t i = 0;
    while (i < KD_HISTOGRAM_BOUNDS && seconds > kd_histogram_bounds[i])
        i++;
    h->in[i]++;
    h->sum += seconds;
}

static int by_time(const void *a, const void *b)
{
    kd_time_ms x = *(const kd_time_ms *)a, y = *(const kd_time_ms *)b;
    return (x > y) - (x < y);
}

/* Each mark no earlier than the one before it: what a restart brought back has none of its own. */
static void split(const kd_exchange_course *c, uint32_t slots, kd_time_ms now,
                  double phases[KD_METER_PHASES])
{
    kd_time_ms *sorted = kd_xalloc(slots * sizeof *sorted);
    memcpy(sorted, c->done_ms, slots * sizeof *sorted);
    qsort(sorted, slots, sizeof *sorted, by_time);
    kd_time_ms marks[KD_METER_PHASES] = {sorted[slots / 2], sorted[slots - 1], c->left, now};
    kd_time_ms from = c->since;
    for (int i = 0; i < KD_METER_PHASES; i++) {
        kd_time_ms to = KD_MAX(KD_MIN(marks[i], now), from);
        phases[i] = (double)(to - from) / 1000;
        from = to;
    }
    free(sorted);
}

static void join(kd_meter_point *a, const kd_meter_point *b)
{
    a->step = b->step;
    a->steps += b->steps;
    a->loss += b->loss;
    a->correct += b->correct;
    a->samples += b->samples;
    a->seconds += b->seconds;
    for (int i = 0; i < KD_METER_PHASES; i++)
        a->phases[i] += b->phases[i];
}

static void add_point(kd_meter *m, const kd_meter_point *p)
{
    /* Steps that are computed again. */
    while (m->n_points > 0 && m->points[m->n_points - 1].step >= p->step)
        m->n_points--;
    if (m->next.step >= p->step)
        m->next = (kd_meter_point){0};
    join(&m->next, p);
    m->stride = KD_MAX(m->stride, (uint64_t)1);
    if (m->next.steps < (double)m->stride)
        return;
    m->points[m->n_points++] = m->next;
    m->next = (kd_meter_point){0};
    if (m->n_points < KD_METER_POINTS)
        return;
    for (size_t i = 0; i < KD_METER_POINTS / 2; i++) {
        kd_meter_point two = m->points[2 * i];
        join(&two, &m->points[2 * i + 1]);
        m->points[i] = two;
    }
    m->n_points = KD_METER_POINTS / 2;
    m->stride *= 2;
}

static void count_io(kd_meter *m, const kd_exchange_io *io)
{
    const kd_exchange_io *then = &m->io_then;
    static const kd_exchange_io none;
    if (io->units[KD_UNIT_OK] < then->units[KD_UNIT_OK])
        then = &none; /* another exchange */
    for (int k = 0; k < KD_IO_KINDS; k++) {
        m->io.in[k] += io->in[k] - then->in[k];
        m->io.out[k] += io->out[k] - then->out[k];
    }
    for (int k = 0; k < KD_UNIT_ENDS; k++)
        m->io.units[k] += io->units[k] - then->units[k];
    m->io_then = *io;
}

void kd_meter_step(kd_meter *m, uint64_t version, const kd_step_totals *t,
                   const kd_exchange_course *c, uint32_t slots, kd_time_ms now)
{
    kd_meter_point p = {.step = version - 1,
                        .steps = 1,
                        .loss = t->loss,
                        .correct = t->correct,
                        .samples = t->samples,
                        .seconds = (double)(now - c->since) / 1000};
    split(c, slots, now, p.phases);
    m->steps++;
    m->samples += p.samples;
    m->seconds += p.seconds;
    for (int i = 0; i < KD_METER_PHASES; i++)
        m->phases[i] += p.phases[i];
    kd_histogram_add(&m->step_seconds, p.seconds);
    count_io(m, c->io);
    add_point(m, &p);
}

/* null where there is nothing to divide by */
static json_t *ratio(double a, double b)
{
    return b > 0 ? json_real(a / b) : json_null();
}

static json_t *curve(const kd_meter *m)
{
    static const char *const names[] = {"step", "loss", "accuracy", "samples_per_second",
                                        "step_seconds"};
    json_t *columns[KD_COUNT(names) + KD_METER_PHASES], *o = json_object();
    for (size_t k = 0; k < KD_COUNT(columns); k++)
        (void)json_object_set_new(
            o, k < KD_COUNT(names) ? names[k] : kd_meter_phases[k - KD_COUNT(names)],
            columns[k] = json_array());
    for (size_t i = 0; i < m->n_points; i++) {
        const kd_meter_point *p = &m->points[i];
        (void)json_array_append_new(columns[0], json_integer((json_int_t)p->step));
        (void)json_array_append_new(columns[1], ratio(p->loss, p->samples));
        (void)json_array_append_new(columns[2], ratio(p->correct, p->samples));
        (void)json_array_append_new(columns[3], ratio(p->samples, p->seconds));
        (void)json_array_append_new(columns[4], ratio(p->seconds, p->steps));
        for (size_t k = 0; k < KD_METER_PHASES; k++)
            (void)json_array_append_new(columns[KD_COUNT(names) + k],
                                        ratio(p->phases[k], p->steps));
    }
    return o;
}

json_t *kd_meter_json(const kd_meter *m, const char *name)
{
    json_t *phases = json_object();
    uint64_t in = 0, out = 0;
    for (int i = 0; i < KD_METER_PHASES; i++)
        (void)json_object_set_new(phases, kd_meter_phases[i], json_real(m->phases[i]));
    for (int k = 0; k < KD_IO_KINDS; k++) {
        in += m->io.in[k];
        out += m->io.out[k];
    }
    return json_pack("{s:s, s:I, s:f, s:f, s:o, s:I, s:I, s:I, s:o}", "name", name, "steps",
                     (json_int_t)m->steps, "samples", m->samples, "seconds", m->seconds, "phases",
                     phases, "bytes_in", (json_int_t)in, "bytes_out", (json_int_t)out, "stride",
                     (json_int_t)KD_MAX(m->stride, (uint64_t)1), "curve", curve(m));
}
