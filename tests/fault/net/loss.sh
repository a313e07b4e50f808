#!/usr/bin/env bash
# 2 % of the packets of each worker are lost, both ways: TCP sends them again, and the digests are the
# same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_cluster 2
for name in w1 w2; do lose $name 20; done
job=$(net_submit)
ended "$job" 5m
dropped=$(($(met w1) + $(met w2)))
[ $dropped -gt 0 ] || fail "no packet was lost"
net_same "$job" "$dropped packets lost, workers lost: $(lost "$job"), steps redone: $(redone "$job")"
