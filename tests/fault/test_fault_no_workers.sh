#!/usr/bin/env bash
# The last worker goes and another one comes.
exec tests/fault/no_workers.sh
