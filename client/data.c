/* data: makes data sets. */
#include "data/data.h"
#include "args.h"
#include "cli.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "progress.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static const kd_opt g_opts[] = {
    {"size", 0, "N", "pixels of a side, 16 to 1024 (96)"},
    {"train", 0, "N", "pictures to train on (2000)"},
    {"val", 0, "N", "pictures to validate on (500)"},
    {"seed", 0, "S", "another seed draws other pictures (1)"},
};

static void on_progress(size_t done, size_t all, void *arg)
{
    kd_bar *bar = arg;
    bar->total = all;
    kd_bar_set(bar, done);
}

/* Drawing cannot be stopped half-way, and what stands there is drawn again next time: leave at
 * once, but with the exit code that is promised. */
static void leave(int number)
{
    _exit(128 + number);
}

static int make_flowers(kd_cli *cli, const char *dir, const kd_flowers_config *cfg)
{
    kd_diag diag = {0};
    kd_bar bar;
    size_t all = (size_t)cfg->train + (size_t)cfg->val;
    sigaction(SIGINT, &(struct sigaction){.sa_handler = leave}, NULL);
    kd_bar_start(&bar, cli, KD_BAR_PICTURES, "drawing", all, 0);
    int rc = kd_flowers_make(dir, cfg, on_progress, &bar, &diag);
    kd_bar_end(&bar);
    if (rc != 0) {
        kd_error(cli, "%s", diag.msg);
        return rc == -KD_EINVAL ? KD_EXIT_USAGE : KD_EXIT_FAILURE;
    }
    if (cli->json)
        return kd_json_print(cli,
                             json_pack("{s:o, s:i, s:i, s:i, s:I}", "path", kd_json_text(dir),
                                       "size", cfg->size, "train", cfg->train, "val", cfg->val,
                                       "seed", (json_int_t)cfg->seed),
                             false);
    kd_out_clean(cli, "%d pictures to train on and %d to validate on, %dx%d, in %s", cfg->train,
                 cfg->val, cfg->size, cfg->size, dir);
    return kd_out_flush(cli);
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    uint64_t size, train, val, seed;
    if (strcmp(args->operands[0], "make") != 0 || strcmp(args->operands[1], "flowers") != 0)
        return kd_usage(cli, "data", "usage: distill data make flowers DIR", "data: cannot %s %s",
                        args->operands[0], args->operands[1]);
    if (kd_args_u64(args, "size", 16, 1024, 96, &size, &diag) != 0 ||
        kd_args_u64(args, "train", 5, 1000000, 2000, &train, &diag) != 0 ||
        kd_args_u64(args, "val", 5, 1000000, 500, &val, &diag) != 0 ||
        kd_args_u64(args, "seed", 0, INT64_MAX, 1, &seed, &diag) != 0)
        return kd_usage(cli, "data", NULL, "%s", diag.msg);
    kd_flowers_config cfg = {.seed = seed, .size = (int)size, .train = (int)train, .val = (int)val};
    return make_flowers(cli, args->operands[2], &cfg);
}

const kd_verb kd_verb_data = {
    .name = "data",
    .operands = "make flowers DIR",
    .summary = "draw a data set of flower pictures",
    .help =
        "Five kinds of flower, drawn by our own code: no download, the same pictures for the same\n"
        "seed on every machine. DIR gets images/, classes.txt, train.txt and val.txt, as a job\n"
        "file's `format: image-folder` wants them. Make it beneath the workers' data root.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 3,
    .max_operands = 3,
    .run = run};
