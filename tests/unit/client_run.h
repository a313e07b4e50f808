/* Runs the whole command in this process, with its output in files. */
#ifndef KD_CLIENT_RUN_H
#define KD_CLIENT_RUN_H

#include "kd_test.h"

#include "cli.h"
#include "kd/file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline char *kd_run_slurp(const char *path)
{
    char *text = NULL;
    size_t len;
    kd_diag diag = {0};
    kd_assert_ok(kd_file_read(path, 1 << 20, &text, &len, &diag), &diag);
    return text;
}

/* words: what stands behind `distill`, closed by NULL. dir: where the files go. The caller frees
 * both texts. Returns the exit code. */
static inline int kd_run_distill(const char *dir, char **out, char **err, const char *const *words)
{
    char *argv[16] = {(char *)"distill"}, paths[2][256];
    int argc = 1, saved[2];
    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)words[argc - 1];
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/std%d", dir, i + 1);
        saved[i] = dup(i + 1);
        assert_non_null(freopen(paths[i], "w", i == 0 ? stdout : stderr));
    }
    int rc = kd_cli_main(argc, argv);
    fflush(stdout);
    fflush(stderr);
    for (int i = 0; i < 2; i++) {
        dup2(saved[i], i + 1);
        close(saved[i]);
    }
    *out = kd_run_slurp(paths[0]);
    *err = kd_run_slurp(paths[1]);
    return rc;
}

/* What kd_run_distill has given. */
static inline void kd_run_drop(char **out, char **err)
{
    free(*out);
    free(*err);
    *out = *err = NULL;
}

/* The same, and it must end with `code`. */
static inline void kd_run_expect(const char *dir, char **out, char **err, int code,
                                 const char *const *words)
{
    const int rc = kd_run_distill(dir, out, err, words);
    if (rc != code)
        fail_msg("%s %s: exit code %d: %s%s", words[0], words[1], rc, *out, *err);
}

/* What it printed as JSON; the caller drops it. */
static inline json_t *kd_run_json(const char *out, const char *err)
{
    json_t *o = json_loads(out, 0, NULL);
    if (!o)
        fail_msg("no JSON: %s%s", out, err);
    return o;
}

static inline double kd_run_number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v))
        fail_msg("no number %s", key);
    return json_number_value(v);
}

static inline void kd_assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no \"%s\" in:\n%s", part, text);
}

#endif
