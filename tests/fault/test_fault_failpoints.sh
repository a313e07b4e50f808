#!/usr/bin/env bash
# The quick ones of failpoints.sh: the coordinator killed before a durable file has its name.
exec tests/fault/failpoints.sh --quick file.rename
