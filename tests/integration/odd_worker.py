#!/usr/bin/python3
"""A foreign worker with data of its own: odd_worker.py now|asked|broken JOB STAGE.

Joins under the name "odd", keeps its lease and tells once what the stage is made of, which is not what
the job's other workers find: at once though nobody asked, or when it is told to prepare the stage; or, broken,
in a message that no coordinator takes. Prints "told" then, "released" when it is, and goes on until it is stopped."""
import sys

from foreign_worker import Worker


def main():
    when, job, stage = sys.argv[1], sys.argv[2], int(sys.argv[3])
    worker = Worker("odd")
    ready = worker.ready(job, stage)
    if when == "broken":
        ready.ready.info.model = "m" * 65

    def tell():
        worker.send(ready)
        print("told", flush=True)

    for got in worker.messages():
        kind = got.WhichOneof("kind")
        if when == "now" and kind == "welcome":
            tell()
        if kind == "release":
            print("released", got.release.reason, flush=True)
        if when != "now" and kind == "prepare" and (got.prepare.job, got.prepare.stage) == (job, stage):
            tell()


main()
