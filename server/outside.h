/* Teachers outside. Workers connect to what a job names, from where they are: only to what the
 * coordinator's administrator has named, too (the setting outside_teachers). Any thread. */
#ifndef KD_SERVER_OUTSIDE_H
#define KD_SERVER_OUTSIDE_H

#include "job/job.h"

/* Address of the job's first teacher that the list does not name, NULL = none; it is the job's.
 * list: "HOST:PORT, ...", NULL or "" permits nobody. */
const char *kd_outside_forbidden(const char *list, const kd_job *job);

#endif
