/* What the coordinator reads back from its own folder, and its command line. */
#include "fuzz.h"

#include "bank.h"
#include "daemon.h"
#include "kd/file.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "take.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int kd_fuzz_checkpoint(const uint8_t *data, size_t len)
{
    if (len < 2)
        return 0;
    const size_t floats = data[0];
    const uint32_t vectors = data[1] % (KD_MAX_STATE_VECTORS + 1);
    float *vector = NULL, *state = NULL;
    kd_diag diag = {0};
    int rc = kd_checkpoint_read(data + 2, len - 2, "fuzz", floats, vectors, &vector, &state, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(rc == -KD_EDATA || rc == -KD_ELIMIT);
        KD_FUZZ_CHECK(!vector && !state);
        return kd_fuzz_refused(rc, &diag);
    }
    KD_FUZZ_CHECK(vector && !state == !vectors);
    /* All of it is there. */
    (void)kd_crc32c(kd_crc32c(0, vector, floats * sizeof *vector), state,
                    vectors * floats * sizeof *state);
    free(vector);
    free(state);
    return 1;
}

/* ---- what workers say of a stage */

int kd_fuzz_stage_info(const uint8_t *data, size_t len)
{
    static kd_job_record job;
    kd_stage_record *s = &job.stages[0];
    kd_fuzz_part part[2];
    char text[KD_CORE_TEXT], warning[KD_CORE_TEXT];
    kd_diag diag = {0};
    if (len < 1)
        return 0;
    kd_fuzz_parts(data + 1, len - 1, part, 2);
    *s = (kd_stage_record){.kind = data[0] & 1 ? KD_STAGE_EVALUATE : KD_STAGE_DISTILL};
    job.n_stages = 1;
    int rc = kd_stage_set_info(s, part[0].data, part[0].len, &diag);
    if (rc != 0) {
        KD_FUZZ_CHECK(!s->info && !s->row.info);
        return kd_fuzz_refused(rc, &diag);
    }
    kd_core_stage_info core;
    kd_stage_core_info(&job, s, &core);
    KD_FUZZ_CHECK(core.last_version >= 1 && core.eval_steps >= 1);
    KD_FUZZ_CHECK(core.slots >= 1 && core.slots <= KD_MAX_SLOTS && core.chunks >= 1);
    kd_stage_compare(s->info, s->info, text);
    KD_FUZZ_CHECK(!text[0]);
    /* A stage fits what it is itself; another promise may differ in anything. */
    s->row.expected = s->row.info;
    s->row.expected_len = s->row.info_len;
    kd_take_check(&job, 0, s->info, text, warning);
    KD_FUZZ_CHECK(!text[0] && !warning[0]);
    s->row.expected = (uint8_t *)part[1].data;
    s->row.expected_len = part[1].len;
    kd_take_check(&job, 0, s->info, text, warning);
    s->row.expected = NULL;
    kd_wire_free((ProtobufCMessage *)s->info);
    kd_stage_row_clear(&s->row);
    return 1;
}

/* ---- the logit bank */

#define CLASSES 2
#define RECORD (8 + 4 * CLASSES)
#define BLOCK_HEAD 16

/* Blind changes would hardly ever agree with a checksum. */
static void mend_checksums(uint8_t *file, size_t len)
{
    for (size_t at = 0; len - at >= BLOCK_HEAD;) {
        uint32_t n;
        memcpy(&n, file + at + 4, 4);
        const size_t bytes = (size_t)n * RECORD;
        if (bytes > len - at - BLOCK_HEAD)
            return;
        const uint32_t crc = kd_crc32c(0, file + at + BLOCK_HEAD, bytes);
        memcpy(file + at + 8, &crc, 4);
        at += BLOCK_HEAD + bytes;
    }
}

static off_t size_of(const char *name)
{
    struct stat st;
    KD_BUG_ON(fstatat(kd_fuzz_folder_fd(), name, &st, 0) != 0);
    return st.st_size;
}

/* Whatever the file was: what is kept of it is found, more can be added, and it opens again with
 * the same records. */
static void use_bank(kd_bank_store **store, kd_bank *b, const kd_bank_key *key,
                     const uint8_t *records, size_t len, const char *file)
{
    kd_diag diag = {0};
    const size_t before = kd_bank_count(b);
    const off_t size = size_of(file);
    KD_FUZZ_CHECK((size_t)size <= len && (before == 0) == (size == 0));
    kd_buf out;
    uint32_t fresh = 0;
    bool differs = false;
    uint8_t record[RECORD] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    kd_buf_init(&out, 1 << 20);
    KD_FUZZ_CHECK(kd_bank_put(b, record, sizeof record, &fresh, &differs, &diag) == 0);
    KD_FUZZ_CHECK(kd_bank_count(b) == before + fresh);
    KD_FUZZ_CHECK(kd_bank_find(b, record, 1, &out, &diag) == 0 && out.len == RECORD);
    KD_FUZZ_CHECK(differs == (memcmp(out.data, record, RECORD) != 0));
    KD_FUZZ_CHECK(!differs || !fresh);
    if (size) { /* the first record of the file, or what came later under its name */
        kd_buf_clear(&out);
        KD_FUZZ_CHECK(kd_bank_find(b, records + BLOCK_HEAD, 1, &out, &diag) == 0);
        KD_FUZZ_CHECK(out.len == RECORD && memcmp(out.data, records + BLOCK_HEAD, 8) == 0);
    }
    kd_buf_clear(&out);
    const off_t end = size_of(file);
    kd_bank_store_close(*store);
    KD_FUZZ_CHECK(kd_bank_store_open(kd_fuzz_folder(), store, &diag) == 0);
    KD_FUZZ_CHECK(kd_bank_get(*store, key, &b, &diag) == 0);
    KD_FUZZ_CHECK(kd_bank_count(b) == before + fresh && size_of(file) == end);
}

int kd_fuzz_bank(const uint8_t *data, size_t len)
{
    static const kd_bank_key key = {"teacher", "float32", "numerics", "data", "rule", CLASSES};
    static char text[1024], id[KD_DIGEST_HEX], records[64], description[64];
    kd_diag diag = {0};
    kd_bank_store *store = NULL;
    kd_bank *b = NULL;
    if (len < 1)
        return 0;
    KD_FUZZ_CHECK(kd_bank_store_open(kd_fuzz_folder(), &store, &diag) == 0);
    if (!id[0]) { /* an empty bank tells its name and its description */
        char *made = NULL;
        size_t n = 0;
        static const char fields[] = "teacher\nfloat32\nnumerics\ndata\nrule\n2";
        kd_digest d = kd_digest_of(fields, sizeof fields - 1);
        kd_digest_hex(&d, id);
        snprintf(records, sizeof records, "%s/records.bin", id);
        snprintf(description, sizeof description, "%s/bank.json", id);
        KD_FUZZ_CHECK(kd_bank_get(store, &key, &b, &diag) == 0 && size_of(records) == 0);
        char path[4096 + 64];
        snprintf(path, sizeof path, "%s/%s", kd_fuzz_folder(), description);
        KD_FUZZ_CHECK(kd_file_read(path, sizeof text - 1, &made, &n, &diag) == 0);
        memcpy(text, made, n + 1);
        free(made);
        kd_bank_store_close(store);
        KD_FUZZ_CHECK(kd_bank_store_open(kd_fuzz_folder(), &store, &diag) == 0);
    }
    kd_fuzz_part part[2];
    kd_fuzz_parts(data + 1, len - 1, part, 2);
    uint8_t *file = (uint8_t *)kd_fuzz_text(part[0].data, part[0].len);
    if (data[0] & 1)
        mend_checksums(file, part[0].len);
    kd_fuzz_put(records, file, part[0].len);
    if (part[1].data)
        kd_fuzz_put(description, part[1].data, part[1].len);
    else
        kd_fuzz_put(description, (const uint8_t *)text, strlen(text));
    int rc = kd_bank_get(store, &key, &b, &diag);
    int accepted = rc == 0 ? kd_bank_count(b) > 0 : kd_fuzz_refused(rc, &diag);
    if (rc == 0)
        use_bank(&store, b, &key, file, part[0].len, records);
    kd_bank_store_close(store);
    free(file);
    return accepted;
}

/* ---- the command line */

int kd_fuzz_distilld(const uint8_t *data, size_t len)
{
    kd_fuzz_words w;
    kd_daemon_config cfg = {0};
    kd_fuzz_words_of("distilld", data, len, &w);
    optind = 0; /* glibc: begin anew */
    kd_fuzz_silence(true);
    int rc = kd_daemon_options(w.argc, w.argv, &cfg);
    kd_fuzz_silence(false);
    kd_log_set_level(KD_LOG_ERR);
    KD_FUZZ_CHECK(rc == -1 || rc == 0 || rc == 2);
    if (rc == -1) {
        KD_FUZZ_CHECK(cfg.state_dir && cfg.listen);
        KD_FUZZ_CHECK(cfg.heartbeat_ms >= 10 && cfg.heartbeat_ms <= 60000);
        KD_FUZZ_CHECK(cfg.lease_ms >= 2 * cfg.heartbeat_ms && cfg.lease_ms <= 600000);
    }
    free(w.text);
    return rc == -1;
}
