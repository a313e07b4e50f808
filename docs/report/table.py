#!/usr/bin/env python3
"""The table of docs/report: our figures beside the report's, as Markdown.

table.py RESULTS NAME...   RESULTS/NAME/result.json and job.json, or, of a sweep, one result.json in a folder
                           for each of its jobs; names without results are left out.
"""
import glob
import json
import math
import os
import sys


def wilson(right, n):
    """95 % interval of a share."""
    z, p = 1.959963984540054, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]


def share(right, n):
    low, high = wilson(right, n)
    return f"{100 * right / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def last_and_best(network):
    n = network["samples"]
    return share(network["correct"], n), share(round(network["best_accuracy"] * n), n)


def paired(both, only_a, only_b, neither):
    """Difference of two shares of the same samples and its 95 % interval: method 10 of Newcombe 1998
    (Statistics in Medicine 17:2635), as `distill show` has it."""
    n = both + only_a + only_b + neither
    p1, p2 = (both + only_a) / n, (both + only_b) / n
    l1, u1 = wilson(both + only_a, n)
    l2, u2 = wilson(both + only_b, n)
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    top = both * neither - only_a * only_b
    top = max(top - n / 2, 0) if top > 0 else top
    phi = top / math.sqrt(product) if product > 0 else 0

    def reach(x, y):
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0))
    d = p1 - p2
    return d, d - reach(p1 - l1, u2 - p2), d + reach(u1 - p1, p2 - l2)


def difference(result, a="student", b="scratch"):
    """One network minus another in points, last epoch, with the 95 % interval of paired samples."""
    for pair in result.get("pairs", []):
        if (pair["a"], pair["b"], pair["split"]) == (a, b, "val"):
            d, low, high = paired(pair["both"], pair["only_a"], pair["only_b"], pair["neither"])
            return f"{100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return ""


def report_figures():
    figures = {}
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "figures.tsv"), encoding="utf-8") as f:
        for line in f:
            if not line.startswith("#"):
                name, last, best, n = line.rstrip("\n").split("\t")
                figures[name] = f"{last} / {best} ({n})"
    return figures


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def row(name, result, job, theirs):
    student = result["student"]
    last, best = last_and_best(student)
    twin = result.get("scratch")
    cells = [name, f"{student['model']}, {student['parameters']:,}", last, best,
             share(twin["correct"], twin["samples"]) if twin else "", difference(result), theirs,
             f"{job['student']['size']}, {job['distill']['epochs']} epochs, "
             f"{result['seconds'] / 60:.1f} min", student["digest"][:12]]
    return "| " + " | ".join(cells) + " |"


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    results, names, theirs = sys.argv[1], sys.argv[2:], report_figures()
    print("| experiment | network, parameters | ours, last epoch | ours, best epoch | twin from scratch | "
          "student minus twin | the report, last / best (pictures) | pixels it sees, epochs, time | digest |")
    print("|" + "---|" * 9)
    pictures = set()
    for name in names:
        folder = os.path.join(results, name)
        children = sorted(glob.glob(os.path.join(glob.escape(folder), "*", "result.json")))
        if children:
            sweep = load(os.path.join(folder, "result.json"))
            where = {os.path.basename(os.path.dirname(c))[:12]: c for c in children}
            for child in sweep["children"]:
                if child["job"] in where:
                    result = load(where[child["job"]])
                    pictures.add(result["student"]["samples"])
                    print(row(f"{name}, {child['label'].replace('distill.loss.', '')}", result,
                              load(os.path.join(folder, "job.json")), ""))
        elif os.path.exists(os.path.join(folder, "result.json")):
            result = load(os.path.join(folder, "result.json"))
            pictures.add(result["student"]["samples"])
            print(row(name, result, load(os.path.join(folder, "job.json")), theirs.get(name, "")))
    print(f"\nPer cent right over all {' or '.join(map(str, sorted(pictures)))} validation pictures, 95 % Wilson "
          "intervals; differences are paired.\nThe report's students are measured on 38 pictures, the last batch of "
          "its validation split, which leaves an interval of\nsome 26 to 31 points about each of its figures; its "
          "teacher is measured on all 550. Its text gives 74, 71, 56 and 84 %\nfor its students, 91.45 % for its "
          "teacher.")


if __name__ == "__main__":
    main()
