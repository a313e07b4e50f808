/* The whole command against a coordinator of our own making, over real gRPC: events over a lost
 * connection, damaged artefacts, resumed uploads. */
#include "client_fake.h"

#include "kd/hash.h"
#include "kd/rng.h"

#include <dirent.h>

#define JOB "0123456789ab"
#define SIZE ((2u << 20) + 12345)

/* The coordinator. Guarded by g_mu. */
static struct {
    Distill__V1__JobState state;
    uint8_t *blob; /* [SIZE] */
    char digest[KD_DIGEST_HEX];
    const char *artefact;
    int fetches, fail_fetch; /* number of the fetch to refuse, -1 = none */
    bool damage;             /* flip a byte of every piece but the first */
    int watches;
    uint64_t watched_from[4];
    uint8_t *received; /* [SIZE] */
    uint64_t have, first_offset;
    int uploads, fail_upload;
    char submitted_digest[KD_DIGEST_HEX], submitted_path[128];
} g;

static const char g_result[] =
    "{\"job\":\"" JOB "\",\"name\":\"n\",\"digest\":\"d1\",\"images\":12800,\"seconds\":61.5,"
    "\"teacher\":{\"model\":\"mobilenet_v2\",\"accuracy\":0.92,\"interval\":[0.89,0.94],"
    "\"correct\":506,\"samples\":550,\"parameters\":2230277,\"bytes\":8921108,"
    "\"ms_per_image\":12.34},"
    "\"student\":{\"model\":\"shallow_cnn\",\"accuracy\":0.8,\"interval\":[0.77,0.83],"
    "\"correct\":440,\"samples\":550,\"parameters\":144261,\"bytes\":577044,"
    "\"ms_per_image\":1.5}}";

static void on_get(kd_rpc_call *call, const void *request)
{
    (void)request;
    Distill__V1__JobSummary summary = DISTILL__V1__JOB_SUMMARY__INIT;
    Distill__V1__JobDetail d = DISTILL__V1__JOB_DETAIL__INIT;
    Distill__V1__Artefact a = DISTILL__V1__ARTEFACT__INIT, *list[] = {&a};
    summary.job = (char *)JOB;
    summary.state = g.state;
    summary.reason =
        (char *)(g.state == DISTILL__V1__JOB_STATE__JOB_STATE_FAILED ? "loss is not finite" : "");
    d.summary = &summary;
    a.name = (char *)g.artefact;
    a.size = SIZE;
    a.digest = g.digest;
    if (g.state == DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED) {
        d.artefacts = list;
        d.n_artefacts = 1;
        d.result = (char *)g_result;
    }
    kd_fake_answer(call, &d);
}

static void send_event(kd_rpc_call *call, uint64_t seq)
{
    Distill__V1__Event e = DISTILL__V1__EVENT__INIT;
    char text[32];
    snprintf(text, sizeof text, "happening-%llu", (unsigned long long)seq);
    e.seq = seq;
    e.time_ms = 1714564800123;
    e.kind = (char *)"log";
    e.text = text;
    e.state = DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING;
    kd_fake_send(call, &e);
}

/* The first stream breaks after two events; the second repeats one and ends as the job does. */
static void on_watch(kd_rpc_call *call, const void *request)
{
    int n = g.watches++;
    if (n < 4)
        g.watched_from[n] = ((const Distill__V1__WatchRequest *)request)->from_seq;
    if (n == 0) {
        send_event(call, 1);
        send_event(call, 2);
        kd_rpc_finish(call, -KD_EUNAVAIL, "going down");
    } else {
        send_event(call, 2);
        send_event(call, 3);
        g.state = g.state == DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING
                      ? DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED
                      : g.state;
        kd_rpc_finish(call, 0, "");
    }
}

static void on_fetch(kd_rpc_call *call, const void *request)
{
    uint64_t offset = ((const Distill__V1__FetchRequest *)request)->offset;
    if (g.fetches++ == g.fail_fetch || offset > SIZE) {
        kd_rpc_finish(call, -KD_EUNAVAIL, "going down");
        return;
    }
    size_t n = (size_t)KD_MIN(SIZE - offset, (uint64_t)KD_BLOB_PIECE);
    Distill__V1__BlobChunk c = DISTILL__V1__BLOB_CHUNK__INIT;
    c.digest = g.digest;
    c.size = SIZE;
    c.offset = offset;
    c.crc32c = kd_crc32c(0, g.blob + offset, n);
    kd_buf head;
    kd_buf_init(&head, KD_MAX_CONTROL_BYTES);
    KD_BUG_ON(kd_wire_pack_bulk_head(&c, n, &head) != 0);
    uint8_t *piece = malloc(n);
    memcpy(piece, g.blob + offset, n);
    if (g.damage && offset > 0)
        piece[n / 2] ^= 4;
    struct iovec parts[] = {{head.data, head.len}, {piece, n}};
    kd_rpc_reply(call, parts, 2);
    free(piece);
    kd_buf_clear(&head);
}

static void on_upload(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)arg;
    ProtobufCMessage *m = NULL;
    const uint8_t *payload = NULL;
    size_t n = 0;
    kd_diag diag = {0};
    KD_BUG_ON(kd_wire_unpack_bulk(&distill__v1__blob_chunk__descriptor, bytes, len, &m, &payload,
                                  &n, &diag) != 0);
    const Distill__V1__BlobChunk *c = (Distill__V1__BlobChunk *)m;
    pthread_mutex_lock(&g_mu);
    Distill__V1__UploadReply r = DISTILL__V1__UPLOAD_REPLY__INIT;
    if (n > 0) {
        KD_BUG_ON(c->size != SIZE || c->offset > SIZE || n > SIZE - c->offset);
        if (g.uploads == 0)
            g.first_offset = c->offset;
        g.uploads++;
        if (c->offset == g.have && kd_crc32c(0, payload, n) == c->crc32c) {
            memcpy(g.received + c->offset, payload, n);
            g.have += n;
        }
    }
    bool fail = n > 0 && g.uploads == g.fail_upload;
    r.have = g.have;
    r.complete = g.have == SIZE;
    /* The piece is kept, its answer lost. */
    if (fail)
        kd_rpc_finish(call, -KD_EUNAVAIL, "going down");
    else
        kd_fake_answer(call, &r);
    pthread_mutex_unlock(&g_mu);
    kd_wire_free(m);
}

static void on_submit(kd_rpc_call *call, const void *request)
{
    const Distill__V1__SubmitRequest *s = request;
    if (s->n_blobs == 1) {
        snprintf(g.submitted_digest, sizeof g.submitted_digest, "%s", s->blobs[0]->digest);
        snprintf(g.submitted_path, sizeof g.submitted_path, "%s", s->blobs[0]->path);
    }
    Distill__V1__SubmitReply r = DISTILL__V1__SUBMIT_REPLY__INIT;
    r.job = (char *)JOB;
    r.resolved = (char *)"{}";
    kd_fake_answer(call, &r);
}

static const kd_rpc_method g_methods[] = {
    UNARY("Get", job_request, on_get),
    STREAM("Watch", watch_request, on_watch),
    UNARY("Fetch", fetch_request, on_fetch),
    {.path = "/distill.v1.Jobs/Upload",
     .kind = KD_RPC_UNARY,
     .max_request = KD_MAX_BULK_BYTES,
     .on_message = on_upload},
    UNARY("Submit", submit_request, on_submit),
};

static int set_up(void **state)
{
    (void)state;
    g.blob = malloc(SIZE);
    g.received = malloc(SIZE);
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < SIZE; i++)
        g.blob[i] = (uint8_t)kd_rng_u32(&r);
    kd_fake_start(g_methods, KD_COUNT(g_methods));
    return 0;
}

static int tear_down(void **state)
{
    kd_fake_stop(state);
    free(g.blob);
    free(g.received);
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    kd_digest d = kd_digest_of(g.blob, SIZE);
    pthread_mutex_lock(&g_mu);
    kd_digest_hex(&d, g.digest);
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_SUCCEEDED;
    g.artefact = "student.safetensors";
    g.fetches = g.watches = g.uploads = 0;
    g.fail_fetch = g.fail_upload = -1;
    g.damage = false;
    g.have = 0;
    memset(g.watched_from, 0, sizeof g.watched_from);
    pthread_mutex_unlock(&g_mu);
    return 0;
}

static int count(const char *text, const char *part)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, part)); p++)
        n++;
    return n;
}

/* Number of entries of a folder. */
static int entries(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static void test_calls_watch_over_lost_connection(void **state)
{
    (void)state;
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING;
    assert_int_equal(DISTILL("watch", JOB), 0);
    for (int i = 1; i <= 3; i++) {
        char part[32];
        snprintf(part, sizeof part, "happening-%d\n", i);
        assert_int_equal(count(g_out, part), 1);
    }
    assert_int_equal(g.watches, 2);
    assert_int_equal(g.watched_from[1], 3);
    assert_int_equal(count(g_err, "lost; trying again"), 1);
    assert_int_equal(count(g_err, "again after"), 1);
    HAS(g_out, "144,261");
    HAS(g_out, "89.0 - 94.0 %");
    HAS(g_out, "-12.0 points from its teacher");
    LACKS(g_out, "from scratch");
}

static void test_calls_wait_tells_failure(void **state)
{
    (void)state;
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_FAILED;
    g.watches = 1;
    assert_int_equal(DISTILL("wait", JOB), KD_EXIT_JOB_FAILED);
    assert_string_equal(g_out, "");
    HAS(g_err, "error: job " JOB " failed: loss is not finite\nhint: ");
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_CANCELLED;
    assert_int_equal(DISTILL("watch", JOB), KD_EXIT_JOB_CANCELLED);
}

static void test_calls_fetch(void **state)
{
    (void)state;
    char dir[256], path[300];
    snprintf(dir, sizeof dir, "%s/got", g_dir);
    snprintf(path, sizeof path, "%s/student.safetensors", dir);
    g.fail_fetch = 1; /* an outage in the middle */
    assert_int_equal(DISTILL("fetch", JOB, "-O", dir), 0);
    assert_int_equal(g.fetches, 4);
    char *data = NULL;
    size_t len;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, SIZE, &data, &len, &diag), &diag);
    assert_int_equal(len, SIZE);
    assert_memory_equal(data, g.blob, SIZE);
    free(data);
    /* result.json came with the job's details. */
    assert_int_equal(entries(dir), 2);
    snprintf(path, sizeof path, "%s/result.json", dir);
    data = kd_run_slurp(path);
    assert_string_equal(data, g_result);
    free(data);

    assert_int_equal(DISTILL("fetch", JOB, "-O", dir, "student.safetensors"), 0);
    assert_int_equal(g.fetches, 4);
    HAS(g_out, "was here already");
}

static void test_calls_fetch_damaged(void **state)
{
    (void)state;
    char dir[256];
    snprintf(dir, sizeof dir, "%s/damaged", g_dir);
    g.damage = true;
    assert_int_equal(DISTILL("fetch", JOB, "-O", dir), KD_EXIT_FAILURE);
    HAS(g_err, "checksum");
    assert_int_equal(entries(dir), 0);

    /* Every piece is what its checksum says, but the whole is not what was promised. */
    g.damage = false;
    memset(g.digest, 'a', 32);
    assert_int_equal(DISTILL("fetch", JOB, "-O", dir), KD_EXIT_FAILURE);
    HAS(g_err, "digest");
    assert_int_equal(entries(dir), 0);
}

static void test_calls_fetch_names(void **state)
{
    (void)state;
    char dir[256];
    snprintf(dir, sizeof dir, "%s/names", g_dir);
    static const char *const bad[] = {"../escaped", "/tmp/escaped", ".hidden", "..", "a/b", ""};
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        g.artefact = bad[i];
        assert_int_equal(DISTILL("fetch", JOB, "-O", dir), KD_EXIT_FAILURE);
        HAS(g_err, "no plain file name");
        assert_int_equal(entries(dir), 0);
    }
    g.artefact = "student.safetensors";
    assert_int_equal(DISTILL("fetch", JOB, "-O", dir, "student.safetensor"), KD_EXIT_NO_JOB);
    HAS(g_err, "did you mean student.safetensors?");
    g.state = DISTILL__V1__JOB_STATE__JOB_STATE_RUNNING;
    assert_int_equal(DISTILL("fetch", JOB, "-O", dir), KD_EXIT_CONFLICT);
}

static void test_calls_submit_uploads(void **state)
{
    (void)state;
    static const char text[] = "name: n\n"
                               "data: {labelled: {path: d, train: t.txt, val: v.txt}}\n"
                               "teacher: {model: mobilenet_v2, weights: w/teacher.bin}\n"
                               "student: {model: shallow_cnn}\n";
    char file[256], weights[256];
    kd_diag diag = {0};
    snprintf(file, sizeof file, "%s/job.yaml", g_dir);
    snprintf(weights, sizeof weights, "%s/w", g_dir);
    kd_assert_ok(kd_file_mkdirs(weights, &diag), &diag);
    kd_assert_ok(kd_file_write(file, text, sizeof text - 1, &diag), &diag);
    assert_int_equal(DISTILL("submit", file), KD_EXIT_CONFIG);
    HAS(g_err, "w/teacher.bin");

    snprintf(weights, sizeof weights, "%s/w/teacher.bin", g_dir);
    kd_assert_ok(kd_file_write(weights, g.blob, SIZE, &diag), &diag);
    /* The first MiB is there from an earlier try, and one answer is lost on its way. */
    memcpy(g.received, g.blob, KD_BLOB_PIECE);
    g.have = KD_BLOB_PIECE;
    g.fail_upload = 1;
    assert_int_equal(DISTILL("submit", file, "-q"), 0);
    assert_string_equal(g_out, JOB "\n");
    assert_int_equal(g.first_offset, KD_BLOB_PIECE);
    assert_int_equal(g.uploads, 2);
    assert_memory_equal(g.received, g.blob, SIZE);
    assert_string_equal(g.submitted_digest, g.digest);
    assert_string_equal(g.submitted_path, "w/teacher.bin");

    /* A dry run sends no file. */
    g.have = 0;
    g.uploads = 0;
    assert_int_equal(DISTILL("submit", file, "--dry-run"), 0);
    assert_int_equal(g.uploads, 0);
    assert_int_equal(DISTILL("submit", file, "--set", "distill.epocs=3"), KD_EXIT_CONFIG);
    HAS(g_err, "epochs");
}

static void test_calls_unreachable(void **state)
{
    (void)state;
    /* Port 1 of loopback: nobody listens there. */
    assert_int_equal(DISTILL("jobs", "--server", "127.0.0.1:1"), KD_EXIT_UNREACHABLE);
    assert_true(strncmp(g_err, "error: cannot reach coordinator 127.0.0.1:1", 43) == 0);
    assert_int_equal(count(g_err, "hint: "), 1);
    assert_string_equal(g_out, "");
    assert_int_equal(DISTILL("workers"), KD_EXIT_FAILURE); /* a method that ours does not have */
    LACKS(g_err, "UNIMPLEMENTED");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_calls_watch_over_lost_connection, fresh),
        cmocka_unit_test_setup(test_calls_wait_tells_failure, fresh),
        cmocka_unit_test_setup(test_calls_fetch, fresh),
        cmocka_unit_test_setup(test_calls_fetch_damaged, fresh),
        cmocka_unit_test_setup(test_calls_fetch_names, fresh),
        cmocka_unit_test_setup(test_calls_submit_uploads, fresh),
        cmocka_unit_test_setup(test_calls_unreachable, fresh),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
