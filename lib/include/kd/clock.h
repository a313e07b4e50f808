/* Time. Durations and deadlines are monotonic milliseconds; the wall clock is for people only. */
#ifndef KD_CLOCK_H
#define KD_CLOCK_H

#include <stdint.h>

typedef int64_t kd_time_ms;

kd_time_ms kd_clock_ms(void);   /* CLOCK_MONOTONIC */
double kd_clock_s(void);        /* the same in seconds, for measuring */
int64_t kd_clock_wall_ms(void); /* Unix time */

#endif
