/* Plans of 8-bit values: which values and convolutions. */
#include <math.h>
#include <string.h>

#include "engine/op.h"
#include "engine/ops/conv.h"

/* A value that an 8-bit convolution or the input gives and that only such convolutions read. */
static bool stays_int8(const kd_plan *p, int value)
{
    const kd_value *v = &p->values[value];
    if (v->producer < 0 || value == p->output)
        return false;
    const kd_task *from = &p->tasks[v->producer];
    bool all = from->int8 || p->graph->nodes[from->node].op == KD_OP_INPUT;
    for (int i = 0; i < p->n_tasks && all; i++)
        all = !kd_task_reads(&p->tasks[i], value) || p->tasks[i].int8;
    return all && v->last_use >= 0;
}

void kd_plan_choose_int8(kd_plan *p, const float *largest, bool edges)
{
    for (int i = 0; i < p->n_tasks; i++) {
        kd_task *t = &p->tasks[i];
        const enum kd_op act = t->act >= 0 ? p->graph->nodes[t->act].op : KD_OP_INPUT;
        kd_value *v = &p->values[t->result];
        t->int8 = kd_conv_int8_fits(p, t);
        v->positive = (t->int8 || edges) && (act == KD_OP_RELU || act == KD_OP_RELU6);
        v->scale = largest[t->result] / (v->positive ? 255 : 127);
        if (!(v->scale > 0) || !isfinite(v->scale))
            v->scale = 0;
        v->edge = edges ? v->scale : 0;
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (int i = 0; i < p->n_tasks; i++) {
            kd_task *t = &p->tasks[i];
            kd_value *v = &p->values[t->result];
            kd_value *r = t->residual >= 0 ? &p->values[t->residual] : NULL;
            if (v->scale > 0 && !stays_int8(p, t->result)) {
                v->scale = 0;
                changed = true;
            }
            /* The residual is summed in the result's place, so both have one size. */
            if (edges && t->int8 && r && (r->scale > 0) != (v->scale > 0)) {
                r->scale = v->scale = 0;
                changed = true;
            }
            const bool may = t->int8 && kd_int8_unit(&p->values[t->in[0]]) > 0 &&
                             (!r || edges || (r->scale > 0 && v->scale > 0));
            changed = changed || may != t->int8;
            t->int8 = may;
        }
    }
    for (int i = 0; i < p->n_tasks; i++)
        p->tasks[i].int8_vnni = p->tasks[i].int8 && kd_conv_vnni_fits(p, &p->tasks[i]);
}

int kd_plan_int8_tasks(const kd_plan *p)
{
    int n = 0;
    for (int i = 0; i < p->n_tasks; i++)
        n += p->tasks[i].int8;
    return n;
}

void kd_plan_int8_nodes(const kd_plan *p, kd_int8_node *out)
{
    memset(out, 0, (size_t)p->graph->n_nodes * sizeof *out);
    for (int i = 0; i < p->n_tasks; i++) {
        const kd_task *t = &p->tasks[i];
        if (!t->int8)
            continue;
        out[t->node].conv = true;
        for (int k = 0; k < 3; k++) {
            const int at = k == 0 ? t->in[0] : k == 1 ? t->result : t->residual;
            const kd_value *v = at >= 0 ? &p->values[at] : NULL;
            if (!v || (k > 0 && !(v->scale > 0)))
                continue;
            out[at] = (kd_int8_node){.conv = out[at].conv,
                                     .stored = v->scale > 0,
                                     .unit = kd_int8_unit(v),
                                     .positive = v->positive};
        }
    }
}
