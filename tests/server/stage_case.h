/* The stage of the tests of sums: its vector in chunks, of which the last is shorter. */
#ifndef KD_TESTS_STAGE_CASE_H
#define KD_TESTS_STAGE_CASE_H

#include <stddef.h>
#include <stdint.h>

#define CHUNKS 3
#define CHUNK_FLOATS 4
#define FLOATS 10

static inline size_t len_of(uint32_t chunk)
{
    return chunk == CHUNKS - 1 ? FLOATS - (CHUNKS - 1) * CHUNK_FLOATS : CHUNK_FLOATS;
}

#endif
