/* What HTTP answers: JSON with the numbers of `distill ... -o json`. */
#include "kd_test.h"

#include "http_internal.h"
#include "wire/wire.h"

#include <stdlib.h>
#include <string.h>

static void test_http_json_text(void **state)
{
    (void)state;
    json_t *o = json_pack("{s:f, s:f, s:[f, i, n], s:s}", "lr", 0.1, "loss", 1.5e-7, "curve",
                          1.0 / 3, 7, "text", "0.10000000000000001");
    char *text = kd_http_text(o);
    assert_string_equal(text, "{\"lr\":0.1,\"loss\":1.5e-7,\"curve\":[0.3333333333333333,7,null],"
                              "\"text\":\"0.10000000000000001\"}");
    free(text);
    assert_null(kd_http_text(NULL));
}

static void test_http_json_message(void **state)
{
    (void)state;
    kd_diag diag = {0};
    kd_buf packed;
    Distill__V1__JobDetail d = DISTILL__V1__JOB_DETAIL__INIT;
    Distill__V1__JobSummary s = DISTILL__V1__JOB_SUMMARY__INIT;
    Distill__V1__Progress p = DISTILL__V1__PROGRESS__INIT;
    Distill__V1__StageRecord stage = DISTILL__V1__STAGE_RECORD__INIT, *stages[] = {&stage};
    d.summary = &s;
    d.resolved = (char *)"{\"distill\":{\"optimizer\":{\"lr\":0.1}}}";
    s.job = (char *)"0123456789ab";
    s.progress = &p;
    p.learning_rate = 0.7;
    stage.name = (char *)"distill";
    stage.seconds = 1.1;
    d.stages = stages;
    d.n_stages = 1;
    kd_buf_init(&packed, 1 << 16);
    assert_int_equal(kd_wire_pack(&d, &packed), 0);
    char *text = kd_http_json(&kd_http_detail, &packed, &diag);
    if (!text)
        fail_msg("%s", diag.msg);
    static const char *const numbers[] = {"\"lr\":0.1}", "\"learning_rate\":0.7}",
                                          "\"seconds\":1.1,"};
    for (size_t i = 0; i < KD_COUNT(numbers); i++)
        if (!strstr(text, numbers[i]))
            fail_msg("no %s in %s", numbers[i], text);
    free(text);
    /* What is no such message is refused. */
    memset(packed.data, 0xff, packed.len);
    assert_null(kd_http_json(&kd_http_detail, &packed, &diag));
    kd_buf_clear(&packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_json_text),
        cmocka_unit_test(test_http_json_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
