/* Where the axes of computed tensors lie. A transpose or reshape of the model costs nothing by
 * itself: it only changes what is known about a node's values. When an operator needs its axes in
 * certain places, the values are moved, in the fewest steps that three axes allow. */
#include "models/onnx_internal.h"

#include <stdlib.h>

static void sides(const kd_onnx_ctx *c, int node, int64_t out[3])
{
    const kd_node *n = &c->g->nodes[node];
    out[KD_AXIS_C] = n->c;
    out[KD_AXIS_H] = n->h;
    out[KD_AXIS_W] = n->w;
}

static bool same3(const int64_t a[3], const int64_t b[3])
{
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

int64_t kd_onnx_group_size(const int64_t *dim, const kd_onnx_groups *g, int which)
{
    int64_t size = 1;
    for (int i = 0; i < g->n[which]; i++)
        size *= dim[g->axis[which][i]];
    return size;
}

kd_onnx_groups kd_onnx_group3(int c, int h, int w)
{
    kd_onnx_groups g = {{0}, {{0}}};
    const int axes[3] = {c, h, w};
    for (int i = 0; i < 3; i++)
        if (axes[i] >= 0)
            g.axis[i][g.n[i]++] = axes[i];
    return g;
}

void kd_onnx_settle(kd_onnx_dyn *out, int node, const kd_onnx_groups *groups)
{
    out->node = node;
    out->n_order = 0;
    out->shared = false;
    for (int g = 0; g < 3; g++)
        for (int i = 0; i < groups->n[g]; i++)
            if (out->dim[groups->axis[g][i]] != 1)
                out->order[out->n_order++] = groups->axis[g][i];
}

/* ---- moving values */

/* An older node that does the same, -1 = none: joins of many tensors would repeat each other. */
static int find_like(const kd_onnx_ctx *c, enum kd_op op, int in, const int64_t side[3],
                     const enum kd_axis *of)
{
    for (int i = in + 1; i < c->g->n_nodes; i++) {
        const kd_node *n = &c->g->nodes[i];
        int64_t have[3];
        sides(c, i, have);
        if (n->op == op && n->in[0] == in && same3(have, side) &&
            (!of || memcmp(of, n->of, sizeof n->of) == 0))
            return i;
    }
    return -1;
}

static int reshape_to(kd_onnx_ctx *c, int node, const int64_t side[3])
{
    int64_t have[3];
    while (node > 0 &&
           (c->g->nodes[node].op == KD_OP_RESHAPE || c->g->nodes[node].op == KD_OP_FLATTEN)) {
        sides(c, node, have);
        if (same3(have, side))
            return node;
        node = c->g->nodes[node].in[0];
    }
    sides(c, node, have);
    if (same3(have, side))
        return node;
    const bool flat = side[1] == 1 && side[2] == 1;
    int old = find_like(c, flat ? KD_OP_FLATTEN : KD_OP_RESHAPE, node, side, NULL);
    if (old >= 0)
        return old;
    if (flat)
        return kd_graph_flatten(c->g, node);
    return kd_graph_reshape(c->g, node, (int)side[1], (int)side[2], (int)side[0]);
}

static const enum kd_axis g_perms[6][3] = {
    {KD_AXIS_C, KD_AXIS_H, KD_AXIS_W}, {KD_AXIS_C, KD_AXIS_W, KD_AXIS_H},
    {KD_AXIS_H, KD_AXIS_C, KD_AXIS_W}, {KD_AXIS_H, KD_AXIS_W, KD_AXIS_C},
    {KD_AXIS_W, KD_AXIS_C, KD_AXIS_H}, {KD_AXIS_W, KD_AXIS_H, KD_AXIS_C},
};

/* Neighbours in d->order that stay neighbours in `want` move as one block. */
typedef struct blocks {
    int n;
    int64_t size[KD_ONNX_MAX_RANK];
    int rank[KD_ONNX_MAX_RANK]; /* place of the block in the wanted order */
} blocks;

static blocks blocks_of(const kd_onnx_dyn *d, const int *want)
{
    blocks b = {0};
    int first[KD_ONNX_MAX_RANK] = {0}, last = -2;
    for (int i = 0; i < d->n_order; i++) {
        int at = 0;
        while (want[at] != d->order[i])
            at++;
        if (at != last + 1) {
            b.size[b.n] = 1;
            first[b.n++] = at;
        }
        b.size[b.n - 1] *= d->dim[d->order[i]];
        last = at;
    }
    for (int i = 0; i < b.n; i++)
        for (int k = 0; k < b.n; k++)
            b.rank[i] += first[k] < first[i];
    return b;
}

/* Lays two or three blocks onto c, h and w (at[axis] = block or -1), as they lie if possible. */
static void place(const kd_onnx_ctx *c, const blocks *b, int node, int at[3])
{
    static const int two[3][3] = {{0, 1, -1}, {0, -1, 1}, {-1, 0, 1}};
    static const int three[3] = {0, 1, 2};
    int64_t have[3];
    sides(c, node, have);
    memcpy(at, b->n == 3 ? three : two[0], 3 * sizeof *at);
    for (int i = 0; b->n == 2 && i < 3; i++) {
        bool same = true;
        for (int k = 0; k < 3; k++)
            same &= have[k] == (two[i][k] < 0 ? 1 : b->size[two[i][k]]);
        if (same)
            memcpy(at, two[i], 3 * sizeof *at);
    }
}

/* A node whose values are in the order `want`; its sides are `side` if a permutation can give them.
 */
static int permute_to(kd_onnx_ctx *c, const kd_onnx_dyn *d, const int *want, const int64_t side[3])
{
    const blocks b = blocks_of(d, want);
    if (b.n < 2)
        return d->node;
    if (b.n > 3) {
        kd_onnx_fail(c, -KD_EUNSUP, "axes are reordered in a way that takes more than three");
        return -1;
    }
    int at[3];
    place(c, &b, d->node, at);
    int64_t lie[3];
    for (int i = 0; i < 3; i++)
        lie[i] = at[i] < 0 ? 1 : b.size[at[i]];
    int node = reshape_to(c, d->node, lie), best = -1;
    if (node < 0)
        return -1;
    int64_t becomes[3] = {1, 1, 1};
    for (int p = 0; p < 6; p++) {
        int next = 0;
        bool fits = true;
        int64_t gives[3];
        for (int i = 0; i < 3; i++) {
            int block = at[g_perms[p][i]];
            gives[i] = lie[g_perms[p][i]];
            if (block >= 0)
                fits &= b.rank[block] == next++;
        }
        if (fits && (best < 0 || same3(gives, side))) {
            best = p;
            memcpy(becomes, gives, sizeof becomes);
        }
    }
    int old = find_like(c, KD_OP_PERMUTE, node, becomes, g_perms[best]);
    return old >= 0 ? old : kd_graph_permute(c->g, node, g_perms[best]);
}

/* A builder's error becomes ours. */
static int checked(kd_onnx_ctx *c, int node, int *out_node)
{
    if (node < 0)
        return c->g->error[0] ? kd_onnx_fail(c, -KD_EDATA, "%s", c->g->error) : -KD_EUNSUP;
    *out_node = node;
    return 0;
}

int kd_onnx_arrange(kd_onnx_ctx *c, const kd_onnx_dyn *d, const kd_onnx_groups *want, int *out_node)
{
    int order[KD_ONNX_MAX_RANK], n = 0;
    int64_t side[3];
    for (int g = 0; g < 3; g++) {
        side[g] = kd_onnx_group_size(d->dim, want, g);
        for (int i = 0; i < want->n[g]; i++)
            if (d->dim[want->axis[g][i]] != 1)
                order[n++] = want->axis[g][i];
    }
    KD_BUG_ON(n != d->n_order);
    int node = permute_to(c, d, order, side);
    return checked(c, node < 0 ? node : reshape_to(c, node, side), out_node);
}

int kd_onnx_straighten(kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_dyn *out)
{
    int order[KD_ONNX_MAX_RANK], n = 0;
    if (d->batch > 0)
        return kd_onnx_fail(c, -KD_EUNSUP, "the batch has been moved from the first axis");
    for (int a = 0; a < d->rank; a++)
        if (a != d->batch && d->dim[a] != 1)
            order[n++] = a;
    const int64_t any[3] = {0, 0, 0};
    *out = *d;
    memcpy(out->order, order, (size_t)n * sizeof *order);
    int rc = checked(c, permute_to(c, d, order, any), &out->node);
    if (!rc && out->node != d->node)
        out->shared = false;
    return rc;
}

/* ---- choosing groups */

bool kd_onnx_groups_of(const kd_onnx_ctx *c, const kd_onnx_dyn *d, kd_onnx_groups *out)
{
    int64_t side[3];
    sides(c, d->node, side);
    kd_onnx_groups g = {{0}, {{0}}};
    int next = 0;
    for (int i = 0; i < 3; i++) {
        int64_t size = 1;
        while (size < side[i] && next < d->n_order) {
            size *= d->dim[d->order[next]];
            g.axis[i][g.n[i]++] = d->order[next++];
        }
        if (size != side[i])
            return false;
    }
    *out = g;
    return next == d->n_order;
}

/* The groups as they lie, with those of `alone` by themselves. */
static bool alone_as_it_lies(const kd_onnx_ctx *c, const kd_onnx_dyn *d, const bool *alone,
                             kd_onnx_groups *out)
{
    if (!kd_onnx_groups_of(c, d, out))
        return false;
    for (int a = 0; a < d->rank; a++) {
        int home = -1, empty = -1;
        for (int g = 0; g < 3; g++) {
            if (!out->n[g] && empty < 0)
                empty = g;
            for (int i = 0; i < out->n[g]; i++)
                if (out->axis[g][i] == a)
                    home = g;
        }
        if (!alone[a])
            continue;
        if (home < 0 && empty < 0)
            return false;
        if (home < 0)
            out->axis[empty][out->n[empty]++] = a;
        else if (out->n[home] != 1)
            return false;
    }
    return true;
}

int kd_onnx_groups_alone(kd_onnx_ctx *c, const kd_onnx_dyn *d, const bool *alone,
                         kd_onnx_groups *out)
{
    if (alone_as_it_lies(c, d, alone, out))
        return 0;
    kd_onnx_groups g = {{0}, {{0}}};
    int at = -1;
    bool open = false; /* the last group takes further axes */
    for (int a = 0; a < d->rank; a++) {
        if (a == d->batch || (d->dim[a] == 1 && !alone[a]))
            continue;
        if (alone[a] || !open) {
            if (++at > 2)
                return kd_onnx_fail(c, -KD_EUNSUP,
                                    "works on axes that cannot be brought into three");
        }
        g.axis[at][g.n[at]++] = a;
        open = !alone[a];
    }
    *out = g;
    return 0;
}

void kd_onnx_groups_channel(const kd_onnx_ctx *c, const kd_onnx_dyn *d, int axis,
                            kd_onnx_groups *out)
{
    kd_onnx_groups g = {{0}, {{0}}};
    const bool lies = kd_onnx_groups_of(c, d, &g);
    if (lies && (d->dim[axis] == 1 ? g.n[0] == 0 : g.n[0] == 1 && g.axis[0][0] == axis)) {
        *out = g;
        return;
    }
    *out = kd_onnx_group3(axis, -1, -1);
    for (int a = 0; a < d->rank; a++)
        if (a != axis && a != d->batch && d->dim[a] != 1)
            out->axis[1][out->n[1]++] = a;
}

void kd_onnx_remap(kd_onnx_dyn *d, int rank, const int *from)
{
    const kd_onnx_dyn old = *d;
    d->rank = rank;
    d->batch = -1;
    d->n_order = 0;
    for (int a = 0; a < rank; a++) {
        d->dim[a] = from[a] < 0 ? 1 : old.dim[from[a]];
        if (old.batch >= 0 && from[a] == old.batch)
            d->batch = a;
    }
    for (int i = 0; i < old.n_order; i++)
        for (int a = 0; a < rank; a++)
            if (from[a] == old.order[i])
                d->order[d->n_order++] = a;
}

/* ---- known tensors among computed ones */

/* Length of axis a of `like` in k, whose axes are aligned at their ends; 0 = does not fit. */
static int64_t aligned(const kd_onnx_const *k, const kd_onnx_dyn *like, int a)
{
    int at = a - (like->rank - k->rank);
    int64_t n = at < 0 ? 1 : k->dim[at];
    return n == 1 || n == like->dim[a] ? n : 0;
}

/* Does every image get the same? */
static bool same_for_all(const kd_onnx_const *k, const kd_onnx_dyn *like, size_t stride)
{
    int at = like->batch - (like->rank - k->rank);
    if (like->batch < 0 || at < 0 || k->dim[at] == 1)
        return true;
    for (size_t i = 0; i < k->count; i++) {
        size_t first = i - (i / stride % (size_t)k->dim[at]) * stride;
        if (k->integer ? k->i[i] != k->i[first] : memcmp(&k->f[i], &k->f[first], sizeof *k->f) != 0)
            return false;
    }
    return true;
}

static int spread(kd_onnx_ctx *c, kd_onnx_const *k, const kd_onnx_dyn *like,
                  const kd_onnx_groups *groups, int64_t side[3], float **out)
{
    size_t stride[KD_ONNX_MAX_RANK] = {0}, step = 1, batch = 1;
    int rc = kd_onnx_const_load(c, k);
    if (rc)
        return rc;
    if (k->rank > like->rank)
        return kd_onnx_fail(c, -KD_EUNSUP, "a constant (%s) with more axes than what it meets",
                            k->name);
    for (int a = like->rank - 1; a >= 0; a--) {
        int64_t n = aligned(k, like, a);
        if (n == 0)
            return kd_onnx_fail(c, -KD_EDATA, "the constant %s does not fit axis %d of length %lld",
                                k->name, a, (long long)like->dim[a]);
        if (a == like->batch)
            batch = step;
        stride[a] = n == 1 ? 0 : step;
        step *= (size_t)n;
    }
    if (!same_for_all(k, like, batch))
        return kd_onnx_fail(c, -KD_EUNSUP, "the constant %s differs along the batch", k->name);
    size_t count = 1;
    for (int g = 0; g < 3; g++) {
        bool whole = false;
        for (int i = 0; i < groups->n[g]; i++)
            whole |= stride[groups->axis[g][i]] != 0;
        side[g] = whole ? kd_onnx_group_size(like->dim, groups, g) : 1;
        count *= (size_t)side[g];
    }
    if (!kd_onnx_fold_take(c, count, sizeof(float)))
        return kd_onnx_fail(c, -KD_ELIMIT, "the constant %s is too large", k->name);
    float *v = malloc(count * sizeof *v);
    if (!v)
        return kd_onnx_no_memory(c);
    for (size_t i = 0; i < count; i++) {
        size_t rest = i, from = 0;
        for (int g = 2; g >= 0; g--) {
            size_t at = rest % (size_t)side[g];
            rest /= (size_t)side[g];
            for (int m = groups->n[g] - 1; m >= 0 && side[g] > 1; m--) {
                int a = groups->axis[g][m];
                from += at % (size_t)like->dim[a] * stride[a];
                at /= (size_t)like->dim[a];
            }
        }
        v[i] = k->integer ? (float)k->i[from] : k->f[from];
    }
    *out = v;
    return 0;
}

int kd_onnx_const_node(kd_onnx_ctx *c, kd_onnx_const *k, const kd_onnx_dyn *like,
                       const kd_onnx_groups *groups, int *out_node)
{
    int64_t side[3];
    float *values;
    char name[80];
    int rc = spread(c, k, like, groups, side, &values);
    if (rc)
        return rc;
    kd_onnx_name(c, k, name);
    int node = kd_graph_const(c->g, name, (int)side[1], (int)side[2], (int)side[0], KD_INIT_ZERO);
    rc = kd_onnx_fill_with(c, node < 0 ? -1 : c->g->nodes[node].weight, k, values);
    if (!rc)
        *out_node = node;
    return rc;
}

int kd_onnx_channel_values(kd_onnx_ctx *c, kd_onnx_const *k, const kd_onnx_dyn *like,
                           const kd_onnx_groups *groups, float **out)
{
    int64_t side[3];
    float *values;
    int rc = spread(c, k, like, groups, side, &values);
    if (rc)
        return rc;
    const int64_t n = kd_onnx_group_size(like->dim, groups, 0);
    *out = NULL;
    if (side[1] == 1 && side[2] == 1 && side[0] == n)
        *out = values;
    else
        free(values);
    return 0;
}
