/* Where a run's settings come from: flags, the context that a flag names, the environment, the
 * context in use, a login, the defaults; the first of these that says something. Threads: the main
 * thread. */
#ifndef KD_CLI_SETTINGS_H
#define KD_CLI_SETTINGS_H

#include "cli.h"

/* Server, context, credentials, protection and colours of the run into cli. A context that is not
 * there is told by kd_settings_check, since not every verb needs one. Returns an exit code. */
int kd_settings_read(kd_cli *cli, const kd_args *args) KD_MUST_CHECK;
/* Before the coordinator is called. Returns an exit code. */
int kd_settings_check(const kd_cli *cli) KD_MUST_CHECK;

#endif
