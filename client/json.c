#include "json.h"

#include "output.h"

#include <stdlib.h>

int kd_json_print(const kd_cli *cli, json_t *value, bool compact)
{
    bool line = compact || cli->format == KD_FORMAT_JSONL;
    char *text = kd_json_dump(value, (line ? JSON_COMPACT : JSON_INDENT(2)) | JSON_ENCODE_ANY);
    json_decref(value);
    if (!text) {
        kd_error(cli, "no memory for the JSON text");
        return KD_EXIT_FAILURE;
    }
    kd_out_text(cli, text);
    kd_out_text(cli, "\n");
    free(text);
    return kd_out_flush(cli);
}
