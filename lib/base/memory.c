#include "kd/memory.h"

#include <malloc.h>

void kd_memory_for_chunks(void)
{
    mallopt(M_MMAP_THRESHOLD, 4 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
}
