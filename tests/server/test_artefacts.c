/* Files that workers send for a job: when they are taken, under which names, how many, and pieces
 * that come twice or mixed with another worker's. What they measured of its networks. */
#include "kd_test.h"

#include "daemon.h"
#include "kd/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOB 0x123456789abc
#define EVALUATE 2 /* after a teacher and the student */

struct fixture {
    char *dir;
    kd_daemon d;
    kd_actions actions;
    Distill__V1__UploadReply reply;
    kd_diag diag;
};

static const char g_job[] = "name: small\ndata: {labelled: {path: flowers, val_share: 0.2}}\n"
                            "teacher: {model: mlp, hidden: [8], fine_tune: {epochs: 1}}\n"
                            "student: {model: shallow_cnn}\n";

static void handle(struct fixture *f, const kd_event *ev)
{
    kd_core_handle(f->d.core, ev, 1, &f->actions);
    kd_actions_clear(&f->actions);
}

/* A job that runs and waits for another to make its student. */
static int setup(void **state)
{
    struct fixture *f = kd_xalloc(sizeof *f);
    char path[4096];
    f->dir = kd_test_mkdir();
    f->d.state.lock_fd = -1;
    kd_assert_ok(kd_state_open(f->dir, &f->d.state, &f->diag), &f->diag);
    kd_job_row row = {.id = JOB, .resolved = kd_xstrdup(g_job)};
    kd_daemon_add_job(&f->d, kd_job_record_new(&row, NULL, &f->diag));
    assert_non_null(f->d.jobs);
    assert_int_equal(f->d.jobs->stages[EVALUATE].kind, KD_STAGE_EVALUATE);
    snprintf(path, sizeof path, "%s/jobs/%012llx", f->dir, (unsigned long long)JOB);
    kd_assert_ok(kd_file_mkdirs(path, &f->diag), &f->diag);
    f->d.core = kd_core_new(1);
    kd_core_job_setup s = {
        .id = JOB, .min_workers = 1, .max_workers = 1, .n_stages = 4, .started = true};
    s.stages[0].done = true;
    snprintf(s.stages[1].held, sizeof s.stages[1].held, "waits");
    s.stages[EVALUATE].kind = KD_CORE_MEASURE;
    s.stages[3].kind = KD_CORE_EXPORT;
    handle(f, &(kd_event){.kind = KD_EV_SUBMIT, .setup = &s});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kd_job_record_free(f->d.jobs);
    kd_ids_clear(&f->d.job_ids);
    kd_core_free(f->d.core);
    kd_state_close(&f->d.state);
    kd_test_rmdir(f->dir);
    free(f);
    return 0;
}

static void begin_evaluation(struct fixture *f)
{
    handle(f, &(kd_event){.kind = KD_EV_TAKEN, .job = JOB, .stage = 1});
}

/* Sends bytes [at, at + len) of a file of `size` bytes. */
static int put(struct fixture *f, uint32_t stage, const char *name, const char *file, size_t size,
               size_t at, size_t len)
{
    Distill__V1__ArtefactPiece m = DISTILL__V1__ARTEFACT_PIECE__INIT;
    char hex[KD_DIGEST_HEX];
    kd_digest digest = kd_digest_of(file, size);
    kd_digest_hex(&digest, hex);
    m.job = (char *)"123456789abc";
    m.stage = stage;
    m.name = (char *)name;
    m.digest = hex;
    m.size = size;
    m.offset = at;
    m.crc32c = kd_crc32c(0, file + at, len);
    distill__v1__upload_reply__init(&f->reply);
    f->diag = (kd_diag){0};
    return kd_artefact_add_piece(&f->d, &m, (const uint8_t *)file + at, len, &f->reply, &f->diag);
}

static void assert_content(struct fixture *f, const char *name, const char *want)
{
    kd_file_row row;
    char *bytes = NULL;
    size_t len = 0;
    assert_int_equal(kd_state_find_artefact(&f->d.state, JOB, name, "-", &row, &f->diag), 1);
    kd_assert_ok(kd_file_read(row.path, 4096, &bytes, &len, &f->diag), &f->diag);
    assert_string_equal(bytes, want);
    free(bytes);
}

static void test_artefacts_only_while_the_job_evaluates(void **state)
{
    struct fixture *f = *state;
    kd_assert_fails(put(f, EVALUATE, "a.json", "abc", 3, 0, 3), KD_ESTALE, &f->diag,
                    "does not evaluate now");
    begin_evaluation(f);
    kd_assert_fails(put(f, 1, "a.json", "abc", 3, 0, 3), KD_ESTALE, &f->diag, "evaluate");
    kd_assert_fails(put(f, 3, "a.json", "abc", 3, 0, 3), KD_ESTALE, &f->diag, "evaluate");
    kd_assert_fails(put(f, 99, "a.json", "abc", 3, 0, 3), KD_ESTALE, &f->diag, "evaluate");
    kd_assert_ok(put(f, EVALUATE, "a.json", "abc", 3, 0, 3), &f->diag);
    assert_true(f->reply.complete);
    assert_content(f, "a.json", "abc");
    handle(f, &(kd_event){.kind = KD_EV_CANCEL, .job = JOB});
    kd_assert_fails(put(f, EVALUATE, "b.json", "abc", 3, 0, 3), KD_ESTALE, &f->diag, "evaluate");
}

static void test_artefacts_names(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {
        "-",           "-a", "", ".", ".a", "a/b", "result.json", "student.safetensors",
        "a.json.part", "a b"};
    begin_evaluation(f);
    for (size_t i = 0; i < KD_COUNT(bad); i++)
        kd_assert_fails(put(f, EVALUATE, bad[i], "abc", 3, 0, 3), KD_EINVAL, &f->diag,
                        "may be named");
    kd_assert_ok(put(f, EVALUATE, "student.best.onnx", "abc", 3, 0, 3), &f->diag);
}

static void test_artefacts_pieces_come_again_and_mixed(void **state)
{
    struct fixture *f = *state;
    begin_evaluation(f);
    kd_assert_fails(put(f, EVALUATE, "a", "abcdef", 6, 2, 2), KD_ESTALE, &f->diag, "0 bytes");
    kd_assert_ok(put(f, EVALUATE, "a", "abcdef", 6, 0, 2), &f->diag);
    assert_false(f->reply.complete);
    assert_int_equal(f->reply.have, 2);
    kd_assert_fails(put(f, EVALUATE, "a", "abcdef", 6, 4, 2), KD_ESTALE, &f->diag, "2 bytes");
    /* Another worker sends other bytes under the same name, and pieces are repeated. */
    kd_assert_ok(put(f, EVALUATE, "a", "uvwxyz", 6, 0, 2), &f->diag);
    kd_assert_ok(put(f, EVALUATE, "a", "abcdef", 6, 2, 2), &f->diag);
    kd_assert_ok(put(f, EVALUATE, "a", "abcdef", 6, 2, 2), &f->diag);
    kd_assert_ok(put(f, EVALUATE, "a", "uvwxyz", 6, 2, 2), &f->diag);
    kd_assert_ok(put(f, EVALUATE, "a", "abcdef", 6, 4, 2), &f->diag);
    assert_true(f->reply.complete);
    assert_content(f, "a", "abcdef");
    kd_assert_ok(put(f, EVALUATE, "a", "abcdef", 6, 4, 2), &f->diag);
    assert_true(f->reply.complete);
    assert_int_equal(f->reply.have, 6);
    kd_assert_ok(put(f, EVALUATE, "a", "uvwxyz", 6, 4, 2), &f->diag);
    assert_true(f->reply.complete);
    assert_content(f, "a", "uvwxyz");
}

static void test_artefacts_of_a_job_are_bounded(void **state)
{
    struct fixture *f = *state;
    char name[16];
    begin_evaluation(f);
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof name, "f%d", i);
        /* The first of them are whole, the others have begun. */
        kd_assert_ok(put(f, EVALUATE, name, "abc", 3, 0, i < 40 ? 3 : 2), &f->diag);
    }
    kd_assert_fails(put(f, EVALUATE, "more", "abc", 3, 0, 2), KD_ELIMIT, &f->diag, "64 files");
    kd_assert_ok(put(f, EVALUATE, "f63", "abc", 3, 2, 1), &f->diag);
    assert_true(f->reply.complete);
    kd_assert_ok(put(f, EVALUATE, "f0", "xyz", 3, 0, 3), &f->diag); /* in place of another */
    assert_content(f, "f0", "xyz");
    kd_assert_fails(put(f, EVALUATE, "more", "abc", 3, 0, 3), KD_ELIMIT, &f->diag, "64 files");
}

/* What a worker says it measured of so many networks, each a millisecond dearer. */
static void measured(struct fixture *f, const char *const *names, size_t n)
{
    Distill__V1__Measured m = DISTILL__V1__MEASURED__INIT;
    Distill__V1__ModelCost costs[KD_MAX_MODELS], *list[KD_MAX_MODELS];
    for (size_t i = 0; i < n; i++) {
        distill__v1__model_cost__init(&costs[i]);
        costs[i].name = (char *)names[i];
        costs[i].ms_per_image = 1 + (double)i;
        costs[i].ms_per_image_64 = 0.5 + (double)i;
        list[i] = &costs[i];
    }
    m.models = list;
    m.n_models = n;
    kd_result_costs(&f->d, f->d.jobs, "ann", &m);
}

static int warnings(struct fixture *f)
{
    char workers[2][65];
    int n = kd_state_event_workers(&f->d.state, JOB, "warning", workers, 2, &f->diag);
    assert_true(n <= 0 || strcmp(workers[0], "ann") == 0);
    return n;
}

static void test_costs_of_networks_that_the_job_makes(void **state)
{
    struct fixture *f = *state;
    static const char *const own[] = {"teacher", "student"};
    const kd_stage_record *s = f->d.jobs->stages;
    measured(f, own, 2);
    assert_true(s[0].ms_per_image == 1 && s[0].ms_per_image_64 == 0.5);
    assert_true(s[1].ms_per_image == 2 && s[1].ms_per_image_64 == 1.5);
    assert_int_equal(warnings(f), 0);
    /* As many as a message holds, with names that would break JSON, and one that is the job's. */
    const char *many[KD_MAX_MODELS];
    for (size_t i = 0; i < KD_MAX_MODELS; i++)
        many[i] = i % 2 ? "\"," : "evaluate";
    many[KD_MAX_MODELS - 1] = "student";
    measured(f, many, KD_MAX_MODELS);
    assert_true(s[0].ms_per_image == 1 && s[1].ms_per_image == KD_MAX_MODELS);
    assert_int_equal(warnings(f), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_artefacts_only_while_the_job_evaluates, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_artefacts_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_artefacts_pieces_come_again_and_mixed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_artefacts_of_a_job_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_costs_of_networks_that_the_job_makes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
