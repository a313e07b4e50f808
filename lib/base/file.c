#include "kd/file.h"
#include "kd/failpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static int code_of(int err)
{
    switch (err) {
    case ENOENT:
    case ENOTDIR:
        return -KD_ENOENT;
    case EACCES:
    case EPERM:
        return -KD_EPERM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return -KD_ELIMIT;
    case ENOMEM:
        return -KD_ENOMEM;
    case EXDEV:
    case ELOOP:
        return -KD_EPERM;
    default:
        return -KD_EIO;
    }
}

static int fail_errno(kd_diag *diag, const char *verb, const char *path)
{
    int err = errno;
    return kd_fail(diag, code_of(err), "cannot %s %s: %s", verb, path, strerror(err));
}

int kd_file_read_fd(int fd, const char *name, size_t max, char **out_data, size_t *out_len,
                    kd_diag *diag)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return fail_errno(diag, "stat", name);
    if (S_ISDIR(st.st_mode))
        return kd_fail(diag, -KD_EINVAL, "%s is a folder, a file was expected", name);
    size_t cap = st.st_size > 0 ? (size_t)st.st_size : 4096, len = 0;
    if (st.st_size > 0 && (size_t)st.st_size > max)
        return kd_fail(diag, -KD_ELIMIT, "%s has %lld bytes, at most %zu are accepted", name,
                       (long long)st.st_size, max);
    char *data = malloc(cap + 1);
    if (!data)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu bytes of %s", cap, name);
    for (;;) {
        if (len == cap) {
            /* Grown since the stat, or a pipe whose size is unknown. */
            char probe;
            ssize_t more = read(fd, &probe, 1);
            if (more == 0)
                break;
            if (more < 0 && errno == EINTR)
                continue;
            char *p = more < 0 || cap >= max ? NULL : realloc(data, KD_MIN(cap * 2, max) + 1);
            if (!p) {
                free(data);
                return more < 0
                           ? fail_errno(diag, "read", name)
                           : kd_fail(diag, -KD_ELIMIT, "%s is larger than %zu bytes", name, max);
            }
            data = p;
            cap = KD_MIN(cap * 2, max);
            data[len++] = probe;
            continue;
        }
        ssize_t n = read(fd, data + len, cap - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            free(data);
            return fail_errno(diag, "read", name);
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    data[len] = '\0';
    *out_data = data;
    *out_len = len;
    return 0;
}

int kd_file_read(const char *path, size_t max, char **out_data, size_t *out_len, kd_diag *diag)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(diag, "open", path);
    int rc = kd_file_read_fd(fd, path, max, out_data, out_len, diag);
    close(fd);
    return rc;
}

void kd_file_fsync_failed(const char *path)
{
    fprintf(stderr, "fsync of %s failed: %s; stopping, since what the disk holds is unknown\n",
            path, strerror(errno));
    abort();
}

/* errno on failure. */
static bool synced(int fd)
{
    return !KD_FAILPOINT_FAILS("file.fsync") && fsync(fd) == 0;
}

static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int kd_file_fsync_parent(const char *path, kd_diag *diag)
{
    char *dir = parent_of(path);
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int rc = 0;
    if (fd < 0) {
        rc = fail_errno(diag, "open folder of", path);
    } else {
        if (!synced(fd))
            kd_file_fsync_failed(dir);
        close(fd);
    }
    free(dir);
    return rc;
}

/* ---- drafts */

int kd_file_draft_open(const char *path, kd_file_draft *out, kd_diag *diag)
{
    kd_file_draft d = KD_FILE_DRAFT_INIT;
    d.path = strdup(path);
    if (!d.path || asprintf(&d.temporary, "%s.tmp-XXXXXX", path) < 0) {
        free(d.path);
        return kd_fail(diag, -KD_ENOMEM, "no memory to write %s", path);
    }
    d.fd = mkostemp(d.temporary, O_CLOEXEC);
    if (d.fd < 0) {
        const int rc = fail_errno(diag, "create a temporary file for", path);
        free(d.temporary);
        free(d.path);
        return rc;
    }
    *out = d;
    return 0;
}

int kd_file_draft_open_there(const char *path, kd_file_draft *out, kd_diag *diag)
{
    kd_file_draft d = KD_FILE_DRAFT_INIT;
    d.fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (d.fd < 0)
        return fail_errno(diag, "write", path);
    d.path = strdup(path);
    if (!d.path) {
        close(d.fd);
        return kd_fail(diag, -KD_ENOMEM, "no memory to write %s", path);
    }
    *out = d;
    return 0;
}

int kd_file_draft_add(kd_file_draft *d, const void *data, size_t len, kd_diag *diag)
{
    const char *p = data;
    if (KD_FAILPOINT_FAILS("file.write"))
        return fail_errno(diag, "write", d->path);
    for (size_t left = len; left;) {
        ssize_t n = write(d->fd, p, left);
        if (n < 0 && errno == EINTR && !(d->stop && d->stop() != 0))
            continue;
        if (n < 0)
            return fail_errno(diag, "write", d->path);
        p += n;
        left -= (size_t)n;
    }
    return 0;
}

int kd_file_draft_sync(kd_file_draft *d, mode_t mode, kd_diag *diag)
{
    if (d->temporary && ((mode && fchmod(d->fd, mode) != 0) || !synced(d->fd)))
        return fail_errno(diag, "write", d->path);
    return 0;
}

int kd_file_draft_place(kd_file_draft *d, kd_diag *diag)
{
    if (!d->temporary)
        return 0;
    if (KD_FAILPOINT_FAILS("file.rename") || rename(d->temporary, d->path) != 0)
        return fail_errno(diag, "rename to", d->path);
    free(d->temporary);
    d->temporary = NULL;
    KD_FAILPOINT("file.renamed");
    int rc = kd_file_fsync_parent(d->path, diag);
    KD_FAILPOINT("file.synced");
    return rc;
}

void kd_file_draft_clear(kd_file_draft *d)
{
    if (d->fd >= 0)
        close(d->fd);
    if (d->temporary)
        unlink(d->temporary);
    free(d->temporary);
    free(d->path);
    *d = (kd_file_draft)KD_FILE_DRAFT_INIT;
}

int kd_file_write(const char *path, const void *data, size_t len, kd_diag *diag)
{
    kd_file_draft d = KD_FILE_DRAFT_INIT;
    int rc = kd_file_draft_open(path, &d, diag);
    if (rc == 0)
        rc = kd_file_draft_add(&d, data, len, diag);
    if (rc == 0 && kd_file_draft_sync(&d, 0, NULL) != 0)
        kd_file_fsync_failed(d.temporary);
    if (rc == 0)
        rc = kd_file_draft_place(&d, diag);
    kd_file_draft_clear(&d);
    return rc;
}

void kd_file_drop_temporaries(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        size_t n = strlen(e->d_name), end = strlen(".tmp-XXXXXX");
        if (n > end && strncmp(e->d_name + n - end, ".tmp-", 5) == 0)
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    if (dir)
        closedir(dir);
}

int kd_file_mkdirs(const char *path, kd_diag *diag)
{
    if (!*path)
        return kd_fail(diag, -KD_EINVAL, "a folder without a name cannot be made");
    if (mkdir(path, 0700) == 0)
        return 0; /* what it stands in is there, as it mostly is */
    char *copy = strdup(path);
    if (!copy)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the path %s", path);
    int rc = 0;
    for (char *p = copy + 1; rc == 0; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char c = *p;
        *p = '\0';
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            rc = fail_errno(diag, "make folder", copy);
        *p = c;
        if (c == '\0')
            break;
    }
    struct stat st;
    if (rc == 0 && (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)))
        rc = kd_fail(diag, -KD_EINVAL, "%s is not a folder", path);
    free(copy);
    return rc;
}

static int remove_at(int parent, const char *name, int depth, kd_diag *diag)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return fail_errno(diag, "remove", name);
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(diag, "open folder", name);
    DIR *dir = depth < 16 ? fdopendir(fd) : NULL;
    if (!dir) {
        close(fd);
        return kd_fail(diag, -KD_EIO, "cannot list %s", name);
    }
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rc = remove_at(dirfd(dir), e->d_name, depth + 1, diag);
    closedir(dir);
    if (rc == 0 && unlinkat(parent, name, AT_REMOVEDIR) != 0)
        rc = fail_errno(diag, "remove folder", name);
    return rc;
}

int kd_file_remove_tree(const char *path, kd_diag *diag)
{
    return remove_at(AT_FDCWD, path, 0, diag);
}

static int open_resolved(int root_fd, const char *path, int extra_flags, uint64_t resolve,
                         kd_diag *diag)
{
    struct open_how how = {.flags = (uint64_t)(O_RDONLY | O_CLOEXEC | extra_flags),
                           .resolve = resolve};
    long fd = syscall(SYS_openat2, root_fd, path, &how, sizeof how);
    if (fd >= 0)
        return (int)fd;
    if (errno == EXDEV)
        return kd_fail(diag, -KD_EPERM, "the path %s leads out of the data root", path);
    return fail_errno(diag, "open", path);
}

int kd_file_open_beneath(int root_fd, const char *path, int extra_flags, kd_diag *diag)
{
    return open_resolved(root_fd, path, extra_flags, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS, diag);
}

int kd_file_open_at(int root_fd, const char *path, int extra_flags, kd_diag *diag)
{
    return open_resolved(root_fd, path, extra_flags, 0, diag);
}

int kd_file_need_room(const char *path, uint64_t keep, uint64_t bytes, kd_diag *diag)
{
    int64_t left = keep ? kd_file_free_bytes(path) : -1;
    if (left < 0 || ((uint64_t)left >= keep && (uint64_t)left - keep >= bytes))
        return 0;
    return kd_fail(diag, -KD_ELIMIT,
                   "the disk of %.300s has %.1f MiB free, of which %.1f MiB are kept for the "
                   "database and checkpoints (--min-free)",
                   path, (double)left / (1 << 20), (double)keep / (1 << 20));
}

int64_t kd_file_free_bytes(const char *path)
{
    struct statvfs v;
    if (statvfs(path, &v) != 0)
        return -1;
    return (int64_t)v.f_bavail * (int64_t)v.f_frsize;
}
