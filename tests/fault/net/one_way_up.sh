#!/usr/bin/env bash
# Nothing comes from one worker any more, but it hears all: it is left out after its lease, the others go
# on, it comes back when the wire is whole again, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_job 3
cut_out w1
await_event "$job" 'worker lost'
must_have_met w1
ended "$job"
heal w1
await_workers 3
net_same "$job" "w1 mute, steps redone: $(redone "$job")"
