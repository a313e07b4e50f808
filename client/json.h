/* JSON on standard output. */
#ifndef KD_CLI_JSON_H
#define KD_CLI_JSON_H

#include "cli.h"
#include "json/json.h"

/* Prints value and a line break to standard output and drops the reference. compact: on one line,
 * as with -o jsonl. NULL prints an error. Returns an exit code. */
int kd_json_print(const kd_cli *cli, json_t *value, bool compact);

#endif
