/* Where a connection comes from: one spelling, one network, whichever way it is told. */
#include "kd_test.h"

#include "kd/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

static const struct {
    const char *told, *text, *network;
} g_cases[] = {
    {"ipv4:10.0.0.7:40312", "ipv4:10.0.0.7:40312", "10.0.0.7"},
    {"ipv4:10.0.0.7:1", "ipv4:10.0.0.7:1", "10.0.0.7"},
    {"ipv6:%5B::ffff:10.0.0.7%5D:40312", "ipv4:10.0.0.7:40312", "10.0.0.7"},
    {"ipv6:%5B2001:db8:1:2:3:4:5:6%5D:65535", "ipv6:[2001:db8:1:2:3:4:5:6]:65535",
     "2001:db8:1:2::/64"},
    /* Ends as an IPv4 address in IPv6 does, and is none. */
    {"ipv6:%5B2001:db8:1:2:0:ffff:10.0.0.7%5D:40312", "ipv6:[2001:db8:1:2:0:ffff:a00:7]:40312",
     "2001:db8:1:2::/64"},
    {"ipv6:%5B2001:db8:1:3::1%5D:40312", "ipv6:[2001:db8:1:3::1]:40312", "2001:db8:1:3::/64"},
    {"ipv6:%5B::1%5D:40312", "ipv6:[::1]:40312", "::/64"},
    {"ipv6:[::1]:40312", "ipv6:[::1]:40312", "::/64"},
    {"ipv6:%5Bfe80::1%25eth0%5D:40312", "ipv6:[fe80::1]:40312", "fe80::/64"},
    {"ipv6:%5B2001:db8:1111:2222:3333:4444:5555:6666%5D:40312",
     "ipv6:[2001:db8:1111:2222:3333:4444:5555:6666]:40312", "2001:db8:1111:2222::/64"},
};

static void test_peer_told_by_grpc(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(g_cases); i++) {
        kd_peer p, again;
        char text[KD_PEER_TEXT], network[KD_PEER_NETWORK];
        if (!kd_peer_parse(g_cases[i].told, &p))
            fail_msg("%s is no peer", g_cases[i].told);
        kd_peer_text(&p, text);
        assert_string_equal(text, g_cases[i].text);
        kd_peer_network_text(&p, network);
        assert_string_equal(network, g_cases[i].network);
        assert_true(kd_peer_parse(text, &again));
        assert_memory_equal(&p, &again, sizeof p);
    }
}

/* libmicrohttpd and getpeername tell it by a socket address. */
static void test_peer_told_by_the_socket(void **state)
{
    (void)state;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(40312)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(40312)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    kd_peer p, q;
    char text[KD_PEER_TEXT];
    assert_int_equal(inet_pton(AF_INET, "10.0.0.7", &v4.sin_addr), 1);
    assert_true(kd_peer_of((struct sockaddr *)&v4, &p));
    kd_peer_text(&p, text);
    assert_string_equal(text, "ipv4:10.0.0.7:40312");
    assert_int_equal(inet_pton(AF_INET6, "::ffff:10.0.0.7", &v6.sin6_addr), 1);
    assert_true(kd_peer_of((struct sockaddr *)&v6, &q));
    assert_memory_equal(&p, &q, sizeof p);
    assert_int_equal(inet_pton(AF_INET6, "2001:db8::1", &v6.sin6_addr), 1);
    assert_true(kd_peer_of((struct sockaddr *)&v6, &q));
    kd_peer_text(&q, text);
    assert_string_equal(text, "ipv6:[2001:db8::1]:40312");
    assert_false(kd_peer_of((struct sockaddr *)&un, &q));
}

static uint64_t network_of(const char *text)
{
    kd_peer p;
    assert_true(kd_peer_parse(text, &p));
    return kd_peer_network(&p);
}

static void test_peer_network(void **state)
{
    (void)state;
    assert_true(network_of("ipv4:10.0.0.7:1") == network_of("ipv6:[::ffff:10.0.0.7]:2"));
    assert_true(network_of("ipv4:10.0.0.7:1") != network_of("ipv4:10.0.0.8:1"));
    assert_true(network_of("ipv6:[2001:db8:1:2::1]:1") == network_of("ipv6:[2001:db8:1:2:3::]:9"));
    assert_true(network_of("ipv6:[2001:db8:1:2::1]:1") != network_of("ipv6:[2001:db8:1:3::1]:1"));
}

static void test_peer_no_such_text(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "", "unix:", "unix:/run/x", "ipv4:10.0.0:1", "ipv4:10.0.0.7", "ipv4:10.0.0.7:65536",
        "ipv4:10.0.0.7:1x", "ipv4:10.0.0.7:", "10.0.0.7:1", "ipv6:%5B::1:1", "ipv6:%5B%5D:1",
        "ipv6:::1:1", "ipv6:%5B%25eth0%5D:1",
        /* Longer than any address. */
        "ipv6:%5B11111111112222222222333333333344444444445555555555666666666677777%5D:1",
        "ipv6:%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B%5B"
        "1111111111222222222233333333334444444444555555555566666666667777777777888888888899%5D:1"};
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_peer p;
        if (kd_peer_parse(wrong[i], &p))
            fail_msg("%s is taken for a peer", wrong[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peer_told_by_grpc),
        cmocka_unit_test(test_peer_told_by_the_socket),
        cmocka_unit_test(test_peer_network),
        cmocka_unit_test(test_peer_no_such_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
