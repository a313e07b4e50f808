#!/usr/bin/env bash
# The quick case of disk_full.sh: not a byte is left on the coordinator's disk.
exec tests/fault/disk_full.sh last-byte
