/* What lies below a folder. The order is that of the names' bytes, never that of the file system.
 */
#include "data/dataset_internal.h"
#include "kd/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const kd_entry *)a)->name, ((const kd_entry *)b)->name);
}

void kd_walk_free(kd_entry *entries, size_t n)
{
    for (size_t i = 0; entries && i < n; i++)
        free(entries[i].name);
    free(entries);
}

/* Whether an entry is a folder. A link is what it leads to, if that lies beneath the root. */
static bool entry_is_folder(const kd_data *d, const char *path, const struct dirent *e)
{
    if (e->d_type != DT_LNK && e->d_type != DT_UNKNOWN)
        return e->d_type == DT_DIR;
    return kd_data_is_folder(d, path, e->d_name, NULL) == 1;
}

static int add_entry(kd_entry **entries, size_t *n, size_t *room, const char *name, bool folder)
{
    if (*n == *room) {
        size_t more = KD_MAX(2 * *room, (size_t)64);
        kd_entry *p = realloc(*entries, more * sizeof *p);
        if (!p)
            return -KD_ENOMEM;
        *entries = p;
        *room = more;
    }
    char *copy = strdup(name);
    if (!copy)
        return -KD_ENOMEM;
    (*entries)[(*n)++] = (kd_entry){copy, folder};
    return 0;
}

/* Takes fd. */
static int list_fd(const kd_data *d, int fd, const char *path, kd_entry **out, size_t *out_n,
                   kd_diag *diag)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int rc = kd_fail(diag, -KD_EIO, "cannot list %s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    kd_entry *entries = NULL;
    size_t n = 0, room = 0;
    int rc = 0;
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e) {
            if (errno != 0)
                rc = kd_fail(diag, -KD_EIO, "cannot list %s: %s", path, strerror(errno));
            break;
        }
        if (e->d_name[0] == '.')
            continue;
        if (n == KD_DATA_MAX_SAMPLES)
            rc =
                kd_fail(diag, -KD_ELIMIT, "%s has more than %u entries", path, KD_DATA_MAX_SAMPLES);
        else if (add_entry(&entries, &n, &room, e->d_name, entry_is_folder(d, path, e)) != 0)
            rc = kd_fail(diag, -KD_ENOMEM, "no memory to list %s", path);
        if (rc != 0)
            break;
    }
    closedir(dir);
    if (rc != 0) {
        kd_walk_free(entries, n);
        return rc;
    }
    if (n > 0)
        qsort(entries, n, sizeof *entries, compare_entries);
    *out = entries;
    *out_n = n;
    return 0;
}

int kd_walk_list(const kd_data *d, const char *path, kd_entry **out, size_t *out_n, kd_diag *diag)
{
    const char *at = *path ? path : ".";
    int fd = kd_data_open_path(d, at, O_DIRECTORY, diag);
    return fd < 0 ? fd : list_fd(d, fd, at, out, out_n, diag);
}

/* ---- pictures */

static bool is_picture(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0 ||
                   strcasecmp(dot, ".png") == 0);
}

static int add_name(kd_names *out, const char *name, kd_diag *diag)
{
    size_t len = strlen(name) + 1;
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F)
            return kd_fail(diag, -KD_EDATA, "the name of a picture has a control character: %.200s",
                           name);
    if (len > KD_DATA_MAX_LINE)
        return kd_fail(diag, -KD_EDATA, "the path %.80s... is longer than %d bytes", name,
                       KD_DATA_MAX_LINE);
    if (out->count == KD_DATA_MAX_SAMPLES || out->len + len > KD_DATA_MAX_LIST)
        return kd_fail(diag, -KD_ELIMIT, "more pictures than are accepted (%u) at %.200s",
                       KD_DATA_MAX_SAMPLES, name);
    if (out->len + len > out->room) {
        size_t room = KD_MAX(2 * out->room, out->len + len + 4096);
        char *p = realloc(out->text, room);
        if (!p)
            return kd_fail(diag, -KD_ENOMEM, "no memory for the names of the pictures");
        out->text = p;
        out->room = room;
    }
    memcpy(out->text + out->len, name, len);
    out->len += len;
    out->count++;
    return 0;
}

/* The folders that lead to where we are, so that a link back to one of them is noticed. */
typedef struct above {
    const struct above *up;
    dev_t dev;
    ino_t ino;
    int depth;
} above;

static int walk(const kd_data *d, const char *folder, const char *name, const above *up,
                kd_names *out, kd_diag *diag);

static int walk_entries(const kd_data *d, const char *folder, const char *name, const above *here,
                        const kd_entry *entries, size_t n, kd_names *out, kd_diag *diag)
{
    char child[KD_DATA_PATH_ROOM];
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (++out->seen > KD_DATA_MAX_SAMPLES)
            return kd_fail(diag, -KD_ELIMIT, "more than %u files below %s", KD_DATA_MAX_SAMPLES,
                           folder);
        rc = kd_data_path(name, entries[i].name, child, diag);
        if (rc == 0 && entries[i].folder)
            rc = walk(d, folder, child, here, out, diag);
        else if (rc == 0 && is_picture(entries[i].name))
            rc = add_name(out, child, diag);
    }
    return rc;
}

/* Opens folder/name; the caller closes it. */
static int enter(const kd_data *d, const char *folder, const char *name, const above *up,
                 above *out, kd_diag *diag)
{
    char path[KD_DATA_PATH_ROOM];
    struct stat st;
    int rc = kd_data_path(folder, name, path, diag);
    if (rc != 0)
        return rc;
    int fd = kd_data_open_path(d, path, O_DIRECTORY, diag);
    if (fd >= 0 && fstat(fd, &st) != 0) {
        rc = kd_fail(diag, -KD_EIO, "cannot look at %s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    if (fd >= 0)
        *out = (above){up, st.st_dev, st.st_ino, up ? up->depth + 1 : 1};
    return fd;
}

static int walk(const kd_data *d, const char *folder, const char *name, const above *up,
                kd_names *out, kd_diag *diag)
{
    if (up && up->depth == KD_WALK_DEPTH)
        return kd_fail(diag, -KD_ELIMIT, "%.200s: folders lie in one another deeper than %d", name,
                       KD_WALK_DEPTH);
    above here;
    int fd = enter(d, folder, name, up, &here, diag);
    if (fd < 0)
        return fd;
    for (const above *a = up; a; a = a->up)
        if (a->dev == here.dev && a->ino == here.ino) {
            close(fd);
            return 0; /* a link back up: everything in it is walked already, or not asked for */
        }
    char path[KD_DATA_PATH_ROOM];
    kd_entry *entries;
    size_t n;
    int rc = kd_data_path(folder, name, path, diag);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    rc = list_fd(d, fd, path, &entries, &n, diag);
    if (rc != 0)
        return rc;
    rc = walk_entries(d, folder, name, &here, entries, n, out, diag);
    kd_walk_free(entries, n);
    return rc;
}

int kd_walk_pictures(const kd_data *d, const char *folder, const char *name, kd_names *out,
                     kd_diag *diag)
{
    /* A link below the folder may also lead above it: to `folder`, or to one on the way. */
    above chain[KD_WALK_DEPTH];
    char part[KD_DATA_PATH_ROOM];
    int n = 0, rc = 0;
    for (const char *stop = name; *name && stop && rc >= 0; stop = strchr(stop + 1, '/')) {
        if (n == KD_WALK_DEPTH)
            return kd_fail(diag, -KD_ELIMIT, "%.200s lies deeper than %d folders", name,
                           KD_WALK_DEPTH);
        snprintf(part, sizeof part, "%.*s", (int)(stop - name), name);
        rc = enter(d, folder, part, n ? &chain[n - 1] : NULL, &chain[n], diag);
        if (rc >= 0)
            close(rc);
        n++;
    }
    return rc < 0 ? rc : walk(d, folder, name, n ? &chain[n - 1] : NULL, out, diag);
}
