#!/usr/bin/env bash
# The dashboard in a real browser: pages load without a complaint, live figures move, jobs are compared, all of it at
# the width of a desktop and of a phone. KD_PICTURES=FOLDER keeps pictures of the pages.
. tests/integration/cluster.sh
command -v chromium >/dev/null && command -v chromedriver >/dev/null && /usr/bin/python3 -c 'import selenium' 2>/dev/null || exit 77

PICTURES=${KD_PICTURES:-$DIR/pictures}
mkdir -p "$PICTURES"
export KD_BUILD_DIR=$BUILD
COORDINATOR_FLAGS=("${HTTP_FLAGS[@]}")
look() { timeout 240 /usr/bin/python3 tests/integration/dashboard.py "$(cat "$DIR/http-port")" "$PICTURES" "$@"; }

small_data
sed -i 's/tulips/<img src=x onerror=alert(1)>/' "$DIR/data/flowers/classes.txt"
small_job | sed 's/^name: small/name: dashboard/' >"$DIR/job.yaml"
coordinator
worker one
worker two
await_workers 2

note "a finished job"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=4 -q)
distill wait "$job" --timeout 10m
look finished "$job"

note "a sweep, and its jobs side by side"
{ cat "$DIR/job.yaml"; echo 'matrix: {distill.loss.temperature: [1, 5]}'; } >"$DIR/sweep.yaml"
sweep=$(distill submit "$DIR/sweep.yaml" -q)
distill wait "$sweep" --timeout 10m
look sweep "$sweep"
mapfile -t children < <(distill show "$sweep" -o json | pick '"\n".join(j["job"] for j in d["jobs"])')
look compared "${children[@]}"

note "a job that runs"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=2000 -q)
await_steps "$job" distill 3
look live "$job"

note "the other pages"
look others
