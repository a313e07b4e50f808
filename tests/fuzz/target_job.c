#include "fuzz.h"

#include "job/sweep.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SETS 8
#define MAX_CHILD_SETS 64

/* A job file and its overrides. */
typedef struct input {
    const char *text;
    size_t len;
    const char *sets[MAX_SETS + MAX_CHILD_SETS];
    char *owned[MAX_SETS];
    int n_sets;
} input;

static void take_input(const uint8_t *data, size_t len, input *in)
{
    kd_fuzz_part parts[1 + MAX_SETS];
    size_t n = kd_fuzz_parts(data, len, parts, KD_COUNT(parts));
    *in = (input){.text = (const char *)parts[0].data, .len = parts[0].len};
    for (size_t i = 1; i < n; i++) {
        in->owned[in->n_sets] = kd_fuzz_text(parts[i].data, parts[i].len);
        in->sets[in->n_sets] = in->owned[in->n_sets];
        in->n_sets++;
    }
}

static void free_input(input *in)
{
    for (int i = 0; i < MAX_SETS; i++)
        free(in->owned[i]);
}

static int refused(int rc, const kd_diag *diag)
{
    KD_FUZZ_CHECK(rc == -KD_EINVAL || rc == -KD_ELIMIT);
    for (const char *p = diag->msg; *p; p++)
        KD_FUZZ_CHECK((unsigned char)*p >= 0x20 && *p != 0x7f);
    return kd_fuzz_refused(rc, diag);
}

/* What is accepted resolves to a text that gives the same job. */
int kd_fuzz_job(const uint8_t *data, size_t len)
{
    input in;
    take_input(data, len, &in);
    kd_job job = {0}, again = {0};
    kd_diag diag = {0};
    char *resolved = NULL, notes[4][256];
    int rc = kd_job_load(in.text, in.len, "fuzz", in.sets, in.n_sets, &job, &diag);
    if (rc != 0)
        KD_FUZZ_CHECK(strncmp(diag.msg, "fuzz:", 5) == 0 || strncmp(diag.msg, "--set ", 6) == 0);
    free_input(&in);
    if (rc != 0)
        return refused(rc, &diag);
    KD_FUZZ_CHECK(kd_job_notes(&job, notes, 4) <= 4);
    KD_FUZZ_CHECK(kd_job_resolved(&job, &resolved, &diag) == 0);
    KD_FUZZ_CHECK(kd_job_load(resolved, strlen(resolved), "resolved", NULL, 0, &again, &diag) == 0);
    KD_FUZZ_CHECK(memcmp(&job, &again, sizeof job) == 0);
    free(resolved);
    const char *files[KD_JOB_MAX_FILES];
    KD_FUZZ_CHECK(kd_job_local_files(&job, files) <= KD_JOB_MAX_FILES);
    enum kd_stage_kind kinds[KD_MAX_STAGES];
    KD_FUZZ_CHECK(kd_job_stages(&job, kinds) <= KD_MAX_STAGES);
    return 1;
}

/* Every child of a sweep loads, with the seed that was promised. */
int kd_fuzz_sweep(const uint8_t *data, size_t len)
{
    input in;
    take_input(data, len, &in);
    kd_sweep sweep = {0};
    kd_diag diag = {0};
    int rc = kd_sweep_load(in.text, in.len, "fuzz", in.sets, in.n_sets, &sweep, &diag);
    if (rc != 0) {
        free_input(&in);
        return refused(rc, &diag);
    }
    for (int i = 0; i < sweep.n; i++) {
        const kd_sweep_child *c = &sweep.child[i];
        kd_job job = {0};
        KD_FUZZ_CHECK(c->n_sets <= MAX_CHILD_SETS);
        for (int s = 0; s < c->n_sets; s++)
            in.sets[in.n_sets + s] = c->sets[s];
        KD_FUZZ_CHECK(
            kd_job_load(in.text, in.len, "fuzz", in.sets, in.n_sets + c->n_sets, &job, &diag) == 0);
        KD_FUZZ_CHECK(job.seed == c->seed);
    }
    int accepted = sweep.n > 0;
    kd_sweep_free(&sweep);
    free_input(&in);
    return accepted;
}
