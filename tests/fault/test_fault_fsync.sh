#!/usr/bin/env bash
# A failed fsync of a checkpoint, of a network and of the logit bank.
exec tests/fault/fsync.sh
