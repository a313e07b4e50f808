/* The settings of distilld: one table that the configuration file, the environment and the flags
 * are read by, and that `distilld init` writes a commented file from. A flag goes before the
 * environment, that before the file, that before the default.
 *
 * The file is YAML, one level of `key: value`; an unknown key or an impossible value is refused
 * with its line. Threads: one, at start. */
#ifndef KD_SERVER_CONFIG_H
#define KD_SERVER_CONFIG_H

#include "daemon.h"

enum kd_setting_type {
    KD_SET_TEXT,     /* const char * */
    KD_SET_NUMBER,   /* uint32_t in low..high */
    KD_SET_SIZE,     /* uint64_t bytes, as 64M or 2G */
    KD_SET_DURATION, /* int64_t seconds in low..high, as 90s, 12h or 30d */
    KD_SET_BOOL,     /* bool */
    KD_SET_LIST,     /* kd_words; a list in the file, elsewhere words with blanks between */
    KD_SET_LEVEL,    /* the log's */
    KD_SET_FORMAT    /* likewise */
};

typedef struct kd_setting {
    const char *key; /* state_dir; its flag is --state-dir */
    const char *env; /* NULL = none */
    enum kd_setting_type type;
    size_t at; /* offset in kd_daemon_config */
    int64_t low, high;
    const char *meta;    /* what the value is called */
    const char *meaning; /* one or more lines for the file and for --help */
    const char *example; /* how the file shows it */
} kd_setting;
extern const kd_setting kd_settings[];
extern const size_t kd_n_settings;

/* Of a key or a flag without its dashes; NULL if there is none. */
const kd_setting *kd_setting_of(const char *name);
/* Text is borrowed by a KD_SET_TEXT. -KD_EINVAL: what was expected. */
int kd_setting_put(const kd_setting *s, const char *text, kd_daemon_config *cfg,
                   kd_diag *diag) KD_MUST_CHECK;
/* Texts of the file end up in cfg->held. -KD_ENOENT, -KD_EINVAL with the line. */
int kd_config_read(const char *path, kd_daemon_config *cfg, kd_diag *diag) KD_MUST_CHECK;
/* The file that `distilld init` writes; state_dir and listen are set, the rest is shown. */
void kd_config_write(const char *state_dir, const char *listen, kd_buf *out);

/* init.c: `distilld init`, argv from that word on. Returns an exit code, with everything said. */
int kd_init_run(int argc, char **argv);

#endif
