/* Figures, durations, intervals and safe text of the command line. */
#include "kd_test.h"

#include "format.h"
#include "kd/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void test_format_durations(void **state)
{
    (void)state;
    struct {
        double s;
        const char *text;
    } cases[] = {{0, "0.0s"},       {0.44, "0.4s"},  {9.94, "9.9s"},    {9.96, "10s"},
                 {17.4, "17s"},     {59.4, "59s"},   {59.6, "1m00s"},   {125, "2m05s"},
                 {3599.6, "1h00m"}, {3780, "1h03m"}, {86399, "23h59m"}, {273600, "3d04h"},
                 {-1, "-"},         {NAN, "-"},      {INFINITY, "-"}};
    char out[KD_FMT];
    for (size_t i = 0; i < KD_COUNT(cases); i++)
        assert_string_equal(kd_fmt_duration(cases[i].s, out), cases[i].text);
    kd_fmt_duration(1e300, out);
}

static void test_format_parse_duration(void **state)
{
    (void)state;
    struct {
        const char *text;
        double s;
    } good[] = {{"0", 0},      {"90", 90},      {"90s", 90},    {"1.5s", 1.5},
                {"10m", 600},  {"1h30m", 5400}, {"2d", 172800}, {"1d2h3m4s5ms", 93784.005},
                {"500ms", 0.5}};
    const char *bad[] = {"",
                         "s",
                         "-5",
                         "5x",
                         "1m2h",
                         "1m1m",
                         "1.2.3s",
                         "1h30",
                         "5 s",
                         "1e9",
                         "inf",
                         "99999d",
                         ".",
                         "10m ",
                         "0x10",
                         "1m5ms2s",
                         "111111111111111111111111111s"};
    for (size_t i = 0; i < KD_COUNT(good); i++) {
        double s = -1;
        assert_true(kd_parse_duration(good[i].text, &s));
        kd_assert_close(s, good[i].s, 1e-12, 1e-12);
    }
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        double s = -1;
        if (kd_parse_duration(bad[i], &s))
            fail_msg("\"%s\" was taken for %g s", bad[i], s);
        assert_true(s == -1);
    }
}

static void test_format_figures(void **state)
{
    (void)state;
    char o[KD_FMT];
    assert_string_equal(kd_fmt_bytes(0, o), "0 B");
    assert_string_equal(kd_fmt_bytes(999, o), "999 B");
    assert_string_equal(kd_fmt_bytes(1000, o), "1.0 kB");
    assert_string_equal(kd_fmt_bytes(999499, o), "999 kB");
    assert_string_equal(kd_fmt_bytes(999600, o), "1.0 MB");
    assert_string_equal(kd_fmt_bytes(8.93e6, o), "8.9 MB");
    assert_string_equal(kd_fmt_bytes(NAN, o), "-");
    assert_string_equal(kd_fmt_count(0, o), "0");
    assert_string_equal(kd_fmt_count(999, o), "999");
    assert_string_equal(kd_fmt_count(144261, o), "144,261");
    assert_string_equal(kd_fmt_count(UINT64_MAX, o), "18,446,744,073,709,551,615");
    assert_string_equal(kd_fmt_percent(0.9183, o), "91.8 %");
    assert_string_equal(kd_fmt_percent(1, o), "100.0 %");
    assert_string_equal(kd_fmt_percent(-1, o), "-");
    assert_string_equal(kd_fmt_percent(1.01, o), "-");
    assert_string_equal(kd_fmt_figure(0.41234, o), "0.4123");
    assert_string_equal(kd_fmt_figure(12.345, o), "12.35");
    assert_string_equal(kd_fmt_figure(1834.4, o), "1834");
    assert_string_equal(kd_fmt_figure(0.00001234, o), "1.234e-05");
    assert_string_equal(kd_fmt_figure(0, o), "0.0000");
    assert_string_equal(kd_fmt_figure(INFINITY, o), "-");
    assert_string_equal(kd_fmt_age(0, 10, o), "-");
    assert_string_equal(kd_fmt_age(1000, 126000, o), "2m05s");
    assert_string_equal(kd_fmt_age(5000, 1000, o), "0.0s");
}

static void test_format_clock(void **state)
{
    (void)state;
    char o[KD_FMT];
    setenv("TZ", "UTC", 1);
    tzset();
    assert_string_equal(kd_fmt_clock(1714564800123, 1714564900000, o), "12:00:00.123");
    assert_string_equal(kd_fmt_clock(1714564800123, 1714664900000, o), "2024-05-01 12:00:00.123");
    assert_string_equal(kd_fmt_clock(0, 1714664900000, o), "-");
}

static void clean_case(const char *in, const char *out)
{
    kd_buf b;
    kd_buf_init(&b, 1000);
    kd_text_clean(&b, in);
    assert_string_equal(b.data ? b.data : "", out);
    kd_buf_clear(&b);
}

static void test_format_clean(void **state)
{
    (void)state;
    clean_case("plain", "plain");
    clean_case("a\033[31mb\007", "a?[31mb?");
    clean_case("two\nlines\tand", "two lines and");
    clean_case("caf\xc3\xa9 \xe2\x9c\x93", "caf\xc3\xa9 \xe2\x9c\x93");
    clean_case("bad\xff\xc3", "bad??");
    clean_case("over\xc0\xaflong", "over??long");
    clean_case("c1 \xc2\x9b", "c1 ?");
    clean_case("turn \xe2\x80\xae", "turn ?");
    clean_case("\xed\xa0\x80", "???");
    clean_case("", "");
}

static void test_format_width(void **state)
{
    (void)state;
    assert_int_equal(kd_text_width("abc"), 3);
    assert_int_equal(kd_text_width("caf\xc3\xa9"), 4);
    assert_int_equal(kd_text_width("e\xcc\x81"), 1);
    assert_int_equal(kd_text_width("\xe4\xb8\xad\xe6\x96\x87"), 4);
    assert_int_equal(kd_text_width("\033[31mred\033[0m"), 3);
    assert_int_equal(kd_text_cut("abcdef", 3), 3);
    assert_int_equal(kd_text_cut("abc", 30), 3);
    assert_int_equal(kd_text_cut("a\xe4\xb8\xad"
                                 "b",
                                 2),
                     1);
    assert_int_equal(kd_text_cut("\033[31mred\033[0m", 2), 7);
    assert_int_equal(kd_text_cut("abc", 0), 0);
}

/* What comes out of the cleaner holds no control character and is cut at whole characters. */
static void test_format_random_bytes(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 2, KD_RNG_TEST, 0, 0);
    for (int round = 0; round < 20000; round++) {
        char in[40];
        uint32_t n = kd_rng_below(&r, sizeof in - 1);
        for (uint32_t i = 0; i < n; i++)
            in[i] = (char)(1 + kd_rng_below(&r, 255));
        in[n] = '\0';
        kd_buf b;
        kd_buf_init(&b, 1000);
        kd_text_clean(&b, in);
        const char *s = b.data ? b.data : "";
        for (const char *p = s; *p; p++)
            assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
        int width = kd_text_width(s);
        for (int c = 0; c <= width; c++) {
            size_t cut = kd_text_cut(s, c);
            assert_true(cut <= strlen(s));
            assert_true(((unsigned char)s[cut] & 0xc0) != 0x80);
        }
        assert_true(kd_text_cut(s, width) == strlen(s));
        kd_buf_clear(&b);
    }
}

static void test_format_name(void **state)
{
    (void)state;
    char text[] = "../Fl\xc3\xb6ra 2.v-1_", empty[] = "";
    kd_text_name(text, '-');
    assert_string_equal(text, "..-Fl--ra-2.v-1_");
    kd_text_name(empty, '-');
    assert_string_equal(empty, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_durations),    cmocka_unit_test(test_format_parse_duration),
        cmocka_unit_test(test_format_figures),      cmocka_unit_test(test_format_clock),
        cmocka_unit_test(test_format_clean),        cmocka_unit_test(test_format_width),
        cmocka_unit_test(test_format_random_bytes), cmocka_unit_test(test_format_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
