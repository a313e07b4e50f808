/* init: a job file to begin with. */
#include "args.h"
#include "cli.h"
#include "format.h"
#include "job/job.h"
#include "output.h"

#include "kd/buf.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_SETS 64
#define OWN_SETS 24
#define SET_TEXT 1200

static const kd_opt g_opts[] = {
    {"data", 0, "DIR", "the data set: a folder of pictures, lists, IDX or CIFAR files"},
    {"teacher", 0, "NET", "the large network: a name, NAME:WEIGHTS or FILE.onnx (mobilenet_v2)"},
    {"student", 0, "NET", "the small one, likewise (shallow_cnn)"},
    {"name", 0, "NAME", "name of the job (after the data set)"},
    {"size", 0, "N", "pixels a side of what the networks see (as the data set has them, else 224)"},
    {"epochs", 0, "N", "passes over the training samples (10)"},
    {"scratch", 0, NULL, "also train the student without its teacher, to compare"},
    {"set", 0, "KEY=VALUE", "any key of the job file, as in `distill explain` (repeatable)"},
    {"all", 'a', NULL, "show every key, not only those that people change first"},
};

typedef struct init {
    char own[OWN_SETS][SET_TEXT]; /* made of the other flags */
    int n_own;
    const char *given[MAX_SETS]; /* --set, which go before them */
    int n_given;
    char root[SET_TEXT]; /* what the workers' data root must be; "" = where the file is used */
} init;

static void set(init *in, const char *fmt, ...) KD_PRINTF(2, 3);
static void set(init *in, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    KD_BUG_ON(in->n_own == OWN_SETS);
    vsnprintf(in->own[in->n_own++], SET_TEXT, fmt, ap);
    va_end(ap);
}

static bool is_given(const init *in, const char *key)
{
    size_t n = strlen(key);
    for (int i = 0; i < in->n_given; i++)
        if (strncmp(in->given[i], key, n) == 0 && in->given[i][n] == '=')
            return true;
    return false;
}

/* ---- the data set */

static bool is_there(const char *dir, const char *name)
{
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path &&
           access(path, R_OK) == 0;
}

/* Pixels a side by an IDX file's header: 0 0 8 3, then the counts of pictures, rows and columns
 * (http://yann.lecun.com/exdb/mnist/); 0 = it has none. */
static int idx_size(const char *dir, const char *name)
{
    char path[4096];
    unsigned char h[16] = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool whole = fd >= 0 && read(fd, h, sizeof h) == (ssize_t)sizeof h;
    if (fd >= 0)
        close(fd);
    int rows = (int)(h[10] << 8 | h[11]);
    return whole && h[2] == 8 && h[3] == 3 && !h[8] && !h[9] && rows >= 8 && rows <= 1024 ? rows
                                                                                          : 0;
}

/* Where a class has a folder of its own, there is one. */
static bool has_folders(const char *dir)
{
    bool found = false;
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && !found && (e = readdir(d)) != NULL;) {
        struct stat st;
        found =
            e->d_name[0] != '.' && fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISDIR(st.st_mode);
    }
    if (d)
        closedir(d);
    return found;
}

/* False: it is no data set. */
static bool look_at_folder(init *in, const char *dir, int *out_size)
{
    static const char images[] = "train-images-idx3-ubyte", tests[] = "t10k-images-idx3-ubyte";
    static const char *const splits[] = {"train", "val", "test"};
    bool validates = false, known = true;
    if (is_there(dir, images)) {
        set(in, "data.labelled.format=idx");
        set(in, "data.labelled.train=%s", images);
        set(in, "data.labelled.train_labels=train-labels-idx1-ubyte");
        if (is_there(dir, tests)) {
            set(in, "data.labelled.test=%s", tests);
            set(in, "data.labelled.test_labels=t10k-labels-idx1-ubyte");
        }
        *out_size = idx_size(dir, images);
    } else if (is_there(dir, "data_batch_1.bin") || is_there(dir, "train.bin")) {
        set(in, "data.labelled.format=cifar");
        *out_size = 32;
    } else {
        known = has_folders(dir);
        for (size_t i = 0; i < KD_COUNT(splits); i++) {
            char list[16];
            snprintf(list, sizeof list, "%s.txt", splits[i]);
            const char *found = is_there(dir, list)        ? list
                                : is_there(dir, splits[i]) ? splits[i]
                                                           : NULL;
            if (found)
                set(in, "data.labelled.%s=%s", splits[i], found);
            validates = validates || (found && i == 1);
            known = known || found;
        }
    }
    if (!validates && !is_given(in, "data.labelled.val"))
        set(in, "data.labelled.val_share=0.1");
    return known || is_given(in, "data.labelled.format") || is_given(in, "data.labelled.train");
}

/* Where the data lie for the workers: the path beneath their data root. */
static int add_data(kd_cli *cli, init *in, const char *dir, int *out_size)
{
    struct stat st;
    char copy[SET_TEXT], base[SET_TEXT];
    if (strlen(dir) >= SET_TEXT - 64)
        return kd_usage(cli, "init", NULL, "--data: the path is too long");
    snprintf(copy, sizeof copy, "%s", dir);
    snprintf(base, sizeof base, "%s", basename(copy));
    if (dir[0] == '/' || strstr(dir, "..")) {
        snprintf(copy, sizeof copy, "%s", dir);
        snprintf(in->root, sizeof in->root, "%s", dirname(copy));
        set(in, "data.labelled.path=%s", base);
    } else {
        snprintf(copy, sizeof copy, "%s", dir);
        for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--)
            copy[n - 1] = '\0';
        set(in, "data.labelled.path=%s", strncmp(copy, "./", 2) == 0 ? copy + 2 : copy);
    }
    if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode)) {
        if (!is_given(in, "data.labelled.val"))
            set(in, "data.labelled.val_share=0.1");
        kd_say(cli, "note: there is no folder %s here; the workers need it beneath their data root",
               dir);
    } else if (!look_at_folder(in, dir, out_size)) {
        kd_error(cli,
                 "%s is no data set: it has neither a folder for each class, lists such as "
                 "train.txt, nor files in IDX's or CIFAR's format",
                 dir);
        return KD_EXIT_CONFIG;
    }
    return KD_EXIT_OK;
}

/* ---- networks */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

static int add_network(kd_cli *cli, init *in, const char *which, const char *net)
{
    const char *colon = strchr(net, ':');
    if (strlen(net) >= SET_TEXT - 64)
        return kd_usage(cli, "init", NULL, "--%s: the name is too long", which);
    bool trained = false; /* as it is to be */
    if (ends_with(net, ".onnx") && !colon) {
        set(in, "%s.model=onnx", which);
        set(in, "%s.weights=%s", which, net);
        trained = true;
    } else if (colon) {
        set(in, "%s.model=%.*s", which, (int)(colon - net), net);
        set(in, "%s.weights=%s", which, colon + 1);
        trained = kd_job_is_ref(colon + 1);
    } else {
        set(in, "%s.model=%s", which, net);
    }
    if (strcmp(which, "teacher") == 0 && !trained)
        set(in, "teacher.fine_tune.epochs=4");
    return KD_EXIT_OK;
}

/* ---- the file */

/* A name by the data set's, of what names are made of. */
static void add_name(init *in, const char *given, const char *dir)
{
    char copy[SET_TEXT], name[KD_JOB_NAME];
    snprintf(copy, sizeof copy, "%s", dir);
    snprintf(name, sizeof name, "%.50s-kd", basename(copy));
    kd_text_name(name, '-');
    set(in, "name=%s", given ? given : name);
}

/* What is said of a setting that nobody gave as --set, without that. */
static const char *without_own(const init *in, const char *message)
{
    for (int i = 0; i < in->n_own; i++) {
        char place[KD_JOB_SET];
        const size_t n = strlen(kd_job_set_place(in->own[i], place));
        if (strncmp(message, place, n) == 0 && strncmp(message + n, ": ", 2) == 0)
            return message + n + 2;
    }
    return message;
}

static int print(const kd_cli *cli, const init *in, bool all)
{
    const char *sets[OWN_SETS + MAX_SETS];
    int n = 0;
    char *text = NULL;
    kd_diag diag = {0};
    for (int i = 0; i < in->n_own; i++) {
        char key[SET_TEXT];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(in->own[i], "="), in->own[i]);
        if (!is_given(in, key))
            sets[n++] = in->own[i];
    }
    for (int i = 0; i < in->n_given; i++)
        sets[n++] = in->given[i];
    if (kd_job_template(sets, n, all, &text, &diag) != 0) {
        kd_error(cli, "%s", without_own(in, diag.msg));
        kd_hint(cli, "`distill explain` lists the keys and what they may be");
        return KD_EXIT_USAGE;
    }
    kd_out(
        cli,
        "# A job for distilld. What stands behind # at the beginning of a line is a default: "
        "take the\n# sign away to change it. `distill explain KEY` tells more of a key, `distill "
        "help job` has all.\n# Run it here: distill run FILE%s%s; on a cluster: distill submit "
        "FILE --watch\n",
        in->root[0] ? " --data-root " : "", in->root);
    kd_out_text(cli, text);
    free(text);
    if (in->root[0])
        kd_say(cli, "note: data are found beneath the workers' data root: --data-root %s",
               in->root);
    return kd_out_flush(cli);
}

static int run(kd_cli *cli, const kd_args *args)
{
    init *in = kd_xalloc(sizeof *in);
    kd_diag diag = {0};
    uint64_t size, epochs;
    int seen_size = 0;
    const char *data = kd_args_value(args, "data"), *teacher = kd_args_value(args, "teacher"),
               *student = kd_args_value(args, "student");
    int rc = KD_EXIT_OK;
    in->n_given = kd_args_values(args, "set", in->given, MAX_SETS);
    if (!data)
        rc = kd_usage(cli, "init",
                      "for example: distill init --data flowers --teacher mobilenet_v2 --student "
                      "shallow_cnn > job.yaml",
                      "init needs --data DIR");
    else if (in->n_given > MAX_SETS - OWN_SETS)
        rc = kd_usage(cli, "init", NULL, "at most %d --set are accepted", MAX_SETS - OWN_SETS);
    else if (kd_args_u64(args, "size", 8, 1024, 0, &size, &diag) != 0 ||
             kd_args_u64(args, "epochs", 0, 10000, 0, &epochs, &diag) != 0)
        rc = kd_usage(cli, "init", NULL, "%s", diag.msg);
    if (rc == KD_EXIT_OK) {
        add_name(in, kd_args_value(args, "name"), data);
        rc = add_data(cli, in, data, &seen_size);
    }
    if (rc == KD_EXIT_OK)
        rc = add_network(cli, in, "teacher", teacher ? teacher : "mobilenet_v2");
    if (rc == KD_EXIT_OK)
        rc = add_network(cli, in, "student", student ? student : "shallow_cnn");
    if (rc == KD_EXIT_OK) {
        size = size ? size : (uint64_t)seen_size;
        if (size)
            set(in, "data.labelled.size=%d", (int)size);
        set(in, "distill.epochs=%d", kd_args_has(args, "epochs") ? (int)epochs : 10);
        if (kd_args_has(args, "scratch"))
            set(in, "scratch={}");
        rc = print(cli, in, kd_args_has(args, "all"));
    }
    free(in);
    return rc;
}

const kd_verb kd_verb_init = {
    .name = "init",
    .operands = "",
    .summary = "write a job file to begin with, each key explained",
    .help =
        "To standard output: distill init --data flowers > job.yaml. It looks at the data set, if\n"
        "that is here, for lists, folders and file formats. A teacher that is only a name or has\n"
        "weights from a file is fine-tuned first; one from ONNX or from another job (NAME:job:ID)\n"
        "is taken as it is. What it writes is a good job file. (What a coordinator needs is made\n"
        "by `distilld init`.)",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .run = run};
