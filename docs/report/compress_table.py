#!/usr/bin/env python3
"""The table of compress.yaml: what each step makes of the student, as Markdown.

compress_table.py DISTILL RESULTS   DISTILL: the program; RESULTS: result.json and the networks of the job.
Latency is measured here, one picture on one thread: close other programs first.
"""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from table import difference, load, share  # noqa: E402


def ask(program, *words):
    return json.loads(subprocess.run([program, *words, "-o", "json"], check=True, capture_output=True).stdout)


def c_bytes(program, file):
    """Of the network as C99."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "net.c")
        subprocess.run([program, "export", file, "--format", "c", "-o", out], check=True, capture_output=True)
        return os.path.getsize(out)


def row(program, folder, results, name):
    network, file = results[name], os.path.join(folder, name + ".safetensors")
    inspected, bench = ask(program, "inspect", file), ask(program, "bench", file)
    return [
        network.get("step", "float32"),
        share(network["correct"], network["samples"]),
        difference(results, name, "student"),
        f"{network['bytes'] / 1000:.0f} kB",
        f"{c_bytes(program, file) / 1000:.0f} kB",
        f"{inspected['macs'] / 1e6:.1f} M",
        f"{bench['latency_ms']['p50']:.3f} ms",
    ]


def main():
    program, folder = sys.argv[1:]
    results = load(os.path.join(folder, "result.json"))
    names = ["student"] + [k for k in results if k.startswith("compress")]
    print("| network | right, % | minus float32 | file | as C | multiply-adds | one picture |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        print("| " + " | ".join(row(program, folder, results, name)) + " |")


main()
