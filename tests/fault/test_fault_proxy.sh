#!/usr/bin/env bash
# The quick ones of proxy.sh: connections reset under the workers and under the client.
exec tests/fault/proxy.sh resets client
