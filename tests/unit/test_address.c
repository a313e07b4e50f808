/* HOST:PORT: its parts, and what is this machine. */
#include "kd_test.h"

#include "kd/address.h"

#include <string.h>

static void splits(const char *address, const char *host, const char *port)
{
    char h[16], p[6];
    assert_true(kd_address_split(address, h, sizeof h, p));
    assert_string_equal(h, host);
    assert_string_equal(p, port);
}

static void test_address_split(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",        "host",  ":1",  "host:", "host:65536", "host:1x",
        "host:-1", "a:b:1", "::1", "[]:1",  "[::1]x:1",   "longer-than-15-is:1"};
    char host[16], port[6];
    splits("localhost:0", "localhost", "0");
    splits("10.0.0.1:65535", "10.0.0.1", "65535");
    splits("[::1]:8001", "::1", "8001");
    splits("just-15-letters:1", "just-15-letters", "1");
    for (size_t i = 0; i < KD_COUNT(wrong); i++)
        if (kd_address_split(wrong[i], host, sizeof host, port))
            fail_msg("%s is taken for an address", wrong[i]);
}

static void test_address_loopback(void **state)
{
    (void)state;
    static const char *const here[] = {"127.0.0.1:1", "127.255.0.3:1", "[::1]:1",
                                       "localhost:1", "no address",    "::1"};
    static const char *const elsewhere[] = {"0.0.0.0:1",     "128.0.0.1:1", "[::]:1",
                                            "[fe80::1]:1",   "gpu:1",       "localhost.org:1",
                                            "127.0.0.1.x:1", "[::2]:1",     "127.1:1"};
    for (size_t i = 0; i < KD_COUNT(here); i++)
        if (!kd_address_is_loopback(here[i]))
            fail_msg("%s is not loopback", here[i]);
    for (size_t i = 0; i < KD_COUNT(elsewhere); i++)
        if (kd_address_is_loopback(elsewhere[i]))
            fail_msg("%s is loopback", elsewhere[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_address_split),
                                       cmocka_unit_test(test_address_loopback)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
