/* Text on its way out of the process. */
#include "kd_test.h"

#include "kd/text.h"

#include <stdio.h>
#include <string.h>

static void mended(const char *in, const char *out)
{
    char text[64];
    snprintf(text, sizeof text, "%s", in);
    kd_utf8_mend(text);
    assert_string_equal(text, out);
    assert_true(kd_utf8_valid(text));
    assert_int_equal(kd_utf8_valid(in), strcmp(in, out) == 0);
}

static void test_text_mend(void **state)
{
    (void)state;
    mended("", "");
    mended("plain", "plain");
    mended("bl\xc3\xbcte \xe2\x82\xac \xf0\x9f\x8c\xb7",
           "bl\xc3\xbcte \xe2\x82\xac \xf0\x9f\x8c\xb7");
    mended("bl\xfcte", "bl?te");        /* Latin-1 */
    mended("cut \xe2\x82", "cut ??");   /* a character cut in two */
    mended("\xc0\xaf", "??");           /* overlong */
    mended("\xed\xa0\x80", "???");      /* surrogate */
    mended("\xf4\x90\x80\x80", "????"); /* past U+10FFFF */
    mended("\x80 \xc3(", "? ?(");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text_mend)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
