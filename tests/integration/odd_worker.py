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
    ready = worker.message()
    ready.ready.job = job
    ready.ready.stage = stage
    info = ready.ready.info
    info.parameters, info.train_samples, info.val_samples, info.classes = 5000, 77, 7, 3
    info.batch, info.slots, info.epochs, info.chunk_floats = 16, 4, 1, 4096
    info.data_digest = info.classes_digest = "00112233445566778899aabbccddeeff"
    info.table, info.model, info.metadata, info.epoch_samples = "[]", "mlp", "{}", 77
    if when == "broken":
        info.model = "m" * 65

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
