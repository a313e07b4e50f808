#include "fuzz.h"

#include "kd/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int kd_fuzz_refused(int rc, const kd_diag *diag)
{
    KD_FUZZ_CHECK(rc < 0 && rc > -KD_ERR_COUNT);
    KD_FUZZ_CHECK(rc != -KD_EINTERNAL);
    KD_FUZZ_CHECK(diag->code == rc);
    KD_FUZZ_CHECK(diag->msg[0] != '\0');
    return 0;
}

int kd_fuzz_run(kd_fuzz_fn *fn, const void *data, size_t len)
{
    uint8_t *exact = malloc(len ? len : 1);
    KD_BUG_ON(!exact);
    if (len)
        memcpy(exact, data, len);
    int accepted = fn(exact, len);
    free(exact);
    return accepted;
}

size_t kd_fuzz_parts(const uint8_t *data, size_t len, kd_fuzz_part *out, size_t max)
{
    const size_t cut_len = sizeof KD_FUZZ_CUT - 1;
    size_t n = 0;
    memset(out, 0, max * sizeof *out);
    for (;;) {
        const uint8_t *cut = n + 1 < max ? memmem(data, len, KD_FUZZ_CUT, cut_len) : NULL;
        out[n++] = (kd_fuzz_part){data, cut ? (size_t)(cut - data) : len};
        if (!cut)
            return n;
        len -= (size_t)(cut - data) + cut_len;
        data = cut + cut_len;
    }
}

char *kd_fuzz_text(const uint8_t *data, size_t len)
{
    char *text = malloc(len + 1);
    KD_BUG_ON(!text);
    if (len)
        memcpy(text, data, len);
    text[len] = '\0';
    return text;
}

void kd_fuzz_words_of(const char *program, const uint8_t *data, size_t len, kd_fuzz_words *out)
{
    const size_t room = strlen(program) + 1;
    *out = (kd_fuzz_words){.argc = 1, .text = kd_xalloc(room + len + 1)};
    memcpy(out->text, program, room);
    out->argv[0] = out->text;
    if (len)
        memcpy(out->text + room, data, len);
    for (char *rest = len ? out->text + room : NULL; rest && out->argc <= KD_FUZZ_WORDS;)
        out->argv[out->argc++] = strsep(&rest, "\n");
}

/* ---- a folder */

static char g_folder[4096];
static int g_folder_fd = -1;
static pid_t g_owner;

static void remove_folder(void)
{
    KD_BUG_ON(getpid() == g_owner && kd_file_remove_tree(g_folder, &(kd_diag){0}) != 0);
}

const char *kd_fuzz_folder(void)
{
    if (g_owner)
        return g_folder;
    const char *base = getenv("TMPDIR");
    if (!base || !*base)
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(g_folder, sizeof g_folder, "%s/kd-fuzz-XXXXXX", base);
    KD_BUG_ON(!mkdtemp(g_folder));
    g_folder_fd = open(g_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    KD_BUG_ON(g_folder_fd < 0);
    g_owner = getpid();
    KD_BUG_ON(atexit(remove_folder) != 0);
    return g_folder;
}

int kd_fuzz_folder_fd(void)
{
    (void)kd_fuzz_folder();
    return g_folder_fd;
}

/* Not kd_file_write, and no overwriting: waiting for the disk would be most of the time. */
void kd_fuzz_put(const char *name, const uint8_t *data, size_t len)
{
    int at = kd_fuzz_folder_fd();
    KD_BUG_ON(unlinkat(at, name, 0) != 0 && errno != ENOENT);
    if (!data)
        return;
    const char *slash = strchr(name, '/');
    if (slash) {
        char folder[64];
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - name), name);
        KD_BUG_ON(mkdirat(at, folder, 0700) != 0 && errno != EEXIST);
    }
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    KD_BUG_ON(fd < 0);
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, data + done, len - done);
        KD_BUG_ON(n <= 0);
        done += (size_t)n;
    }
    close(fd);
}

/* ---- output */

void kd_fuzz_silence(bool on)
{
    static FILE *nowhere, *out, *err;
    if (!nowhere) {
        nowhere = fopen("/dev/null", "w");
        KD_BUG_ON(!nowhere);
        out = stdout;
        err = stderr;
    }
    stdout = on ? nowhere : out;
    stderr = on ? nowhere : err;
}
