#include "kd/address.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

bool kd_address_split(const char *address, char *host, size_t size, char port[6])
{
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0, digits = colon ? strlen(colon + 1) : 0;
    if (n == 0 || digits == 0 || digits > 5 || strspn(colon + 1, "0123456789") != digits)
        return false;
    memcpy(port, colon + 1, digits + 1);
    if (strtol(port, NULL, 10) > 65535)
        return false;
    if (address[0] == '[' && address[n - 1] == ']')
        address++, n -= 2;
    else if (memchr(address, ':', n))
        return false;
    if (n == 0 || n >= size)
        return false;
    memcpy(host, address, n);
    host[n] = '\0';
    return true;
}

bool kd_address_is_loopback(const char *address)
{
    char host[256], port[6];
    struct in_addr v4;
    struct in6_addr v6;
    if (!kd_address_split(address, host, sizeof host, port))
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return strcmp(host, "localhost") == 0;
}
