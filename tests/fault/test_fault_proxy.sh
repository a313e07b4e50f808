#!/usr/bin/env bash
# The quick ones of proxy.sh: the client's connections reset, the workers not heard for longer than a lease.
exec tests/fault/proxy.sh client held-up
