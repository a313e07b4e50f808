#include "pictures.h"

#include "output.h"

#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_picture(const char *name)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".png"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < KD_COUNT(ends); i++)
        if (strcasecmp(dot, ends[i]) == 0)
            return true;
    return false;
}

static bool add(kd_pictures *p, const char *path)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 256;
        char **more = cap <= 2 * KD_PICTURES_MAX ? realloc(p->paths, cap * sizeof *more) : NULL;
        if (!more)
            return false;
        p->paths = more;
        p->cap = cap;
    }
    char *copy = strdup(path);
    if (!copy)
        return false;
    p->paths[p->n++] = copy;
    return true;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int add_folder(const kd_cli *cli, const char *path, kd_pictures *p)
{
    char *const roots[] = {(char *)path, NULL};
    size_t before = p->n;
    FTS *walk = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, by_name);
    bool ok = walk != NULL;
    for (FTSENT *e; ok && kd_cli_signal() == 0 && (e = fts_read(walk));)
        /* A link to nothing is a picture that cannot be read. */
        if ((e->fts_info == FTS_F || e->fts_info == FTS_SLNONE) && is_picture(e->fts_name))
            ok = add(p, e->fts_path);
        else if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR)
            kd_say(cli, "cannot read %s: %s", e->fts_path, strerror(e->fts_errno));
    if (walk)
        fts_close(walk);
    if (!ok) {
        kd_error(cli, "cannot list %s: too many pictures, or no memory", path);
        return KD_EXIT_FAILURE;
    }
    if (kd_cli_signal() != 0)
        return kd_cli_signal_exit();
    if (p->n == before) {
        kd_error(cli, "there is no picture (.jpg, .jpeg, .png) below %s", path);
        return KD_EXIT_FAILURE;
    }
    return KD_EXIT_OK;
}

int kd_pictures_add(const kd_cli *cli, const char *operand, kd_pictures *p)
{
    struct stat st;
    if (stat(operand, &st) == 0 && S_ISDIR(st.st_mode))
        return add_folder(cli, operand, p);
    if (add(p, operand))
        return KD_EXIT_OK;
    kd_error(cli, "no memory for the names of the pictures");
    return KD_EXIT_FAILURE;
}

void kd_pictures_clear(kd_pictures *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->paths[i]);
    free(p->paths);
    *p = (kd_pictures){0};
}
