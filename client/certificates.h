/* Certificates as rows, for `certificates` and `revoke`. */
#ifndef KD_CLI_CERTIFICATES_H
#define KD_CLI_CERTIFICATES_H

#include "connect.h"
#include "list.h"

/* more: as for kd_list_print. Returns an exit code. */
int kd_certificates_print(const kd_cli *cli, Distill__V1__CertificateInfo *const *list, size_t n,
                          json_t *more) KD_MUST_CHECK;

#endif
