/* certificates: who has been let in. */
#include "certificates.h"

#include "args.h"
#include "format.h"

#include "kd/clock.h"

static const char *state_of(const Distill__V1__CertificateInfo *c, int64_t now)
{
    return c->revoked_ms ? "revoked" : c->not_after_ms <= now ? "over" : "good";
}

static json_t *to_json(const void *item)
{
    const Distill__V1__CertificateInfo *c = item;
    return json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:o}", "serial", kd_json_text(c->serial),
                     "role", kd_json_text(c->role), "name", kd_json_text(c->name), "state",
                     state_of(c, kd_clock_wall_ms()), "issued", kd_json_time(c->issued_ms),
                     "not_after", kd_json_time(c->not_after_ms), "revoked",
                     kd_json_time(c->revoked_ms));
}

static void add_row(kd_table *t, const void *item, int64_t now)
{
    const Distill__V1__CertificateInfo *c = item;
    char a[KD_FMT];
    kd_table_add(t, KD_PLAIN, "%s", c->name);
    kd_table_add(t, KD_PLAIN, "%s", c->role);
    kd_table_add(t, c->revoked_ms ? KD_RED : KD_PLAIN, "%s", state_of(c, now));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_clock(c->issued_ms, now, a));
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_clock(c->not_after_ms, now, a));
    kd_table_add(t, KD_PLAIN, "%s", c->revoked_ms ? kd_fmt_clock(c->revoked_ms, now, a) : "");
    kd_table_add(t, KD_PLAIN, "%s", c->serial);
}

static const kd_column g_columns[] = {
    {"NAME", "name", KD_ALWAYS},      {"ROLE", "role", KD_ALWAYS},
    {"STATE", "state", KD_ALWAYS},    {"ISSUED", "issued", KD_ALWAYS},
    {"ENDS", "not_after", KD_ALWAYS}, {"REVOKED", "revoked", KD_WIDE},
    {"SERIAL", "serial", KD_ALWAYS},
};

static const kd_list g_list = {.key = "certificates",
                               .name = "serial",
                               .columns = g_columns,
                               .n_columns = KD_COUNT(g_columns),
                               .json = to_json,
                               .row = add_row};

int kd_certificates_print(const kd_cli *cli, Distill__V1__CertificateInfo *const *list, size_t n,
                          json_t *more)
{
    return kd_list_print(cli, &g_list, (const void *const *)list, n, more);
}

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply)
{
    (void)args;
    const Distill__V1__ListCertificatesReply *r = (const Distill__V1__ListCertificatesReply *)reply;
    return kd_certificates_print(cli, r->certificates, r->n_certificates, NULL);
}

static int run(kd_cli *cli, const kd_args *args)
{
    Distill__V1__ListCertificatesRequest request = DISTILL__V1__LIST_CERTIFICATES_REQUEST__INIT;
    return kd_conn_run(cli, args, "Access/ListCertificates", &request,
                       &distill__v1__list_certificates_reply__descriptor, tell);
}

const kd_verb kd_verb_certificates = {.name = "certificates",
                                      .operands = "",
                                      .summary = "list the certificates that were issued",
                                      .lists = true,
                                      .run = run};
