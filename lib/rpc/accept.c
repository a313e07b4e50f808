/* What gRPC's listener gets for accept4.
 *
 * At the first failure that is not one of waiting gRPC 1.51 leaves its listening socket for good
 * (tcp_server_posix.cc, on_read), and running out of descriptors is such a failure: a burst of
 * connections would leave a coordinator that nobody can reach any more. So it must see none. A
 * program's own functions come before those of libraries, so this one takes the C library's place:
 * a connection is closed at once where it would leave fewer descriptors than the program needs for
 * its files, and what else fails reads as nobody waiting. */
#include "internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_SPARE 256 /* descriptors that connections leave to others */
#define LEAST_SPARE 16
#define AT_ONCE 1024 /* refused in one go: a poller has other things to do */

static atomic_ullong g_refused;

uint64_t kd_rpc_refused_connections(void)
{
    return atomic_load(&g_refused);
}

/* Descriptors from this number on are not for connections. The system gives the lowest number that
 * is free, so a connection with a higher one has all below it in use. */
static int connection_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur > (1u << 30))
        return 1 << 30;
    int limit = (int)r.rlim_cur;
    return limit - KD_MIN(MOST_SPARE, KD_MAX(LEAST_SPARE, limit / 8));
}

int accept4(int listener, __SOCKADDR_ARG address, socklen_t *__restrict len, int flags)
{
    int limit = connection_limit();
    for (int refused = 0; refused < AT_ONCE; refused++) {
        socklen_t room = len ? *len : 0;
        int fd = (int)syscall(SYS_accept4, listener, address.__sockaddr__, len, flags);
        if (fd >= 0 && fd < limit) {
            kd_rpc_connection_add(fd, limit);
            return fd;
        }
        if (fd < 0) {
            bool ours = errno == EINTR || errno == EBADF || errno == EINVAL || errno == ENOTSOCK ||
                        errno == EOPNOTSUPP || errno == EFAULT;
            if (!ours && errno != EAGAIN)
                atomic_fetch_add(&g_refused, 1);
            if (!ours)
                errno = EAGAIN;
            return -1;
        }
        close(fd);
        atomic_fetch_add(&g_refused, 1);
        if (len)
            *len = room;
    }
    errno = EAGAIN;
    return -1;
}
