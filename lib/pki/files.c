/* Keys and certificates in files. */
#include "pki_internal.h"

#include "kd/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int kd_pki_read_certificate(const char *path, char **out, kd_diag *diag)
{
    size_t len;
    return kd_file_read(path, KD_PKI_MAX_PEM, out, &len, diag);
}

int kd_pki_read_key(const char *path, char **out, kd_diag *diag)
{
    struct stat st;
    size_t len;
    /* Not to wait for the other end of a pipe that somebody has put there. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return kd_fail(diag, errno == ENOENT ? -KD_ENOENT : -KD_EPERM, "cannot open the key %s: %s",
                       path, strerror(errno));
    int rc = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        rc = kd_fail(diag, -KD_EPERM, "the key %s is no plain file", path);
    else if (st.st_uid != geteuid() && st.st_uid != 0)
        rc = kd_fail(diag, -KD_EPERM,
                     "the key %s belongs to another user (%u); chown it to the one that runs this",
                     path, (unsigned)st.st_uid);
    else if (st.st_mode & 077)
        rc = kd_fail(diag, -KD_EPERM,
                     "the key %s can be read or written by others (mode %04o); chmod 600 it, and "
                     "make a new one if anybody may have read it",
                     path, (unsigned)(st.st_mode & 07777));
    if (rc == 0)
        rc = kd_file_read_fd(fd, path, KD_PKI_MAX_PEM, out, &len, diag);
    close(fd);
    return rc;
}

int kd_pki_write(const char *path, const char *text, kd_diag *diag)
{
    return kd_file_write(path, text, strlen(text), diag);
}
