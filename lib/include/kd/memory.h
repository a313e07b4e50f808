/* How the C library's allocator is set for a daemon that moves chunks. */
#ifndef KD_MEMORY_H
#define KD_MEMORY_H

/* Chunks of up to a megabyte are taken and given back all the time: they stay in the heap, where
 * the allocator would by itself map each anew and have the kernel clear its pages. What is larger
 * is mapped, and goes back when it is freed. Before any thread is started. */
void kd_memory_for_chunks(void);

#endif
