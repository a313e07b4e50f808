#!/usr/bin/env bash
# One worker cut off both ways for less than its lease: nobody is lost, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_cluster 2
job=$(net_submit)
await_steps "$job" teacher 2
cut_in w1
cut_out w1
sleep 1.2
[ "$(met w1)" -gt 0 ] || fail "no packet was dropped"
heal w1
ended "$job"
[ "$(lost "$job")" -eq 0 ] || fail "a worker was lost within its lease"
net_same "$job" "w1 out for 1.2 s of a lease of $LEASE_MS ms, nobody lost"
