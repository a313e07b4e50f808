#include "engine/layout.h"

#include <string.h>

bool kd_layout_of(const dnnl_memory_desc_t *md, kd_layout *out)
{
    if (md->ndims != 4 || md->format_kind != dnnl_blocked || md->offset0 != 0)
        return false;
    const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
    if (b->inner_nblks > 1 || (b->inner_nblks == 1 && b->inner_idxs[0] != 1))
        return false;
    *out = (kd_layout){.n = md->dims[0],
                       .c = md->dims[1],
                       .h = md->dims[2],
                       .w = md->dims[3],
                       .sn = b->strides[0],
                       .sc = b->strides[1],
                       .sh = b->strides[2],
                       .sw = b->strides[3],
                       .block = b->inner_nblks ? b->inner_blks[0] : 1};
    const int64_t padded = (out->c + out->block - 1) / out->block * out->block;
    return md->padded_dims[0] == out->n && md->padded_dims[1] == padded &&
           md->padded_dims[2] == out->h && md->padded_dims[3] == out->w;
}

typedef struct {
    int64_t count, main, side[2];
    bool blocks; /* the loop over blocks of which one is not full */
    bool alone;  /* that one and the one within blocks */
} loop;

/* Neighbouring loops of which the outer goes on where the inner ends, in all three values. */
static bool one_loop(const loop *outer, const loop *inner)
{
    return !outer->alone && !inner->alone && outer->main == inner->main * inner->count &&
           outer->side[0] == inner->side[0] * inner->count &&
           outer->side[1] == inner->side[1] * inner->count;
}

void kd_walk_make(const kd_layout *m, const int64_t side_shape[2][3], const bool same[2],
                  kd_walk *out)
{
    const bool padded = kd_layout_padded(m);
    loop loops[KD_WALK_DEPTH] = {{.count = m->n, .main = m->sn},
                                 {.count = (m->c + m->block - 1) / m->block,
                                  .main = m->sc,
                                  .blocks = padded,
                                  .alone = padded},
                                 {.count = m->h, .main = m->sh},
                                 {.count = m->w, .main = m->sw},
                                 {.count = m->block, .main = 1, .alone = padded}};
    for (int k = 0; k < 2; k++) {
        const int64_t c = side_shape[k][0], h = side_shape[k][1], w = side_shape[k][2];
        const int64_t channel = c == 1 ? 0 : h * w;
        const int64_t strides[] = {c * h * w, channel * m->block, h == 1 ? 0 : w, w == 1 ? 0 : 1,
                                   channel};
        for (int i = 0; i < KD_WALK_DEPTH; i++)
            loops[i].side[k] = same[k] ? loops[i].main : strides[i];
    }
    /* By falling stride in main; loops of one step go outermost. The loop within blocks stays
     * last. */
    int n = 0;
    loop order[KD_WALK_DEPTH];
    for (int i = 0; i < KD_WALK_DEPTH; i++) {
        if (loops[i].count == 1 && !loops[i].blocks)
            continue;
        int at = n++;
        for (; at > 0 && order[at - 1].main < loops[i].main; at--)
            order[at] = order[at - 1];
        order[at] = loops[i];
    }
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (kept > 0 && one_loop(&order[kept - 1], &order[i])) {
            const int64_t count = order[kept - 1].count * order[i].count;
            order[kept - 1] = order[i];
            order[kept - 1].count = count;
        } else {
            order[kept++] = order[i];
        }
    }
    memset(out, 0, sizeof *out);
    out->blocks = -1;
    out->partly = m->c % m->block;
    for (int i = 0; i < KD_WALK_DEPTH; i++) {
        const int from = i - (KD_WALK_DEPTH - kept);
        out->count[i] = from < 0 ? 1 : order[from].count;
        if (from < 0)
            continue;
        out->main[i] = order[from].main;
        out->side[0][i] = order[from].side[0];
        out->side[1][i] = order[from].side[1];
        if (order[from].blocks)
            out->blocks = i;
    }
}

void kd_walk_flat(int64_t floats, kd_walk *out)
{
    *out = (kd_walk){.count = {1, 1, 1, 1, floats}, .blocks = -1};
    out->main[4] = out->side[0][4] = out->side[1][4] = 1;
}

void kd_walk_run(const kd_walk *walk, void (*plane)(void *arg, const kd_plane *at), void *arg)
{
    const bool row_by_row = walk->blocks == 3;
    const int64_t rows = row_by_row ? 1 : walk->count[3];
    kd_plane at = {.rows = rows, .len = walk->count[4], .main_row = walk->main[3]};
    for (int k = 0; k < 2; k++) {
        at.side_row[k] = walk->side[k][3];
        at.step[k] = walk->side[k][4];
    }
    int64_t i[4] = {0};
    for (i[0] = 0; i[0] < walk->count[0]; i[0]++)
        for (i[1] = 0; i[1] < walk->count[1]; i[1]++)
            for (i[2] = 0; i[2] < walk->count[2]; i[2]++)
                for (i[3] = 0; i[3] < walk->count[3]; i[3] += rows) {
                    at.main = at.side[0] = at.side[1] = 0;
                    for (int d = 0; d < 4; d++) {
                        at.main += i[d] * walk->main[d];
                        at.side[0] += i[d] * walk->side[0][d];
                        at.side[1] += i[d] * walk->side[1][d];
                    }
                    if (walk->blocks >= 0)
                        at.len = i[walk->blocks] == walk->count[walk->blocks] - 1 ? walk->partly
                                                                                  : walk->count[4];
                    plane(arg, &at);
                }
}
