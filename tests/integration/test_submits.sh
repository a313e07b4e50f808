#!/usr/bin/env bash
# Submits that come together are stored together: each is answered by itself, and what was acknowledged is there
# after a kill.
. tests/integration/cluster.sh

idle_job many >"$DIR/job.yaml"
coordinator

# submit_one NUMBER: every fifth key is that of its neighbour, every seventh job is wrong.
submit_one() {
    local key=k$(($1 % 5 ? $1 : $1 + 1)) more=()
    if (($1 % 7 == 0)); then more=(--set distill.batch=none); fi
    "$BUILD/distill" submit "$DIR/job.yaml" -q --key "$key" "${more[@]}" >"$DIR/id-$1" 2>"$DIR/err-$1" || echo $? >"$DIR/rc-$1"
}
# many FIRST LAST: all at once.
many() {
    local i pids=()
    for i in $(seq "$1" "$2"); do
        submit_one "$i" &
        pids+=($!)
    done
    wait "${pids[@]}"
}

many 1 40
for i in $(seq 40); do
    if ((i % 7 == 0)); then
        [ -e "$DIR/rc-$i" ] || fail "submit $i was taken"
        grep -q 'distill.batch' "$DIR/err-$i" || fail "submit $i: $(cat "$DIR/err-$i")"
    else
        [ ! -e "$DIR/rc-$i" ] || fail "submit $i: $(cat "$DIR/err-$i")"
        [[ $(cat "$DIR/id-$i") =~ ^[0-9a-f]{12}$ ]] || fail "submit $i printed $(cat "$DIR/id-$i")"
    fi
done
[ "$(cat "$DIR/id-5")" = "$(cat "$DIR/id-6")" ] || fail "one key made two jobs"
ids=$(cat "$DIR"/id-* | sort -u | wc -l)
listed=$("$BUILD/distill" jobs -o json | grep -c '"job":')
# 34 right ones; of 5, 10, 15, 20, 25, 30, 40 the neighbour has the same key, and is right but for 20.
[ "$ids" -eq "$listed" ] || fail "$ids jobs were acknowledged, $listed are there"
note "$ids jobs of 40 submits at once"

( sleep 0.3; kill -9 "${PIDS[distilld]}" ) &
many 41 80 2>/dev/null
wait "${PIDS[distilld]}" 2>/dev/null || true
unset "PIDS[distilld]"
coordinator
"$BUILD/distill" jobs -o json >"$DIR/jobs.json"
acknowledged=0
for i in $(seq 80); do
    id=$(cat "$DIR/id-$i")
    [ -n "$id" ] || continue
    acknowledged=$((acknowledged + 1))
    grep -q "\"$id\"" "$DIR/jobs.json" || fail "job $id was acknowledged and is gone"
done
note "$acknowledged acknowledged submits are there after a kill"
