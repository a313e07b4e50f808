#!/usr/bin/python3
"""A foreign worker that is asked to try jobs: trying_worker.py old|silent|odd.

Joins under the name "foreign". An old one knows no trials, a silent one never answers, an odd one answers first for
trials that are not its own, then with figures that cannot be. Prints the trials that it is sent, one a line: the
length of the job's text, 0 where a trial is called off."""
import sys

from foreign_worker import Worker


def answer(worker, number):
    m = worker.message()
    m.tried.id = number
    for name, seconds in [("teacher", 1e300), ("distill", -1e300)]:
        s = m.tried.stages.add()
        s.stage, s.samples, s.epochs, s.slots = name, 2**64 - 1, 2**32 - 1, 0
        s.steps = s.teacher_views = s.pictures = s.memory_bytes = 2**64 - 1
        s.evaluations = s.eval_units = 2**32 - 1
        s.unit_seconds = s.update_seconds = s.teacher_seconds = s.alone_seconds = s.eval_seconds = seconds
    worker.send(m)


def main():
    how = sys.argv[1]
    worker = Worker("foreign")
    worker.hello.hello.trials = how != "old"
    for got in worker.messages():
        if got.WhichOneof("kind") != "trial":
            continue
        print("trial", len(got.trial.resolved), flush=True)
        if how == "odd" and got.trial.resolved:
            answer(worker, got.trial.id + 1)
            answer(worker, 0)
            answer(worker, got.trial.id)
            answer(worker, got.trial.id)


main()
