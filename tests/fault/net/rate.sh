#!/usr/bin/env bash
# Links of 50 Mbit/s: the job takes longer, nobody is lost, and the digests are the same.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../net.sh"

net_cluster 2
for name in co w1 w2; do shape $name 50mbit; done
job=$(net_submit)
ended "$job" 5m
[ "$(lost "$job")" -eq 0 ] || fail "a worker was lost on a slow link"
net_same "$job" "50 Mbit/s, nobody lost"
