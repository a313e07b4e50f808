/* Room on the disk of the state folder.
 *
 * Below `min_free` bytes nothing is taken that can wait: no sum into a journal, no logits, no
 * upload, no new job. What is kept free is for checkpoints and the database. Others may fill the
 * disk all the same, so a file is kept (distilld.reserve) that gives way when the last byte is gone
 * and is made again when there is room. Threads: the loop's; kd_room_check any. */
#ifndef KD_SERVER_ROOM_H
#define KD_SERVER_ROOM_H

#include "kd/clock.h"
#include "kd/err.h"

typedef struct kd_room {
    char *dir, *reserve; /* reserve: its path */
    uint64_t min_free, reserve_bytes;
    bool reserved;
    bool low;               /* as last told to the log */
    kd_time_ms looked;      /* of the last tick that did something */
    kd_time_ms waits_since; /* for room without which nothing goes on, 0 = no */
} kd_room;

void kd_room_open(kd_room *r, const char *dir, uint64_t min_free);
void kd_room_close(kd_room *r); /* the reserve stays */
/* -KD_ELIMIT with a sentence when fewer than min_free bytes would be left after `bytes` more. */
int kd_room_check(const kd_room *r, uint64_t bytes, kd_diag *diag) KD_MUST_CHECK;
/* Before something that must be written (full: it failed for want of room): gives up the reserve if
 * need be, or waits a little. False when there has been none for too long. arg: the room; a
 * kd_sql.make_room. */
bool kd_room_make(void *arg, bool full);
/* Makes the reserve again, and tells the log when room gets short or comes back. */
void kd_room_tick(kd_room *r, kd_time_ms now);

#endif
