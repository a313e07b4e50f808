/* What the operating system says of this process. Threads: any. */
#ifndef KD_PROCESS_H
#define KD_PROCESS_H

#include <stdint.h>

/* 0 where it cannot be found out. */
typedef struct kd_process_now {
    uint64_t resident_bytes, virtual_bytes;
    uint32_t descriptors, max_descriptors;
    double cpu_seconds; /* user and system */
} kd_process_now;

/* Reads /proc/self; some microseconds, and more with thousands of descriptors. */
kd_process_now kd_process_look(void);

#endif
