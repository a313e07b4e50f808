#!/usr/bin/python3
"""Submits a job, watches it, fetches a file of it: client.py JOB.yaml [ARTEFACT]

A whole client of a coordinator in some eighty lines, with nothing of ours but proto/distill.proto: stubs are
generated from it as docs/clients.md shows. Environment: SERVER (host:port); CA, CERT and KEY, files in PEM,
where the coordinator asks for certificates."""
import os
import sys
import uuid

import grpc

import distill_pb2 as pb
import distill_pb2_grpc as rpc


def channel():
    server, ca = os.environ["SERVER"], os.environ.get("CA")
    options = [("grpc.max_receive_message_length", 6 << 20)]
    if not ca:
        return grpc.insecure_channel(server, options)

    def read(name):
        with open(os.environ[name], "rb") as f:
            return f.read()

    return grpc.secure_channel(server, grpc.ssl_channel_credentials(read("CA"), read("KEY"), read("CERT")), options)


def submit(jobs, path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    # Under one key a submit may be repeated, e.g. when its answer was lost: it is one job.
    reply = jobs.Submit(pb.SubmitRequest(key=str(uuid.uuid4()), text=text, file_name=path), timeout=60)
    for note in reply.notes:
        print(f"note: {note}")
    return reply.job


def watch(jobs, job):
    """Prints events until the job is over; returns its last state. A stream that breaks is asked for the rest."""
    seen, state = 0, pb.JOB_STATE_UNSPECIFIED
    while state not in (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED):
        try:
            for event in jobs.Watch(pb.WatchRequest(job=job, from_seq=seen + 1, follow=True, progress=True)):
                state = event.state
                if event.kind == "progress":
                    p = event.progress
                    print(f"{p.stage}: step {p.step} of {p.steps}, loss {p.loss:.4f}")
                else:
                    seen = event.seq
                    print(f"{event.kind}: {event.text}")
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
    return state


def fetch(jobs, job, name):
    at = 0
    with open(name, "wb") as f:
        while True:
            piece = jobs.Fetch(pb.FetchRequest(job=job, name=name, offset=at), timeout=60)
            f.write(piece.payload)
            at += len(piece.payload)
            if at >= piece.size:
                return piece.size


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with channel() as c:
        jobs = rpc.JobsStub(c)
        try:
            job = submit(jobs, sys.argv[1])
            print(f"job {job}")
            state = watch(jobs, job)
            if state != pb.JOB_STATE_SUCCEEDED:
                sys.exit(f"the job ended as {pb.JobState.Name(state)}")
            name = sys.argv[2] if len(sys.argv) == 3 else "student.safetensors"
            print(f"{name}: {fetch(jobs, job, name)} bytes")
        except grpc.RpcError as error:
            # The sentence for people is the status' text.
            sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
