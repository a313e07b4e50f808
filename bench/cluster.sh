# Sourced by the benchmarks: a coordinator in $dir, a folder that goes away at the end with all that was started.
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

# usage: what the script says of itself at its beginning.
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

# coordinator [FLAGS...]: of $build, on a free port; where clients find it is exported.
coordinator() {
    "$build/distilld" --state-dir "$dir/state" --listen 127.0.0.1:0 --port-file "$dir/port" "$@" 2>"$dir/distilld.log" &
    until [[ -s $dir/port ]]; do sleep 0.1; done
    DISTILL_SERVER=127.0.0.1:$(<"$dir/port")
    export DISTILL_SERVER
}

# many_job: a job file of which a coordinator gets many.
many_job() {
    cat <<YAML
name: many
data: {labelled: {path: flowers, train: train.txt, val: val.txt, classes: classes.txt, size: 224}}
teacher: {model: mobilenet_v2, fine_tune: {epochs: 0}}
student: {model: shallow_cnn}
distill: {epochs: 2, batch: 64, optimizer: {name: adam, lr: 1e-3}}
YAML
}
