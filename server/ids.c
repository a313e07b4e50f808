#include "ids.h"

#include "kd/err.h"

#include <stdbool.h>
#include <stdlib.h>

/* Ids are random or count up; multiplied by 2^64 / golden ratio both spread (Knuth, TAOCP vol. 3,
 * section 6.4). */
static size_t home(const kd_ids *t, uint64_t id)
{
    return (size_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (t->cap - 1);
}

static size_t place(const kd_ids *t, uint64_t id)
{
    size_t i = home(t, id);
    while (t->entries[i].id != 0 && t->entries[i].id != id)
        i = (i + 1) & (t->cap - 1);
    return i;
}

void kd_ids_clear(kd_ids *t)
{
    free(t->entries);
    *t = (kd_ids){0};
}

static void grow(kd_ids *t)
{
    kd_ids bigger = {.n = t->n, .cap = t->cap ? 2 * t->cap : 16};
    bigger.entries = kd_xalloc(bigger.cap * sizeof *bigger.entries);
    for (size_t i = 0; i < t->cap; i++)
        if (t->entries[i].id != 0)
            bigger.entries[place(&bigger, t->entries[i].id)] = t->entries[i];
    free(t->entries);
    *t = bigger;
}

void kd_ids_add(kd_ids *t, uint64_t id, void *value)
{
    KD_BUG_ON(id == 0);
    if (2 * (t->n + 1) > t->cap)
        grow(t);
    size_t i = place(t, id);
    KD_BUG_ON(t->entries[i].id != 0);
    t->entries[i] = (struct kd_ids_entry){id, value};
    t->n++;
}

void kd_ids_remove(kd_ids *t, uint64_t id)
{
    size_t hole = t->cap ? place(t, id) : 0;
    if (t->cap == 0 || t->entries[hole].id == 0)
        return;
    t->n--;
    /* Those behind it move up, if their home is not between the hole and them: then nobody's search
     * ends too early. */
    for (size_t i = (hole + 1) & (t->cap - 1); t->entries[i].id != 0; i = (i + 1) & (t->cap - 1)) {
        size_t way = (i - home(t, t->entries[i].id)) & (t->cap - 1);
        size_t back = (i - hole) & (t->cap - 1);
        if (way < back)
            continue;
        t->entries[hole] = t->entries[i];
        hole = i;
    }
    t->entries[hole] = (struct kd_ids_entry){0};
}

void *kd_ids_find(const kd_ids *t, uint64_t id)
{
    if (t->cap == 0 || id == 0)
        return NULL;
    const struct kd_ids_entry *e = &t->entries[place(t, id)];
    return e->id == id ? e->value : NULL;
}
