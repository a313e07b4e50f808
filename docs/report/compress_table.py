#!/usr/bin/env python3
"""The table of compress.yaml: what each step makes of the student, as Markdown.

compress_table.py DISTILL RESULTS   DISTILL: the program; RESULTS: result.json and the networks of the job.
Latency is measured here on one thread, of one picture by itself and of each in a batch of 64: close other
programs first. C is compiled with cc -std=c99 -Os.
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
    """Of code and tables, compiled for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = os.path.join(folder, "net.c"), os.path.join(folder, "net.o")
        subprocess.run([program, "export", file, "--format", "c", "-O", source], check=True, capture_output=True)
        subprocess.run(["cc", "-std=c99", "-Os", "-c", source, "-o", made], check=True)
        text, data = subprocess.run(["size", made], check=True, capture_output=True,
                                    text=True).stdout.splitlines()[1].split()[:2]
        return int(text) + int(data)


def label(results, name):
    """What the step did, and to what it was done if not to the student."""
    step, of = results[name].get("step", "float32"), results[name].get("of", "student")
    return step if of == "student" else f"{step}, after {results[of].get('step', of)}"


def row(program, folder, results, name):
    network, file = results[name], os.path.join(folder, name + ".safetensors")
    inspected, bench = ask(program, "inspect", file), ask(program, "bench", file)
    return [
        label(results, name),
        share(network["correct"], network["samples"]),
        difference(results, name, "student"),
        f"{network['bytes'] / 1000:.0f} kB",
        f"{c_bytes(program, file) / 1000:.0f} kB",
        f"{inspected['macs'] / 1e6:.1f} M",
        f"{bench['latency_ms']['p50']:.3f} ms",
        f"{1000 / bench['throughput']:.3f} ms",
    ]


def main():
    program, folder = sys.argv[1:]
    results = load(os.path.join(folder, "result.json"))
    names = ["student"] + [k for k in results if k.startswith("compress")]
    print("| network | right, % | minus float32 | file | compiled C | multiply-adds | one picture | each of 64 |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        print("| " + " | ".join(row(program, folder, results, name)) + " |")


main()
