#!/usr/bin/env bash
# docs/tutorial.md works as written: its commands, in order, in one shell, with fewer pictures and epochs.
page=$PWD/docs/tutorial.md
. tests/integration/cluster.sh
cd "$DIR"

# Blocks marked `sh`; one marked `sh build` is what ctest has done already.
awk '/^```sh$/ { on = 1; next } /^```/ { on = 0 } on' "$page" >walk.sh
[ "$(grep -c '^distill' walk.sh)" -ge 20 ] || fail "the page has few commands"

# smaller FROM TO: a size of the page; one that is not there any more is a fault of this test.
smaller() {
    grep -qF -- "$1" walk.sh || fail "docs/tutorial.md does not say: $1"
    python3 - "$1" "$2" <<'PY'
import sys
text = open("walk.sh").read()
open("walk.sh", "w").write(text.replace(sys.argv[1], sys.argv[2]))
PY
}
smaller '--size 64' '--size 32'
smaller 'size: 64' 'size: 32'
smaller '--train 500 --val 5 ' '--train 70 --val 5 '
smaller '--train 2000 --val 5 ' '--train 60 --val 5 '
smaller '--train 2000 --val 300' '--train 400 --val 50'
smaller 'epochs: 20' 'epochs: 4'
smaller 'min_confidence: 0.3' 'min_confidence: 0.2'
smaller 'views: 4' 'views: 2'
smaller '[1, 3, 9]' '[1, 3]'
smaller 'seeds: 3' 'seeds: 2'
smaller '--epochs 5' '--epochs 1'
smaller 'sleep 3' 'until distill workers >/dev/null 2>&1; do sleep 0.2; done'

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >prelude.sh <<'SH'
set -eu
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
PS4='== '
set -x
SH
cat prelude.sh walk.sh >run.sh
PATH=$BUILD:$PATH DISTILLD_LISTEN=127.0.0.1:$port DISTILL_SERVER=127.0.0.1:$port bash run.sh >out.txt 2>walk.log ||
    { cat out.txt; fail "a command of docs/tutorial.md fails"; }
tail -n 5 out.txt

for f in job.html sweep.html out/student.onnx out/student.best.safetensors out/result.json; do
    [ -s "$f" ] || fail "the walk left no $f"
done
grep -q '<html' sweep.html || fail "sweep.html is no page"
# Ten new pictures, named; four jobs in the sweep; the replay had the same digests.
[ "$(grep -c '^new/images/' out.txt)" -eq 10 ] || fail "not every new picture was named"
[ "$(grep -c 'distill.loss.temperature=[13] seed=[12] .*succeeded' out.txt)" -eq 4 ] || fail "the sweep"
grep -q 'from-scratch twin on the same' out.txt || fail "no paired difference"
python3 - <<'PY' || fail "result.json"
import json
r = json.load(open("out/result.json"))
assert r["teacher"]["model"] == "onnx" and r["student"]["model"] == "cheap_cnn", r
assert r["data"]["unlabelled"] == 65 and r["data"]["test"] > 0 and r["scratch"]["test"]["samples"] == r["data"]["test"], r
PY
