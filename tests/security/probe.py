#!/usr/bin/python3
"""What a caller of another make gets from a coordinator with certificates.

probe.py CA SERVER LOGIN|none METHOD...: one unary call a METHOD (Service/Name) with an empty message, or with
NAME=HEX for one with these bytes. Prints a line `METHOD STATUS details` each."""
import sys

import grpc


def main():
    ca, server, login, *methods = sys.argv[1:]
    own = None if login == "none" else open(login, "rb").read()
    creds = grpc.ssl_channel_credentials(open(ca, "rb").read(), own, own)
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(server, creds, options) as channel:
        for method in methods:
            name, _, body = method.partition("=")
            path = "/" + name if name.startswith("grpc.") else "/distill.v1." + name
            try:
                channel.unary_unary(path)(bytes.fromhex(body), timeout=20)
                print(name, "OK")
            except grpc.RpcError as error:
                print(name, error.code().name, error.details())


if __name__ == "__main__":
    main()
