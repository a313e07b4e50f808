/* Where the elements of a value lie, for operators that run loops of their own over the layouts
 * that convolutions choose. Internal to engine/. */
#ifndef KD_ENGINE_LAYOUT_H
#define KD_ENGINE_LAYOUT_H

#include <dnnl.h>

#include "kd/err.h"

/* Element (n,c,h,w) lies at n*sn + c/block*sc + h*sh + w*sw + c%block, in floats. */
typedef struct kd_layout {
    int64_t n, c, h, w;
    int64_t sn, sc, sh, sw;
    int64_t block; /* channels side by side, 1 = not blocked */
} kd_layout;

/* False if md is of another kind: neither plain nor blocked in the channels alone. */
bool kd_layout_of(const dnnl_memory_desc_t *md, kd_layout *out);
/* Some blocks are filled up with zeros, which must stay zeros. */
static inline bool kd_layout_padded(const kd_layout *l)
{
    return l->c % l->block != 0;
}
static inline int64_t kd_layout_at(const kd_layout *l, int64_t n, int64_t c, int64_t h, int64_t w)
{
    return n * l->sn + c / l->block * l->sc + h * l->sh + w * l->sw + c % l->block;
}

/* Loops over the elements of one value, outermost first, the last one over neighbours in memory
 * (stride 1 in `main`); with up to two more values walked beside it, whose strides are 0 along axes
 * where they have one element. */
enum { KD_WALK_DEPTH = 5 };
typedef struct kd_walk {
    int64_t count[KD_WALK_DEPTH];
    int64_t main[KD_WALK_DEPTH], side[2][KD_WALK_DEPTH];
    int blocks;     /* the loop over channel blocks of which the last is not full, -1 = none */
    int64_t partly; /* elements in that one */
} kd_walk;
/* The two innermost loops of a walk: rows of `len` elements. */
typedef struct kd_plane {
    int64_t rows, len;
    int64_t main, side[2];         /* where the first element lies */
    int64_t main_row, side_row[2]; /* from row to row */
    int64_t step[2];               /* from element to element in the sides; 1 in main */
} kd_plane;

/* main's layout; side k has the plain shape c, h, w of side_shape[k] in channel-height-width order
 * (a side is 1 or main's), or lies exactly as main where same[k]. */
void kd_walk_make(const kd_layout *main, const int64_t side_shape[2][3], const bool same[2],
                  kd_walk *out);
/* All three are one stretch of memory. */
void kd_walk_flat(int64_t floats, kd_walk *out);
void kd_walk_run(const kd_walk *walk, void (*plane)(void *arg, const kd_plane *at), void *arg);

#endif
