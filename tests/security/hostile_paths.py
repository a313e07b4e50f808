#!/usr/bin/python3
"""Submits jobs whose paths lead out, as a client that has not looked at them before: hostile_paths.py RESOLVED JOB KEY...

RESOLVED is a good job as JSON, JOB one that has succeeded, KEY a key that takes a path beneath a worker's data root.
Each key gets each path in the text and as an override, then weights, digests and uploads get theirs. All have to be
refused with their status and a sentence that names what is wrong. $DISTILL_SERVER and $DISTILL_CREDENTIALS as in call.py."""
import copy
import json
import os
import sys

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
from call import connect, message_class, types  # noqa: E402

OUT = ["..", "../x", "/etc/passwd", "x/../../../etc/passwd", "x/..", "./../x", "/", "../../tls/ca.key", "x\u0000/../..", "x" * 600]


def put(job, key, value):
    """job with another value under the dotted key."""
    job = copy.deepcopy(job)
    *path, last = key.split(".")
    if path[:2] == ["data", "unlabelled"]:
        job["data"]["unlabelled"] = {"path": "more"}
    at = job
    for word in path:
        at = at.setdefault(word, {})
    at[last] = value
    if last.endswith("_labels"):
        at["format"] = "idx"
    return job


def main():
    resolved, source, *keys = sys.argv[1:]
    with open(resolved) as f:
        job = json.load(f)
    service = "distill.v1.Jobs"
    with connect([("grpc.enable_http_proxy", 0)]) as channel:
        pool = types(channel, service)
        method = pool.FindServiceByName(service).FindMethodByName("Submit")
        request = message_class(pool, method.input_type)
        submit = channel.unary_unary(f"/{service}/Submit", request_serializer=lambda m: m.SerializeToString())

        def refused(says, codes, text, sets=(), blobs=()):
            m = request(key="hostile", text=json.dumps(text), set=list(sets))
            for path, digest in blobs:
                m.blobs.add(path=path, digest=digest)
            try:
                submit(m, timeout=60)
            except grpc.RpcError as error:
                if error.code().name in codes and says in error.details():
                    return
                sys.exit(f"{says}: {error.code().name} {error.details()}")
            sys.exit(f"{says}: {sets or text} with {blobs} was taken")

        tried = 0
        for key in keys:
            says = f"{key}: expected a relative path without `..`"
            for path in OUT:
                refused(says, ["INVALID_ARGUMENT"], put(job, key, path))
                if "\0" not in path:
                    refused(says, ["INVALID_ARGUMENT"], put(job, key, "x"), [f"{key}={json.dumps(path)}"])
                tried += 2
        for network in "teacher", "student":
            key = network + ".weights"
            for path in f"job:{source}/../../../tls/ca.key", "job:../../tls", "job:/etc/passwd", "job:":
                refused("weights", ["INVALID_ARGUMENT"], put(job, key, path))
            for name in "..", "result.json":
                refused("has no file of weights", ["NOT_FOUND"], put(job, key, f"job:{source}/{name}"))
            for path in OUT:
                path = path.split("\0")[0][:300]
                refused("was not uploaded", ["FAILED_PRECONDITION"], put(job, key, path))
                refused("no file with digest", ["FAILED_PRECONDITION"], put(job, key, path), (), [(path, "0" * 32)])
                refused("", ["INVALID_ARGUMENT", "FAILED_PRECONDITION"], put(job, key, path), (),
                        [(path, "../state/tls/ca.key")])
                refused("weights_digest", ["INVALID_ARGUMENT"],
                        put(put(job, key, path), key + "_digest", "../../../state/tls/ca.key"))
                tried += 4
    print(f"{tried} paths were refused")


if __name__ == "__main__":
    main()
