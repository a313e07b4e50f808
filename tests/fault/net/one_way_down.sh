#!/usr/bin/env bash
# One worker hears nothing any more while what it says arrives: the job does not wait for it for ever
# (its pings go unanswered, 15 s), it comes back, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_job 3
cut_in w1
ended "$job"
must_have_met w1
heal w1
await_workers 3
net_same "$job" "w1 deaf, workers lost: $(lost "$job"), steps redone: $(redone "$job")"
