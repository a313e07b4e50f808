/* HOST:PORT, as servers are named: host a name, an IPv4 address, or an IPv6 one in brackets.
 * Threads: reentrant. */
#ifndef KD_ADDRESS_H
#define KD_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

/* Its parts, host without brackets; false when it has not both, the port is no number up to 65535,
 * or the host does not fit into size bytes. */
bool kd_address_split(const char *address, char *host, size_t size, char port[6]);
/* Whether it is on this machine whatever the network does: 127.0.0.0/8, ::1 or localhost. True as
 * well for what is no address, which nobody reaches. */
bool kd_address_is_loopback(const char *address);

#endif
