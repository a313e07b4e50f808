/* Contexts: clusters by name, so that commands need no address.
 *
 *   BASE/context             name of the one in use
 *   BASE/contexts/NAME/      a folder of login/login.h: `server`, and once `distill login` was
 * there ca.pem and identity.pem; `insecure`, which is empty, allows plain text; `local` is the
 * folder of a cluster that `distill local` runs BASE/server, ...         the context `default`: of
 * a login that named no context
 *
 * BASE is $DISTILL_CONFIG, else $XDG_CONFIG_HOME/distill, else ~/.config/distill. Threads: one. */
#ifndef KD_CLI_CONTEXTS_H
#define KD_CLI_CONTEXTS_H

#include "kd/err.h"
#include "login/login.h"

#define KD_CONTEXT_NAME 64
#define KD_CONTEXT_DEFAULT "default"
#define KD_CONTEXTS_MAX 256
#define KD_CONTEXT_PATH 4096

typedef struct kd_context {
    char name[KD_CONTEXT_NAME];
    char dir[KD_CONTEXT_PATH];
    char server[KD_LOGIN_SERVER];
    char local[KD_CONTEXT_PATH];    /* "" = no cluster of `distill local` */
    char previous[KD_CONTEXT_NAME]; /* in use before a local one; "" = none */
    bool insecure;
} kd_context;

void kd_context_base(char out[KD_CONTEXT_PATH]);
/* 1 to 63 of [A-Za-z0-9._-], not beginning with a dot. */
int kd_context_check_name(const char *name, kd_diag *diag) KD_MUST_CHECK;
/* Where it lies or would lie; the name is a good one. */
void kd_context_folder(const char *name, char out[KD_CONTEXT_PATH]);
/* -KD_ENOENT names the nearest one. */
int kd_context_load(const char *name, kd_context *out, kd_diag *diag) KD_MUST_CHECK;
/* All of them by name; returns how many. The caller frees *out. */
size_t kd_context_list(kd_context **out);
/* The one whose server it is; false: none. */
bool kd_context_of_server(const char *server, kd_context *out);
/* Name of the one in use; false: none was chosen. */
bool kd_context_current(char out[KD_CONTEXT_NAME]);
/* "" = none. */
int kd_context_use(const char *name, kd_diag *diag) KD_MUST_CHECK;
/* Stores a new one by c's name, server, local, previous and insecure. -KD_EEXIST. */
int kd_context_add(const kd_context *c, kd_diag *diag) KD_MUST_CHECK;
/* With its certificate; if it is in use, none is afterwards. */
int kd_context_remove(const kd_context *c, kd_diag *diag) KD_MUST_CHECK;

#endif
