#!/usr/bin/env bash
# Some packets of each worker are answered with a reset: the connections are made anew, what was on its
# way is sent again, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_cluster 2
for name in w1 w2; do reset_some $name 1; done
job=$(net_submit)
sleep 8
resets=$(($(met w1) + $(met w2)))
for name in w1 w2; do heal $name; done
ended "$job"
[ $resets -gt 0 ] || fail "there was no reset"
net_same "$job" "$resets resets, workers lost: $(lost "$job"), steps redone: $(redone "$job")"
