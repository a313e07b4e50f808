/* Arithmetic with broadcasting, between computed tensors and with known ones. */
#include "models/onnx_internal.h"

/* One side of an operation: exactly one of the two. */
typedef struct operand {
    const kd_onnx_dyn *d;
    kd_onnx_const *k;
} operand;

static int rank_of(const operand *o)
{
    return o->d ? o->d->rank : o->k->rank;
}

/* Length of axis a of a result with `rank` axes; axes are aligned at their ends. */
static int64_t length_of(const operand *o, int rank, int a)
{
    const int at = a - (rank - rank_of(o));
    return at < 0 ? 1 : o->d ? o->d->dim[at] : o->k->dim[at];
}

/* Rank, dims and batch of the result. */
static int result_shape(kd_onnx_ctx *c, const operand o[2], kd_onnx_dyn *out)
{
    *out = (kd_onnx_dyn){.node = -1, .batch = -1};
    out->rank = KD_MAX(rank_of(&o[0]), rank_of(&o[1]));
    for (int i = 0; i < 2; i++) {
        if (!o[i].d || o[i].d->batch < 0)
            continue;
        const int batch = o[i].d->batch + out->rank - o[i].d->rank;
        if (out->batch >= 0 && out->batch != batch)
            return kd_onnx_fail(c, -KD_EUNSUP, "operands with the batch on different axes");
        out->batch = batch;
    }
    size_t count;
    for (int a = 0; a < out->rank; a++) {
        const int64_t x = length_of(&o[0], out->rank, a), y = length_of(&o[1], out->rank, a);
        if (x != y && x != 1 && y != 1)
            return kd_onnx_fail(c, -KD_EDATA, "operands of lengths %lld and %lld on axis %d",
                                (long long)x, (long long)y, a);
        out->dim[a] = x == 1 ? y : x;
        /* Only one of two computed operands may lack the batch if it is one image's. */
        if (a == out->batch) {
            const int64_t n = o[0].d && o[0].d->batch >= 0 ? x : y;
            if (out->dim[a] != n)
                return kd_onnx_fail(c, -KD_EUNSUP, "a constant makes the batch longer");
        }
    }
    return kd_onnx_count(out->rank, out->dim, &count) && count > 0
               ? 0
               : kd_onnx_fail(c, -KD_ELIMIT, "gives a tensor that is empty or too large");
}

/* Does each group exist as a whole in the operand, or not at all? Constants are made to fit. */
static bool fits(const operand *o, const kd_onnx_dyn *out, const kd_onnx_groups *g)
{
    for (int i = 0; i < 3 && o->d; i++) {
        int whole = 0, none = 0;
        for (int m = 0; m < g->n[i]; m++) {
            const int a = g->axis[i][m];
            if (out->dim[a] != 1)
                *(length_of(o, out->rank, a) == 1 ? &none : &whole) += 1;
        }
        if (whole && none)
            return false;
    }
    return true;
}

/* The groups of an operand as it lies, if it has all of the result's axes. */
static bool from_operand(const kd_onnx_ctx *c, const operand *o, const kd_onnx_dyn *out,
                         kd_onnx_groups *g)
{
    if (!o->d || !kd_onnx_groups_of(c, o->d, g))
        return false;
    for (int a = 0; a < out->rank; a++)
        if (a != out->batch && length_of(o, out->rank, a) != out->dim[a])
            return false;
    for (int i = 0; i < 3; i++)
        for (int m = 0; m < g->n[i]; m++)
            g->axis[i][m] += out->rank - o->d->rank;
    return true;
}

/* Neighbouring axes that the same operands have are one group. */
static int from_runs(kd_onnx_ctx *c, const operand o[2], const kd_onnx_dyn *out, kd_onnx_groups *g)
{
    int at = -1;
    unsigned last = 0;
    *g = (kd_onnx_groups){{0}, {{0}}};
    for (int a = 0; a < out->rank; a++) {
        if (a == out->batch || out->dim[a] == 1)
            continue;
        const unsigned has = (length_of(&o[0], out->rank, a) != 1 ? 1u : 0u) |
                             (length_of(&o[1], out->rank, a) != 1 ? 2u : 0u);
        if (has != last && ++at > 2)
            return kd_onnx_fail(c, -KD_EUNSUP, "broadcasting over more than three axes");
        last = has;
        g->axis[at][g->n[at]++] = a;
    }
    return 0;
}

static int place(kd_onnx_ctx *c, const operand *o, const kd_onnx_dyn *out, const kd_onnx_groups *g,
                 int *out_node)
{
    if (o->k)
        return kd_onnx_const_node(c, o->k, out, g, out_node);
    kd_onnx_groups own = {{0}, {{0}}};
    for (int i = 0; i < 3; i++)
        for (int m = 0; m < g->n[i]; m++) {
            const int a = g->axis[i][m] - (out->rank - o->d->rank);
            if (a >= 0 && o->d->dim[a] != 1)
                own.axis[i][own.n[i]++] = a;
        }
    return kd_onnx_arrange(c, o->d, &own, out_node);
}

/* x * sigmoid(x) and its like are operators of their own, which plans can fold. */
static int find_gate(const kd_onnx_ctx *c, int a, int b)
{
    const kd_node *s = &c->g->nodes[b];
    if (a < 0 || b < 0 || s->in[0] != a)
        return -1;
    if (s->op == KD_OP_SIGMOID)
        return KD_OP_SILU;
    if (s->op == KD_OP_HARD_SIGMOID && s->alpha == 1.0f / 6 && s->beta == 0.5f)
        return KD_OP_HARD_SWISH;
    return -1;
}

static int join(kd_onnx_ctx *c, char op, int a, int b)
{
    if (op == 'M') {
        const int gate = find_gate(c, a, b), other = find_gate(c, b, a);
        const int x = gate >= 0 ? a : b, which = KD_MAX(gate, other);
        if (which >= 0)
            return which == KD_OP_SILU ? kd_graph_silu(c->g, x) : kd_graph_hard_swish(c->g, x);
        return kd_graph_mul(c->g, a, b);
    }
    return op == 'A'   ? kd_graph_add(c->g, a, b)
           : op == 'S' ? kd_graph_sub(c->g, a, b)
                       : kd_graph_div(c->g, a, b);
}

static int binary(kd_onnx_ctx *c, char op, const operand o[2], kd_onnx_dyn *out)
{
    kd_onnx_groups g;
    int node[2], rc = result_shape(c, o, out);
    if (rc)
        return rc;
    const bool easy = (from_operand(c, &o[0], out, &g) && fits(&o[1], out, &g)) ||
                      (from_operand(c, &o[1], out, &g) && fits(&o[0], out, &g));
    if (!easy && (rc = from_runs(c, o, out, &g)))
        return rc;
    if ((rc = place(c, &o[0], out, &g, &node[0])) || (rc = place(c, &o[1], out, &g, &node[1])))
        return rc;
    kd_onnx_settle(out, join(c, op, node[0], node[1]), &g);
    return 0;
}

int kd_onnx_add_const(kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_const *k)
{
    const kd_node *n = &c->g->nodes[KD_MAX(d->node, 0)];
    const operand o[2] = {{.d = d}, {.k = k}};
    kd_onnx_groups g;
    kd_onnx_dyn out;
    int rc = result_shape(c, o, &out);
    if (rc)
        return rc;
    if (kd_node_has_weights(n) && n->bias >= 0 && !kd_onnx_filled(c, n->bias) && !d->shared &&
        k->rank <= d->rank && kd_onnx_groups_of(c, d, &g)) {
        float *values;
        bool same = true;
        for (int a = 0; a < d->rank; a++)
            same &= out.dim[a] == d->dim[a];
        if (same) {
            if ((rc = kd_onnx_channel_values(c, k, d, &g, &values)))
                return rc;
            if (values) {
                rc = kd_onnx_fill_with(c, n->bias, k, values);
                return rc ? rc : kd_onnx_out_dyn(c, 0, d);
            }
        }
    }
    rc = binary(c, 'A', o, &out);
    return rc ? rc : kd_onnx_out_dyn(c, 0, &out);
}

static operand operand_of(const kd_onnx_value *v)
{
    return v->constant ? (operand){.k = v->constant} : (operand){.d = &v->d};
}

int kd_onnx_arithmetic(kd_onnx_ctx *c)
{
    const bool sum = strcmp(c->node->op_type, "Sum") == 0;
    const char op = sum ? 'A' : c->node->op_type[0];
    int rc = kd_onnx_only_attrs(c, "");
    if (!rc && (c->node->n_input < 1 || (!sum && c->node->n_input != 2)))
        rc = kd_onnx_fail(c, -KD_EDATA, "%zu operands", c->node->n_input);
    for (size_t i = 0; !rc && i < c->node->n_input; i++)
        if (!kd_onnx_in(c, i))
            rc = kd_onnx_fail(c, -KD_EDATA, "operand %zu is missing", i);
    if (rc)
        return rc;
    operand o[2] = {operand_of(kd_onnx_in(c, 0))};
    kd_onnx_dyn made;
    if (c->node->n_input == 1 && o[0].d)
        return kd_onnx_out_dyn(c, 0, o[0].d);
    if (c->node->n_input == 2) {
        o[1] = operand_of(kd_onnx_in(c, 1));
        if (op == 'A' && o[0].d && o[1].k)
            return kd_onnx_add_const(c, o[0].d, o[1].k);
        if (op == 'A' && o[0].k && o[1].d)
            return kd_onnx_add_const(c, o[1].d, o[0].k);
    }
    for (size_t i = 1; i < c->node->n_input; i++) {
        o[1] = operand_of(kd_onnx_in(c, i));
        if (o[0].k && o[1].k)
            return kd_onnx_fail(c, -KD_EUNSUP, "a sum that begins with two constants");
        kd_onnx_dyn out;
        if ((rc = binary(c, op, o, &out)))
            return rc;
        made = out;
        o[0] = (operand){.d = &made};
    }
    return o[0].d ? kd_onnx_out_dyn(c, 0, o[0].d)
                  : kd_onnx_fail(c, -KD_EUNSUP, "a sum of one constant");
}
