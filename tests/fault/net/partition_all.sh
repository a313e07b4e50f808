#!/usr/bin/env bash
# The coordinator cut off from everybody for longer than the lease: the job waits, goes on when the wire
# is whole again, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_job 2
cut_off co
sleep $((LEASE_MS / 1000 + 4))
must_have_met co
[ "$(lost "$job")" -gt 0 ] || fail "nobody missed the workers"
heal co
ended "$job"
net_same "$job" "all out for $((LEASE_MS / 1000 + 4)) s, steps redone: $(redone "$job")"
