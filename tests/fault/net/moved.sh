#!/usr/bin/env bash
# A worker gets another address in the middle of the job: it joins again from there, and the digests are
# the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_job 2
in_space w1 ip addr del 10.77.0.11/24 dev eth0
in_space w1 ip addr add 10.77.0.77/24 dev eth0
# Some seconds later its old connections are given up.
await_event "$job" 'worker lost'
ended "$job"
await_workers 2
says 'address=ipv4:10.77.0.77' <"$DIR/distilld.log" || fail "nobody joined from the new address"
net_same "$job" "w1 moved, steps redone: $(redone "$job")"
