#!/usr/bin/env bash
# Reports of real jobs in every form: a page that is whole and fetches nothing, CSV, JSON, Markdown.
. tests/integration/cluster.sh

# check_page FILE TEXT...: well-formed, self-contained, accessible, and holds the texts.
check_page() {
    python3 - "$@" <<'PY' || fail "the page $1"
import html.parser
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.stack, self.ids, self.refs, self.said = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        assert tag not in ("script", "iframe", "link", "object", "embed", "form"), tag
        for key, value in a.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "srcset", "action", "poster", "data"):
                assert value.startswith(("#", "data:image/")), (tag, key, value[:60])
        if "id" in a:
            assert a["id"] not in self.ids, "twice: " + a["id"]
            self.ids.add(a["id"])
        self.refs += a.get("aria-labelledby", "").split()
        if tag == "img":
            assert a.get("alt"), "a picture without text"
        if tag == "th":
            assert a.get("scope") in ("col", "row"), "a heading of nothing"
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, (tag, self.stack[-3:], self.getpos())
        self.stack.pop()

    def handle_data(self, data):
        self.said.append(data)


page = Page()
page.feed(text)
page.close()
assert not page.stack, page.stack
assert set(page.refs) <= page.ids, set(page.refs) - page.ids
style = text[text.index("<style>"):text.index("</style>")]
assert "url(" not in style and "@import" not in style
assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", text)
assert "prefers-color-scheme:dark" in style and 'name="viewport"' in text
said = "".join(page.said)
for part in sys.argv[2:]:
    assert part in said, "it does not say: " + part
PY
}

small_cluster one two

note "one job"
job=$(distill submit "$DIR/job.yaml" --set distill.epochs=3 -q)
distill wait "$job" --timeout 10m
distill report "$job" >"$DIR/job.html"
digest=$(stage_field "$job" distill digest)
check_page "$DIR/job.html" "$job" "$digest" "from-scratch twin" "Validation accuracy" \
    "Loss of the teacher" "Accuracy of the student" "Logit bank" '"temperature": 5' \
    "Workers at the coordinator" "stage distill begins"
distill report "$job" -O "$DIR/again.html" 2>"$DIR/said"
grep -qF 'again.html' "$DIR/said" || fail "it does not say where the report is"
[ "$(stat -c %a "$DIR/again.html")" = 644 ] || [ "$(umask)" != 0022 ] || fail "others cannot read the report"

note "numbers"
distill report "$job" -o csv >"$DIR/job.csv"
distill report "$job" -o json >"$DIR/job.json"
distill report "$job" -O "$DIR/job.md"
python3 - "$DIR/job.csv" "$DIR/job.json" "$job" <<'PY' || fail "csv or json"
import csv, json, sys
rows = list(csv.DictReader(open(sys.argv[1], newline="")))
report = json.load(open(sys.argv[2]))
job = report["jobs"][0]
assert job["job"] == sys.argv[3]
epochs = {(s["name"], e["epoch"]): e for s in job["stages"] for e in s["epochs"]}
assert len(rows) == sum(len(s["epochs"]) for s in job["stages"]) >= 5, len(rows)
for row in rows:
    e = epochs[row["stage"], int(row["epoch"])]
    assert int(row["val_correct"]) == e["val_correct"] and int(row["val_samples"]) == 37
    assert abs(float(row["val_accuracy"]) - e["val_accuracy"]) < 1e-12
    assert float(row["val_lo"]) < float(row["val_accuracy"]) < float(row["val_hi"])
student = [n for n in job["networks"] if n["name"] == "student"][0]
assert student["val"]["correct"] == epochs["distill", 3]["val_correct"]
PY
grep -qF '| student |' "$DIR/job.md" || fail "Markdown"

note "a job that runs, one that failed, side by side"
running=$(distill submit "$DIR/job.yaml" --set distill.epochs=60 -q)
await_steps "$running" teacher 6
distill report "$running" "$job" >"$DIR/two.html"
check_page "$DIR/two.html" "$running" "$job" "Side by side" "What was set differently" "distill.epochs" \
    "The job has not ended"
distill cancel "$running"
distill report "$running" >"$DIR/cancelled.html"
check_page "$DIR/cancelled.html" cancelled

note "a sweep"
{ cat "$DIR/job.yaml"; echo 'matrix: {distill.loss.temperature: [1, 5]}'; echo 'seeds: 2'; } >"$DIR/sweep.yaml"
sweep=$(distill submit "$DIR/sweep.yaml" -q)
distill wait "$sweep" --timeout 10m
distill report "$sweep" >"$DIR/sweep.html"
check_page "$DIR/sweep.html" "$sweep" "accuracy over temperature" "4 of 4 jobs are over" \
    "distill.loss.temperature=5 seed=4" "Over seeds" "best by validation" "share one logit bank"
distill report "$sweep" -o json | python3 -c '
import json, sys
r = json.load(sys.stdin)
assert len(r["jobs"]) == 4 and len(r["sweeps"][0]["groups"]) == 2, r["sweeps"]
theirs = {g["label"]: g for g in r["sweeps"][0]["result"]["groups"]}
for g in r["sweeps"][0]["groups"]:
    t = theirs[g["label"]]
    assert g["n"] == t["n"] == 2
    assert abs(g["val"]["mean"] - t["val_mean"]) < 1e-6, (g, t)
    assert abs(g["difference"]["mean"] - t["difference_mean"]) < 1e-6, (g, t)
    assert all(abs(a - b) < 1e-4 for a, b in zip(g["val"]["interval"], t["val_interval"])), (g, t)
best = [j["job"] for j in r["jobs"] if j["best_of_sweep"]]
assert best == [r["sweeps"][0]["result"]["best"]], best' || fail "the sweep in JSON"

note "what cannot be"
rc=0; distill report 0123456789ab >"$DIR/out" 2>&1 || rc=$?
[ $rc -eq 3 ] || fail "a report of no job: exit code $rc"
rc=0; distill report "$job" -o xml >"$DIR/out" 2>&1 || rc=$?
[ $rc -eq 2 ] || fail "a report as xml: exit code $rc"
rc=0; distill report "$job" -O "$DIR/none/x.html" >"$DIR/out" 2>&1 || rc=$?
[ $rc -eq 1 ] || fail "a report into no folder: exit code $rc"

if command -v chromium >/dev/null; then
    note "in a browser: nothing overflows, no text is tiny, at phone and desktop width"
    # A copy without the policy measures itself, in a frame that is as narrow as a phone.
    python3 - "$DIR/two.html" "$DIR/measured.html" <<'PY'
import re, sys
text = re.sub(r"<meta http-equiv[^>]*>", "", open(sys.argv[1], encoding="utf-8").read())
script = """<script>addEventListener("load", () => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  const small = [...document.querySelectorAll("svg.chart")].map(s => 12 * s.clientWidth / 360);
  parent.postMessage([innerWidth, document.documentElement.scrollWidth, Math.min(...small),
                      small.length].join(" "), "*");
})</script>"""
open(sys.argv[2], "w", encoding="utf-8").write(text.replace("</body>", script + "</body>"))
PY
    for width in 390 1280; do
        cat >"$DIR/frame.html" <<HTML
<!DOCTYPE html><body><script>
addEventListener("message", e => document.body.setAttribute("data-measure", e.data))
</script><iframe src="measured.html" width="$width" height="2000" style="border:0"></iframe>
HTML
        timeout 120 chromium --headless --no-sandbox --disable-gpu --window-size=1400,1500 --dump-dom \
            "file://$DIR/frame.html" >"$DIR/dom.html" 2>/dev/null || true
        python3 - "$DIR/dom.html" $width <<'PY' || fail "the page at a width of $width"
import re, sys
m = re.search(r'data-measure="([^"]*)"', open(sys.argv[1], encoding="utf-8").read())
assert m, "the browser did not measure"
inner, whole, text, charts = map(float, m.group(1).split())
assert inner == float(sys.argv[2]), inner
assert whole <= inner, f"{whole} wide in a window of {inner}"
assert text >= 10 and charts >= 10, (text, charts)
PY
    done
fi
