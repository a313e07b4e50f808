/* Certificates as rows, for `certificates` and `revoke`. */
#ifndef KD_CLI_CERTIFICATES_H
#define KD_CLI_CERTIFICATES_H

#include "connect.h"

#include <jansson.h>

json_t *kd_certificates_json(Distill__V1__CertificateInfo *const *list, size_t n);
void kd_certificates_table(const kd_cli *cli, Distill__V1__CertificateInfo *const *list, size_t n);

#endif
