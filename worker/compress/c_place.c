#include "compress/c_internal.h"

#include "engine/op.h"

#include <stdio.h>
#include <stdlib.h>

static size_t floats_of(const kd_node *n)
{
    return (size_t)n->h * (size_t)n->w * (size_t)n->c;
}

static int only_user(const c_writer *w, int node, enum kd_op *out_op)
{
    if (w->places[node].uses != 1 || node == w->g->output)
        return -1;
    for (int i = node + 1; i < w->g->n_nodes; i++)
        if (w->g->nodes[i].in[0] == node || w->g->nodes[i].in[1] == node) {
            *out_op = w->g->nodes[i].op;
            return i;
        }
    return -1;
}

/* A convolution, perhaps an activation, and a max pool whose windows do not overlap: nothing is
 * computed twice when each window is filled by itself. */
static void find_pools(c_writer *w)
{
    for (int i = 1; i < w->g->n_nodes; i++) {
        enum kd_op op;
        if (w->g->nodes[i].op != KD_OP_CONV)
            continue;
        int next = only_user(w, i, &op), act = -1;
        if (next >= 0 && kd_act_is(op)) {
            act = next;
            next = only_user(w, act, &op);
        }
        const kd_node *pool = next >= 0 && op == KD_OP_MAX_POOL ? &w->g->nodes[next] : NULL;
        if (!pool || pool->stride_h < pool->kernel_h || pool->stride_w < pool->kernel_w)
            continue;
        w->places[i].inside = true;
        if (act >= 0)
            w->places[act].inside = true;
        w->places[next].pool_of = i;
        w->places[next].act_of = act;
    }
}

/* Values that are computed where their input lies. */
static bool in_place(const c_writer *w, int at)
{
    const kd_node *n = &w->g->nodes[at], *in = n->in[0] >= 0 ? &w->g->nodes[n->in[0]] : NULL;
    const c_place *p = in ? &w->places[n->in[0]] : NULL;
    if (in && (n->op == KD_OP_FLATTEN || n->op == KD_OP_RESHAPE) &&
        (in->h * in->w == 1 || in->c == 1) && (n->op == KD_OP_FLATTEN || n->h * n->w == 1))
        return true;
    return in && kd_act_is(n->op) && p->uses == 1 && !p->shared && p->root != 0 &&
           w->g->nodes[p->root].op != KD_OP_CONST;
}

static void find_roots(c_writer *w)
{
    const kd_graph *g = w->g;
    for (int i = 0; i < g->n_nodes; i++) {
        c_place *p = &w->places[i];
        const kd_node *n = &g->nodes[i];
        if (p->inside)
            continue;
        p->root = i;
        if (i > 0 && in_place(w, i)) {
            const c_place *in = &w->places[n->in[0]];
            p->root = in->root;
            p->shared = in->shared || in->uses > 1;
        }
        p->floats = floats_of(n);
        p->first = p->last = i;
        for (int k = 0; k < 2; k++) {
            const int from = p->pool_of >= 0 ? g->nodes[p->pool_of].in[0] : n->in[k];
            if (from >= 0)
                w->places[w->places[from].root].last = i;
        }
        w->places[p->root].last = i;
    }
    w->places[w->places[g->output].root].last = g->n_nodes;
}

static int by_size(const void *a, const void *b)
{
    const c_place *x = *(const c_place *const *)a, *y = *(const c_place *const *)b;
    if (x->floats != y->floats)
        return x->floats < y->floats ? 1 : -1;
    return x < y ? -1 : x > y;
}

/* Largest first, each into the lowest gap between those in use at the same time. */
static void lay_out(c_writer *w, c_place **order, size_t n)
{
    qsort(order, n, sizeof *order, by_size);
    for (size_t i = 0; i < n; i++) {
        c_place *p = order[i];
        p->offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t k = 0; k < i; k++) {
                const c_place *o = order[k];
                const bool apart = o->last < p->first || p->last < o->first ||
                                   o->offset + o->floats <= p->offset ||
                                   p->offset + p->floats <= o->offset;
                if (!apart) {
                    p->offset = o->offset + o->floats;
                    moved = true;
                }
            }
        }
        w->memory = KD_MAX(w->memory, p->offset + p->floats);
    }
}

int kd_c_place(c_writer *w, bool with_input, kd_diag *diag)
{
    const kd_graph *g = w->g;
    c_place **order = calloc((size_t)g->n_nodes, sizeof *order);
    size_t n = 0;
    if (!order)
        return kd_fail(diag, -KD_ENOMEM, "no memory for writing a network as C");
    for (int i = 0; i < g->n_nodes; i++) {
        w->places[i].pool_of = w->places[i].act_of = -1;
        for (int k = 0; k < 2; k++)
            if (g->nodes[i].in[k] >= 0)
                w->places[g->nodes[i].in[k]].uses++;
    }
    w->places[g->output].uses++;
    find_pools(w);
    find_roots(w);
    for (int i = with_input ? 0 : 1; i < g->n_nodes; i++)
        if (!w->places[i].inside && w->places[i].root == i && g->nodes[i].op != KD_OP_CONST)
            order[n++] = &w->places[i];
    lay_out(w, order, n);
    free(order);
    return 0;
}

void kd_c_value(const c_writer *w, int node, char *out, size_t size)
{
    const int root = w->places[node].root;
    if (root == 0)
        snprintf(out, size, "input");
    else if (w->g->nodes[root].op == KD_OP_CONST)
        snprintf(out, size, "value%d", root);
    else
        snprintf(out, size, "memory + %zuL", w->places[root].offset);
}
