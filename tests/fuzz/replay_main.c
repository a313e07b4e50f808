/* Feeds files to a target, without libFuzzer: the corpora as ordinary tests, or one file that
 * crashed. In a folder of them some must be accepted and some refused, else they test one half. */
#include "fuzz.h"

#include "kd/file.h"
#include "kd/log.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE (64u << 20)

static int g_accepted, g_refused;

static void feed(const char *path)
{
    char *data = NULL;
    size_t len = 0;
    kd_diag diag = {0};
    if (kd_file_read(path, MAX_FILE, &data, &len, &diag) != 0) {
        fprintf(stderr, "%s\n", diag.msg);
        exit(2);
    }
    printf("%s\n", path);
    if (kd_fuzz_run(KD_FUZZ_TARGET, data, len))
        g_accepted++;
    else
        g_refused++;
    free(data);
}

static int by_name(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

/* false if it is none. */
static bool feed_folder(const char *path)
{
    struct dirent **e;
    int n = scandir(path, &e, by_name, alphasort);
    if (n < 0)
        return false;
    g_accepted = g_refused = 0;
    for (int i = 0; i < n; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, e[i]->d_name);
        feed(file);
        free(e[i]);
    }
    free(e);
    printf("%s: %d accepted, %d refused\n", path, g_accepted, g_refused);
    if (!g_accepted || !g_refused) {
        fprintf(stderr, "%s: inputs of both kinds are wanted\n", path);
        exit(1);
    }
    return true;
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        printf("Usage: %s FILE|FOLDER...\nFeeds each file to the target.\n", argv[0]);
        return argc < 2 ? 2 : 0;
    }
    /* The name of the file that crashed is the last line. */
    setvbuf(stdout, NULL, _IOLBF, 0);
    kd_log_set_level(KD_LOG_ERR);
    for (int i = 1; i < argc; i++)
        if (!feed_folder(argv[i]))
            feed(argv[i]);
    return 0;
}
