/* Where a connection comes from: one spelling of it, and one place where it is counted.
 * Threads: reentrant. */
#ifndef KD_PEER_H
#define KD_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

typedef struct kd_peer {
    uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint16_t port;
} kd_peer;

/* false: neither IPv4 nor IPv6. */
bool kd_peer_of(const struct sockaddr *a, kd_peer *out);
/* Of kd_peer_text's spelling, or of gRPC's: "ipv6:%5Bfe80::1%25eth0%5D:40312". A zone is left out.
 * false: it is no such text. */
bool kd_peer_parse(const char *text, kd_peer *out);
/* "ipv4:10.0.0.7:40312", "ipv6:[2001:db8::1]:40312"; an IPv4 address is spelled as one, whichever
 * way it came. */
#define KD_PEER_TEXT 64
void kd_peer_text(const kd_peer *p, char out[KD_PEER_TEXT]);

/* What all addresses of one machine have in common: all of IPv4's, and of IPv6's the /64, out of
 * which one machine may take as many as it likes. Equal for equal networks. */
uint64_t kd_peer_network(const kd_peer *p);
/* The same for people: "10.0.0.7", "2001:db8:1:2::/64". */
#define KD_PEER_NETWORK 64
void kd_peer_network_text(const kd_peer *p, char out[KD_PEER_NETWORK]);

#endif
