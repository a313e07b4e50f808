/* How connections are protected: plain text. */
#include "internal.h"

grpc_channel_credentials *kd_rpc_channel_creds(void)
{
    return grpc_insecure_credentials_create();
}

grpc_server_credentials *kd_rpc_server_creds(void)
{
    return grpc_insecure_server_credentials_create();
}
