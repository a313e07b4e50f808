#!/usr/bin/env bash
# Metrics as Prometheus sees them: well-formed, true to what the job did, scraped and asked for; every
# series that alerts and the Grafana dashboard name is there.
. tests/integration/cluster.sh
command -v prometheus >/dev/null && command -v promtool >/dev/null && command -v curl >/dev/null || exit 77

COORDINATOR_FLAGS=("${HTTP_FLAGS[@]}")
small_data
small_job >"$DIR/job.yaml"
coordinator
HTTP=$(cat "$DIR/http-port")
metrics() { curl -sS --max-time 20 "http://127.0.0.1:$HTTP/metrics"; }
promtool check metrics < <(metrics) || fail "metrics of an idle coordinator"
worker one
worker two
await_workers 2

note "Prometheus scrapes"
sed "s/localhost:7080/127.0.0.1:$HTTP/; s/_interval: 15s/_interval: 200ms/" \
    deploy/monitoring/prometheus.yml >"$DIR/prometheus.yml"
cp deploy/monitoring/alerts.yml "$DIR"
promtool check config "$DIR/prometheus.yml" >/dev/null || fail "prometheus.yml"
for port in $(seq 19090 19110); do
    prometheus --config.file "$DIR/prometheus.yml" --storage.tsdb.path "$DIR/tsdb" \
        --web.listen-address "127.0.0.1:$port" >"$DIR/prometheus.log" 2>&1 &
    PIDS[prometheus]=$!
    for _ in $(seq 150); do
        kill -0 "${PIDS[prometheus]}" 2>/dev/null || break
        curl -sf "http://127.0.0.1:$port/-/ready" >/dev/null && break 2
        sleep 0.2
    done
done
# query EXPRESSION: its value (of the first series).
query() {
    curl -sS "http://127.0.0.1:$port/api/v1/query" --data-urlencode "query=$1" |
        pick '(d["data"]["result"] or [{"value": [0, "none"]}])[0]["value"][1]'
}
await_query() { # EXPRESSION VALUE
    local got
    for _ in $(seq 150); do
        got=$(query "$1")
        [ "$got" = "$2" ] && return
        sleep 0.2
    done
    fail "$1 is $got, not $2"
}
await_query 'up{job="distilld"}' 1
await_query 'sum(distill_workers)' 2

note "a job with a fault in it"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=12 -q)
await_steps "$job" distill 4
metrics >"$DIR/running"
stop one KILL
distill wait "$job" --timeout 10m
await_query "distill_job_step{job_id=\"$job\",stage=\"distill\"}" 72
await_query "distill_job_steps_total{job_id=\"$job\",stage=\"distill\"}" 72
await_query "distill_job_samples_total{job_id=\"$job\",stage=\"distill\"}" 1080
await_query "distill_job_step_seconds_count{job_id=\"$job\",stage=\"distill\"}" 72
await_query 'distill_recoveries_total{kind="worker"}' 1
await_query 'sum(distill_lease_expired_total)' 1
await_query 'distill_jobs{state="succeeded"}' 1
await_query 'sum(distill_workers)' 1
await_query "count(distill_job_info{name=\"small\",state=\"succeeded\"})" 1
metrics >"$DIR/metrics"
promtool check metrics <"$DIR/metrics" || fail "metrics of a coordinator that has worked"
python3 - "$DIR/metrics" <(distill show "$job" -o json) <<'PY' || fail "metrics and \`distill show\` differ"
import json, re, sys
series = {}
for line in open(sys.argv[1]):
    if not line.startswith("#"):
        name, labels, v = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)\n", line).groups()
        assert (name, labels) not in series, "twice: " + line
        series[name, labels] = float(v)
job = json.load(open(sys.argv[2]))
def of(name, stage, more=""):
    return series[name, f'job_id="{job["job"]}",stage="{stage}"' + more]
for s in job["stages"]:
    if not s["epochs"] or not s["steps"]:
        continue
    e, n = s["epochs"][-1], s["name"]
    assert of("distill_job_loss", n, ',kind="validation"') == float(f'{e["val_loss"]:.15g}')
    assert of("distill_job_accuracy_ratio", n, ',kind="validation"') == float(f'{e["val_accuracy"]:.15g}')
    assert of("distill_logit_cache_hits_total", n) == s["bank_hits"]
    assert of("distill_logit_cache_misses_total", n) == s["teacher_forwards"]
    assert of("distill_checkpoint_last_step", n) == s["steps"]
    phases = sum(of("distill_job_phase_seconds_total", n, f',phase="{p}"') for p in ("compute", "wait", "release", "apply"))
    assert abs(phases - of("distill_job_step_seconds_sum", n)) < 1e-6
    # Each unit of each step is taken once, whoever died meanwhile.
    assert of("distill_units_total", n, ',result="ok"') == 4 * s["steps"], n
    size = 4 * s["parameters"]
    # Each step every chunk's sum leaves once, and each of its parts has come before.
    assert of("distill_net_bytes_total", n, ',dir="out",kind="gradients"') >= size * s["steps"]
    assert of("distill_net_bytes_total", n, ',dir="in",kind="gradients"') >= size * s["steps"]
PY

note "the names that docs/http.md promises"
python3 - "$DIR/running" "$DIR/metrics" <<'PY' || fail "a metric that is missing, or has other labels"
import re, sys
there = {}
for line in (line for file in sys.argv[1:] for line in open(file) if not line.startswith("#")):
    name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+\n", line).groups()
    of = there.setdefault(name, {})
    for key, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""):
        of.setdefault(key, set()).add(value)
wanted = {
    "build_info": {}, "epoch": {}, "jobs": {"state": "queued running succeeded failed cancelled"}, "job_step": {},
    "job_steps_total": {}, "job_loss": {"kind": "step train validation"}, "job_samples_total": {}, "job_step_seconds_bucket": {},
    "job_phase_seconds_total": {"phase": "compute teacher wait apply release"}, "job_eta_seconds": {},
    "job_effective_time_ratio": {}, "units_total": {"result": "ok backup duplicate stale divergent corrupt"},
    "workers": {"state": "idle preparing ready working draining drained quarantined"}, "worker_rate": {"worker": "one two"},
    "worker_last_heartbeat_seconds": {}, "lease_expired_total": {"reason": "silent closed refused"},
    "recoveries_total": {"kind": "worker coordinator"}, "recovery_seconds_bucket": {},
    "net_bytes_total": {"dir": "in out", "kind": "gradients parameters state values evaluation"},
    "rpc_seconds_bucket": {"method": "distill.v1.Jobs/Submit", "code": "OK"}, "wal_fsync_seconds_bucket": {},
    "checkpoint_seconds_bucket": {}, "checkpoint_age_seconds": {}, "checkpoint_last_step": {}, "state_dir_free_bytes": {},
    "queue_depth": {"queue": "submits pool watchers worker_lines"}, "logit_cache_hits_total": {}}
for name, labels in wanted.items():
    has = there.get("distill_" + name)
    assert has is not None, name
    for label, values in labels.items():
        assert set(values.split()) <= has.get(label, set()), (name, label, has.get(label))
PY

note "what alerts and Grafana name is there"
python3 - "$DIR/metrics" deploy/monitoring/alerts.yml deploy/monitoring/grafana.json <<'PY' || fail "a series that is not there"
import json, re, sys
there = {re.match(r"\w+", line).group() for line in open(sys.argv[1]) if not line.startswith("#")}
# Only of a job that runs.
there |= {"distill_job_eta_seconds", "distill_checkpoint_age_seconds", "distill_job_workers"}
there |= {re.sub("_count$", "", n) for n in there}
dashboard = json.load(open(sys.argv[3]))
text = open(sys.argv[2]).read() + " ".join(t["expr"] for p in dashboard["panels"] for t in p.get("targets", []))
named = set(re.findall(r"\b(?:distill|process)_\w+", text))
assert len(named) > 25 and named <= there, named - there
assert len({p["id"] for p in dashboard["panels"]}) == len(dashboard["panels"])
PY
# Each of the dashboard's queries is one that Prometheus understands.
python3 - deploy/monitoring/grafana.json <<'PY' >"$DIR/expressions"
import json, sys
for p in json.load(open(sys.argv[1]))["panels"]:
    for t in p.get("targets", []):
        print(t["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$job_id", ".*"))
PY
while IFS= read -r expression; do
    curl -sS "http://127.0.0.1:$port/api/v1/query" --data-urlencode "query=$expression" | pick 'd["status"]' | says success ||
        fail "Prometheus does not take: $expression"
done <"$DIR/expressions"
promtool check rules deploy/monitoring/alerts.yml >/dev/null || fail "alerts.yml"
for _ in $(seq 100); do
    curl -sS "http://127.0.0.1:$port/api/v1/rules" >"$DIR/rules"
    pick '[r["health"] for g in d["data"]["groups"] for r in g["rules"]]' <"$DIR/rules" | grep -q unknown || break
    sleep 0.2
done
pick '[r["lastError"] for g in d["data"]["groups"] for r in g["rules"] if r["health"] != "ok"]' <"$DIR/rules" | says '[]' ||
    fail "an alert rule that fails: $(cat "$DIR/rules")"
