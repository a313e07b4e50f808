#!/usr/bin/env bash
# One worker cut off both ways for less than its lease: nobody is lost, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_job 2
cut_off w1
sleep 1.2
must_have_met w1
heal w1
ended "$job"
[ "$(lost "$job")" -eq 0 ] || fail "a worker was lost within its lease"
net_same "$job" "w1 out for 1.2 s of a lease of $LEASE_MS ms, nobody lost"
