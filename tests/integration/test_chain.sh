#!/usr/bin/env bash
# `weights: job:ID` begins where another job ended: the same as with its file fetched and uploaded, and the file
# stays when that job is removed, until no job names it.
. tests/integration/cluster.sh
needs_grpc

blobs() { find "$DIR/state/blobs" -type f | wc -l; }
refused() { # refused TEXT ARGUMENTS...: submit is refused and says so
    local text=$1 rc=0; shift
    distill submit "$DIR/short.yaml" "$@" -q >"$DIR/out" 2>&1 || rc=$?
    [ $rc -ne 0 ] || fail "$* was taken"
    grep -qF -- "$text" "$DIR/out" || fail "$*: no \"$text\" in $(cat "$DIR/out")"
}

small_data
small_job >"$DIR/job.yaml"
sed 's/epochs: 2/epochs: 1/; /^scratch/d' "$DIR/job.yaml" >"$DIR/short.yaml"
coordinator
worker a
await_workers 1
first=$(distill submit "$DIR/short.yaml" -q)
distill wait "$first" --timeout 10m >/dev/null

note "a student that begins as another job's, by reference and by file"
job=$(distill submit "$DIR/short.yaml" --set "student.weights=job:${first:0:6}" -q)
distill wait "$job" --timeout 10m >/dev/null
call Get "{\"job\": \"$job\"}" | pick 'd["resolved"]' >"$DIR/resolved"
[ "$(pick 'd["student"]["weights"]' <"$DIR/resolved")" = "job:$first/student.safetensors" ] || fail "the reference is not whole"
distill fetch "$first" -O "$DIR" student.safetensors teacher.safetensors >/dev/null
byfile=$(distill submit "$DIR/short.yaml" --set student.weights=student.safetensors -q)
distill wait "$byfile" --timeout 10m >/dev/null
[ "$(stage_field "$job" distill digest)" = "$(stage_field "$byfile" distill digest)" ] || fail "by reference and by file differ"
[ "$(stage_field "$job" distill digest)" != "$(stage_field "$first" distill digest)" ] || fail "it began anew"
[ "$(pick 'd["student"]["weights_digest"]' <"$DIR/resolved")" = \
  "$(call Get "{\"job\": \"$first\"}" | pick '[a["digest"] for a in d["artefacts"] if a["name"] == "student.safetensors"][0]')" ] || fail "the digest in the resolved job"

note "an ensemble of two teachers out of two jobs; the jobs are removed, the coordinator restarts, workers fetch"
second=$(distill submit "$DIR/short.yaml" --set seed=7 -q)
distill wait "$second" --timeout 10m >/dev/null
both=$(distill submit "$DIR/short.yaml" -q --set "teacher=[{model: mobilenet_v2, width: 0.35, padding: torch, weights: 'job:$first/teacher.safetensors'}, {model: mobilenet_v2, width: 0.35, padding: torch, weights: 'job:$second/teacher.safetensors'}]")
distill wait "$both" --timeout 10m >/dev/null
n=$(blobs)
for j in "$first" "$second" "$job" "$byfile"; do call Remove "{\"job\": \"$j\"}" >/dev/null; done
[ "$(blobs)" -eq 2 ] || fail "$(blobs) blobs for two teachers, there were $n"
stop a
stop distilld
coordinator
worker b
await_workers 1
again=$(call Submit "{\"key\": \"again\", \"replay_job\": \"$both\"}" | pick 'd["job"]')
distill wait "$again" --timeout 10m >/dev/null
[ "$(stage_field "$again" distill digest)" = "$(stage_field "$both" distill digest)" ] || fail "the replay differs"
call Remove "{\"job\": \"$both\"}" >/dev/null
[ "$(blobs)" -eq 2 ] || fail "a teacher's blob went too early"
call Remove "{\"job\": \"$again\"}" >/dev/null
[ "$(blobs)" -eq 0 ] || fail "$(blobs) blobs stay"

note "what a crash left: links that no job names go, uploads that wait stay"
first=$(distill submit "$DIR/short.yaml" -q)
distill wait "$first" --timeout 10m >/dev/null
digest=$(call Get "{\"job\": \"$first\"}" | pick '[a["digest"] for a in d["artefacts"] if a["name"] == "student.safetensors"][0]')
ln "$DIR/state/jobs/$first/student.safetensors" "$DIR/state/blobs/$digest"
echo waits >"$DIR/state/blobs/0123456789abcdef0123456789abcdef"
stop distilld KILL
coordinator
[ ! -e "$DIR/state/blobs/$digest" ] || fail "a stray link stays"
[ -e "$DIR/state/blobs/0123456789abcdef0123456789abcdef" ] || fail "an upload is lost"

note "what is refused"
refused 'no job 0123' --set student.weights=job:0123
refused 'expected job:ID' --set student.weights=job:xyz
refused 'no file of weights teacher2.safetensors' --set "student.weights=job:$first/teacher2.safetensors"
refused 'no file of weights result.json' --set "student.weights=job:$first/result.json"
refused 'no job 0123' --set student.weights=job:0123 -n
distill submit "$DIR/short.yaml" --set "student.weights=job:$first/student.best.safetensors" -n >/dev/null 2>&1 || fail "a dry run with a reference"
[ "$(blobs)" -eq 1 ] || fail "a dry run or a refused job left a blob"
running=$(distill submit "$DIR/short.yaml" --set distill.epochs=50 -q)
refused 'has not succeeded' --set "student.weights=job:$running"
call Cancel "{\"job\": \"$running\"}" >/dev/null
{ cat "$DIR/short.yaml"; echo 'seeds: 2'; } >"$DIR/sweep.yaml"
sweep=$(distill submit "$DIR/sweep.yaml" -q)
refused 'is a sweep' --set "student.weights=job:$sweep"
distill wait "$sweep" --timeout 10m >/dev/null
