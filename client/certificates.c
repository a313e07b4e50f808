/* certificates: who has been let in. */
#include "certificates.h"

#include "args.h"
#include "format.h"
#include "json.h"
#include "output.h"

#include "kd/clock.h"

static const char *state_of(const Distill__V1__CertificateInfo *c, int64_t now)
{
    return c->revoked_ms ? "revoked" : c->not_after_ms <= now ? "over" : "good";
}

json_t *kd_certificates_json(Distill__V1__CertificateInfo *const *list, size_t n)
{
    json_t *all = json_array();
    int64_t now = kd_clock_wall_ms();
    for (size_t i = 0; i < n; i++) {
        const Distill__V1__CertificateInfo *c = list[i];
        (void)json_array_append_new(
            all, json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:o}", "serial", kd_json_text(c->serial),
                           "role", kd_json_text(c->role), "name", kd_json_text(c->name), "state",
                           state_of(c, now), "issued", kd_json_time(c->issued_ms), "not_after",
                           kd_json_time(c->not_after_ms), "revoked", kd_json_time(c->revoked_ms)));
    }
    return all;
}

void kd_certificates_table(const kd_cli *cli, Distill__V1__CertificateInfo *const *list, size_t n)
{
    kd_table t;
    char a[KD_FMT], b[KD_FMT];
    int64_t now = kd_clock_wall_ms();
    kd_table_init(&t, "NAME|ROLE|STATE|ISSUED|ENDS|SERIAL");
    for (size_t i = 0; i < n; i++) {
        const Distill__V1__CertificateInfo *c = list[i];
        kd_table_add(&t, KD_PLAIN, "%s", c->name);
        kd_table_add(&t, KD_PLAIN, "%s", c->role);
        kd_table_add(&t, c->revoked_ms ? KD_RED : KD_PLAIN, "%s", state_of(c, now));
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_clock(c->issued_ms, now, a));
        kd_table_add(&t, KD_PLAIN, "%s", kd_fmt_clock(c->not_after_ms, now, b));
        kd_table_add(&t, KD_PLAIN, "%s", c->serial);
    }
    kd_table_print(cli, &t, 0);
}

static int tell(kd_cli *cli, const kd_args *args, const ProtobufCMessage *reply)
{
    (void)args;
    const Distill__V1__ListCertificatesReply *r = (const Distill__V1__ListCertificatesReply *)reply;
    if (cli->json)
        return kd_json_print(cli,
                             json_pack("{s:o}", "certificates",
                                       kd_certificates_json(r->certificates, r->n_certificates)),
                             false);
    kd_certificates_table(cli, r->certificates, r->n_certificates);
    return KD_EXIT_OK;
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
                                      .run = run};
