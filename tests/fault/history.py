"""A job's history: checks it, and prints what must be the same whatever happened on the way.

    history.py SHOW.json EVENTS.jsonl    (`distill show -o json`, `distill events -o json`)

Exit code 1 and one line each for what is wrong."""
import json
import sys


def read(show_path, events_path):
    with open(show_path) as f:
        job = json.load(f)
    with open(events_path) as f:
        events = [json.loads(line) for line in f if line.strip()]
    return job, events


def faults(job, events):
    """What no history may have."""
    seqs = [e["seq"] for e in events]
    if seqs != list(range(1, len(seqs) + 1)):
        yield f"events are not numbered 1 to {len(seqs)}: {seqs}"
    ends = [i for i, e in enumerate(events) if e["kind"] == "finished"]
    if ends != [len(events) - 1]:
        yield f"{len(ends)} events of an end, of {len(events)} events at {ends}"
    if not events or events[0]["kind"] != "submitted":
        yield "the first event is not its submission"
    if events and events[-1]["state"] != job["state"]:
        yield f"the job is {job['state']}, its last event says {events[-1]['state']}"
    for stage in job["stages"]:
        name = stage["name"]
        done = [e for e in events if e["kind"] == "stage" and e["text"].startswith(f"stage {name} done")]
        # Measured costs and the result are stored with the job's end only: a coordinator that dies
        # before it does these two again.
        if len(done) != 1 and not (name in ("evaluate", "export") and done):
            yield f"{len(done)} events say that stage {name} is done"
        if stage["committed"] != stage["steps"]:
            yield f"stage {name} committed {stage['committed']} of {stage['steps']} steps"
        steps = [e["step"] for e in stage["epochs"]]
        if steps != sorted(set(steps)):
            yield f"stage {name} has evaluations at steps {steps}"
    told = {}
    for e in events:
        if e["kind"] == "epoch":
            key = e["data"]["stage"], e["data"]["step"]
            if told.setdefault(key, e["data"]) != e["data"]:
                yield f"two evaluations of {key[0]} step {key[1]} differ"
    for stage in job["stages"]:
        missing = [e["step"] for e in stage["epochs"] if (stage["name"], e["step"]) not in told]
        if missing:
            yield f"no events of the evaluations of {stage['name']} at {missing}"


def essence(job):
    """Without times, ids, and what was computed twice."""
    kept = ("name", "state", "digest", "fingerprint", "parameters", "steps", "best_digest",
            "best_epoch", "stopped_early", "terms", "epochs")
    result = dict(job["result"] or {})
    for gone in ("job", "seconds", "bank"):
        result.pop(gone, None)
    for value in result.values():
        if isinstance(value, dict):
            for gone in ("seconds", "ms_per_image", "ms_per_image_64"):
                value.pop(gone, None)
    return {"state": job["state"], "stages": [{k: s[k] for k in kept} for s in job["stages"]],
            "artefacts": [a["name"] for a in job["artefacts"]], "result": result}


def main():
    job, events = read(*sys.argv[1:])
    wrong = list(faults(job, events))
    for line in wrong:
        print("history:", line, file=sys.stderr)
    print(json.dumps(essence(job), indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
