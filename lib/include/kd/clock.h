/* Time. Durations and deadlines are monotonic milliseconds; the wall clock is for people only. */
#ifndef KD_CLOCK_H
#define KD_CLOCK_H

#include <stdint.h>

typedef int64_t kd_time_ms;

kd_time_ms kd_clock_ms(void);   /* CLOCK_MONOTONIC */
double kd_clock_s(void);        /* the same in seconds, for measuring */
double kd_clock_thread_s(void); /* processor time of the calling thread, in seconds */
int64_t kd_clock_wall_ms(void); /* Unix time */

#define KD_CLOCK_ISO 32
/* Unix milliseconds as 2024-05-01T12:00:00.123Z; 0, or past the year 9999, gives "". Returns out.
 */
char *kd_clock_iso(int64_t ms, char out[KD_CLOCK_ISO]);

#endif
