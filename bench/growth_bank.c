/* What the logit bank costs by number of classes: records put and found, in blocks as workers send
 * them. One JSON object. */
#include "bank.h"

#include "wire/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(int rc, const kd_diag *diag)
{
    if (rc == 0)
        return;
    fprintf(stderr, "growth-bank: %s\n", diag->msg);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("Usage: growth-bank CLASSES RECORDS FOLDER\n", stderr);
        return 2;
    }
    uint32_t classes = (uint32_t)atoi(argv[1]), records = (uint32_t)atoi(argv[2]), stored = 0, n;
    size_t bytes = 8 + 4 * (size_t)classes;
    uint32_t block = (uint32_t)KD_MAX(KD_MIN((size_t)512, ((size_t)1 << 20) / bytes), (size_t)1);
    uint8_t *out = kd_xalloc(block * bytes);
    kd_bank_store *store;
    kd_bank *bank;
    kd_diag diag = {0};
    kd_bank_key key = {"teacher", "float32", "numerics", "data", "view", classes};
    bool differs = false;
    check(kd_bank_store_open(argv[3], &store, &diag), &diag);
    check(kd_bank_get(store, &key, &bank, &diag), &diag);
    double begun = seconds();
    for (uint32_t i = 0; i < records; i += block) {
        uint32_t count = KD_MIN(block, records - i);
        for (uint32_t k = 0; k < count; k++)
            memcpy(out + k * bytes, &(uint32_t[]){i + k, 0}, 8);
        check(kd_bank_put(bank, out, count * bytes, &n, &differs, &diag), &diag);
        stored += n;
    }
    double put = seconds();
    for (uint32_t i = 0; i < records; i += block) {
        uint32_t count = KD_MIN(block, records - i);
        uint8_t wanted[512 * 8];
        kd_buf found;
        for (uint32_t k = 0; k < count; k++)
            memcpy(wanted + 8 * k, &(uint32_t[]){i + k, 0}, 8);
        kd_buf_init(&found, KD_MAX_PAYLOAD_BYTES);
        check(kd_bank_find(bank, wanted, count, &found, &diag), &diag);
        if (found.len != count * bytes)
            check(kd_fail(&diag, -KD_EINTERNAL, "records are missing"), &diag);
        kd_buf_clear(&found);
    }
    double done = seconds();
    printf("{\"curve\": \"bank\", \"classes\": %u, \"records\": %u, \"put_s\": %.0f, \"find_s\": "
           "%.0f, \"find_mb_s\": %.0f}\n",
           classes, stored, stored / (put - begun), stored / (done - put),
           stored * (double)bytes / (done - put) / 1e6);
    kd_bank_store_close(store);
    free(out);
    return 0;
}
