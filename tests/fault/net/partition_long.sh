#!/usr/bin/env bash
# One of two workers cut off both ways for longer than its lease: the other goes on without it, it is a
# member again afterwards, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_job 2
cut_off w1
await_event "$job" 'worker lost'
must_have_met w1
ended "$job"
heal w1
await_workers 2
net_same "$job" "w1 out, steps redone: $(redone "$job")"
