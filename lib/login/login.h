/* Who this machine is for a coordinator: its certificate, where it lies, how it is got and renewed.
 *
 *   ca.pem        whom to believe that he is the coordinator
 *   identity.pem  our certificate and its key, mode 0600, in one file so that a renewal replaces
 *                 both or neither
 *   server        HOST:PORT
 *
 * Threads: one at a time. */
#ifndef KD_LOGIN_H
#define KD_LOGIN_H

#include "pki/pki.h"
#include "rpc/rpc.h"

#define KD_LOGIN_SERVER 300
#define KD_LOGIN_TOKEN 128

typedef struct kd_login {
    char *dir, *ca, *identity; /* ca and identity: PEM */
    char server[KD_LOGIN_SERVER];
    kd_pki_identity who;
} kd_login;

/* What lies there. -KD_ENOENT: nothing; -KD_EPERM: others may read the key. Free with
 * kd_login_clear. */
int kd_login_load(const char *dir, kd_login *out, kd_diag *diag) KD_MUST_CHECK;
void kd_login_clear(kd_login *l);
/* For a channel; borrowed until the login is cleared or renewed. */
kd_rpc_tls kd_login_tls(const kd_login *l);

/* What a token is to become. */
typedef struct kd_login_wish {
    enum kd_holder holder;
    const char *name, *suggested; /* name "" = the token's, else suggested */
    bool replace; /* another's login that lies there, or one to another coordinator, is given up */
    const char *keep; /* how both are kept, for who is asked: "with --context NAME" */
} kd_login_wish;
/* Uses a token up: checks that the server has the CA that the token names, makes a key here, has it
 * certified and stores all three files. -KD_EINVAL no token, a session, or one for another kind of
 * holder, -KD_EPERM another CA or name, -KD_EUNAVAIL, -KD_EAUTH the token is no good, -KD_EEXIST
 * the name is taken, or a login lies there that would be lost. With all of these the token is as
 * good as before, unless the coordinator is one that does not look at `holder` yet: diag tells. */
int kd_login_join(kd_rpc *rpc, const char *dir, const char *server, const char *token,
                  const kd_login_wish *wish, kd_login *out, kd_diag *diag) KD_MUST_CHECK;
/* A third of the certificate's life is left, or less. */
bool kd_login_is_due(const kd_login *l);
bool kd_login_is_over(const kd_login *l);
/* A new key and certificate over the old ones, stored. Blocks up to 15 s. */
int kd_login_renew(kd_rpc_channel *ch, kd_login *l, kd_diag *diag) KD_MUST_CHECK;

/* ---- where it lies, and whether it is used */
/* Folder of the login: flag or environment (then *out_chosen), else systemd's $STATE_DIRECTORY for
 * services, /var/lib/WORD for root's, $XDG_CONFIG_HOME/WORD or ~/.config/WORD. service: a daemon
 * rather than a person. */
void kd_login_folder(const char *flag, const char *env, const char *word, bool service,
                     char out[4096], bool *out_chosen);
/* Address in the login there; false if there is none. */
bool kd_login_server(const char *dir, char out[KD_LOGIN_SERVER]);
/* How a connection to server is to be protected: 1 = by *out, which is loaded; 0 = plain text,
 * which is for this machine only; or an error that says what to do. chosen: the user named dir, so
 * there must be a login; else it is used for the server that it is for. insecure: plain text in any
 * case.
 */
int kd_login_choose(const char *dir, bool chosen, bool insecure, const char *server, kd_login *out,
                    kd_diag *diag) KD_MUST_CHECK;

#endif
