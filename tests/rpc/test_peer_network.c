/* Where a peer comes from, as gRPC calls it. */
#include "kd_test.h"

#include "rpc/rpc.h"

static void test_peer_network(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"ipv4:10.0.0.7:40312", "10.0.0.7"},
        {"ipv4:10.0.0.7:1", "10.0.0.7"},
        {"ipv6:%5B::ffff:10.0.0.7%5D:40312", "10.0.0.7"},
        {"ipv6:%5B2001:db8:1:2:3:4:5:6%5D:40312", "2001:db8:1:2::/64"},
        /* Ends as an IPv4 address in IPv6 does, and is none. */
        {"ipv6:%5B2001:db8:1:2:0:ffff:10.0.0.7%5D:40312", "2001:db8:1:2::/64"},
        {"ipv6:%5B2001:db8:1:3::1%5D:40312", "2001:db8:1:3::/64"},
        {"ipv6:%5B::1%5D:40312", "::/64"},
        {"ipv6:%5Bfe80::1%25eth0%5D:40312", "fe80::/64"},
        {"ipv6:%5B2001:db8:1111:2222:3333:4444:5555:6666%5D:40312", "2001:db8:1111:2222::/64"},
        {"", ""},
        {"unix:", "unix:"},
        {"ipv4:10.0.0:1", "ipv4:10.0.0:1"},
        /* Cut where it is longer than any address. */
        {"ipv6:%5B11111111112222222222333333333344444444445555555555666666666677777%5D:1",
         "ipv6:%5B1111111111222222222233333333334444444444555555555566666"},
    };
    char out[KD_RPC_NETWORK];
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kd_rpc_peer_network(cases[i][0], out);
        assert_string_equal(out, cases[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_peer_network)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
