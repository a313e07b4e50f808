#!/usr/bin/env bash
# One worker hears nothing any more while what it says arrives: the job does not wait for it for ever
# (its pings go unanswered, 15 s), it comes back, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_cluster 3
job=$(net_submit)
await_steps "$job" teacher 2
cut_in w1
ended "$job"
[ "$(met w1)" -gt 0 ] || fail "no packet was dropped"
heal w1
await_workers 3
net_same "$job" "w1 deaf, workers lost: $(lost "$job"), steps redone: $(redone "$job")"
