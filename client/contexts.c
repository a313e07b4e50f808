#include "contexts.h"

#include "args.h"
#include "format.h"

#include "kd/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void kd_context_base(char out[KD_CONTEXT_PATH])
{
    bool chosen;
    kd_login_folder(NULL, "DISTILL_CONFIG", "distill", false, out, &chosen);
}

int kd_context_check_name(const char *name, kd_diag *diag)
{
    size_t n = strspn(name, KD_NAME_LETTERS);
    if (n > 0 && n < KD_CONTEXT_NAME && !name[n] && name[0] != '.')
        return 0;
    return kd_fail(diag, -KD_EINVAL,
                   "\"%.80s\" cannot name a context: 1 to %d letters, digits, dots, dashes or "
                   "underscores are expected",
                   name, KD_CONTEXT_NAME - 1);
}

void kd_context_folder(const char *name, char out[KD_CONTEXT_PATH])
{
    char base[KD_CONTEXT_PATH];
    kd_context_base(base);
    if (strcmp(name, KD_CONTEXT_DEFAULT) == 0)
        snprintf(out, KD_CONTEXT_PATH, "%s", base);
    else
        snprintf(out, KD_CONTEXT_PATH, "%.3900s/contexts/%.63s", base, name);
}

static void file_of(const char *dir, const char *name, char out[KD_CONTEXT_PATH + 16])
{
    snprintf(out, KD_CONTEXT_PATH + 16, "%s/%s", dir, name);
}

/* The first line; false: there is no such file or it is empty. */
static bool read_line(const char *dir, const char *name, char *out, size_t size)
{
    char path[KD_CONTEXT_PATH + 16], *text = NULL;
    size_t len;
    file_of(dir, name, path);
    if (kd_file_read(path, size - 1, &text, &len, NULL) != 0)
        return false;
    snprintf(out, size, "%.*s", (int)strcspn(text, "\r\n"), text);
    free(text);
    return out[0] != '\0';
}

static int write_line(const char *dir, const char *name, const char *text, kd_diag *diag)
{
    char path[KD_CONTEXT_PATH + 16];
    file_of(dir, name, path);
    return kd_file_write(path, text, strlen(text), diag);
}

/* False: no context lies there. */
static bool load(const char *name, kd_context *out)
{
    char path[KD_CONTEXT_PATH + 16];
    kd_context c = {0};
    snprintf(c.name, sizeof c.name, "%s", name);
    kd_context_folder(name, c.dir);
    if (!kd_login_server(c.dir, c.server))
        return false;
    (void)read_line(c.dir, "local", c.local, sizeof c.local);
    (void)read_line(c.dir, "previous", c.previous, sizeof c.previous);
    file_of(c.dir, "insecure", path);
    c.insecure = access(path, F_OK) == 0;
    *out = c;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const kd_context *)a)->name, ((const kd_context *)b)->name);
}

size_t kd_context_list(kd_context **out)
{
    char base[KD_CONTEXT_PATH], path[KD_CONTEXT_PATH + 16];
    kd_context *list = kd_xalloc(KD_CONTEXTS_MAX * sizeof *list);
    size_t n = load(KD_CONTEXT_DEFAULT, &list[0]);
    kd_context_base(base);
    file_of(base, "contexts", path);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) && n < KD_CONTEXTS_MAX;)
        if (kd_context_check_name(e->d_name, NULL) == 0 &&
            strcmp(e->d_name, KD_CONTEXT_DEFAULT) != 0 && load(e->d_name, &list[n]))
            n++;
    if (d)
        closedir(d);
    qsort(list, n, sizeof *list, by_name);
    *out = list;
    return n;
}

int kd_context_load(const char *name, kd_context *out, kd_diag *diag)
{
    int rc = kd_context_check_name(name, diag);
    if (rc != 0 || load(name, out))
        return rc;
    kd_context *list;
    const char *names[KD_CONTEXTS_MAX];
    size_t n = kd_context_list(&list);
    for (size_t i = 0; i < n; i++)
        names[i] = list[i].name;
    const char *near = kd_args_nearest(name, names, (int)n);
    rc = kd_fail(diag, -KD_ENOENT, "there is no context %.63s%s%s%s", name,
                 near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    free(list);
    return rc;
}

bool kd_context_of_server(const char *server, kd_context *out)
{
    kd_context *list;
    size_t n = kd_context_list(&list), i = 0;
    while (i < n && strcmp(list[i].server, server) != 0)
        i++;
    if (i < n)
        *out = list[i];
    free(list);
    return i < n;
}

bool kd_context_current(char out[KD_CONTEXT_NAME])
{
    char base[KD_CONTEXT_PATH];
    kd_context_base(base);
    return read_line(base, "context", out, KD_CONTEXT_NAME) &&
           kd_context_check_name(out, NULL) == 0;
}

int kd_context_use(const char *name, kd_diag *diag)
{
    char base[KD_CONTEXT_PATH], path[KD_CONTEXT_PATH + 16];
    kd_context_base(base);
    if (name[0]) {
        int rc = kd_file_mkdirs(base, diag);
        return rc == 0 ? write_line(base, "context", name, diag) : rc;
    }
    file_of(base, "context", path);
    if (unlink(path) == 0 || errno == ENOENT)
        return 0;
    return kd_fail(diag, -KD_EIO, "cannot remove %.300s: %s", path, strerror(errno));
}

int kd_context_add(const kd_context *c, kd_diag *diag)
{
    kd_context old;
    char dir[KD_CONTEXT_PATH];
    int rc = kd_context_check_name(c->name, diag);
    if (rc == 0 && load(c->name, &old))
        rc =
            kd_fail(diag, -KD_EEXIST, "there is a context %s already, for %s", c->name, old.server);
    if (rc != 0)
        return rc;
    kd_context_folder(c->name, dir);
    rc = kd_file_mkdirs(dir, diag);
    if (rc == 0 && c->insecure)
        rc = write_line(dir, "insecure", "", diag);
    if (rc == 0 && c->local[0])
        rc = write_line(dir, "local", c->local, diag);
    if (rc == 0 && c->previous[0])
        rc = write_line(dir, "previous", c->previous, diag);
    /* Last: it is what makes the folder a context. */
    return rc == 0 ? write_line(dir, "server", c->server, diag) : rc;
}

int kd_context_remove(const kd_context *c, kd_diag *diag)
{
    static const char *const files[] = {"server",   "identity.pem", "ca.pem",
                                        "insecure", "local",        "previous"};
    char current[KD_CONTEXT_NAME], path[KD_CONTEXT_PATH + 16];
    int rc = 0;
    if (kd_context_current(current) && strcmp(current, c->name) == 0)
        rc = kd_context_use("", diag);
    for (size_t i = 0; rc == 0 && i < KD_COUNT(files); i++) {
        file_of(c->dir, files[i], path);
        if (unlink(path) != 0 && errno != ENOENT)
            rc = kd_fail(diag, -KD_EIO, "cannot remove %.300s: %s", path, strerror(errno));
    }
    /* The folder of `default` holds the others. */
    if (rc == 0 && strcmp(c->name, KD_CONTEXT_DEFAULT) != 0)
        rc = kd_file_remove_tree(c->dir, diag);
    return rc;
}
