#!/usr/bin/python3
"""Makes balance.json: which pictures Noisy Student keeps, by the plainest code there is.

    tests/golden/make_balance_golden.py

After google-research/noisystudent, filter_unlabel.py: one threshold a class, the highest of 1.00,
0.99, ... that leaves enough pictures. Copies are given as their whole part and the probability of
one more. The samples are a formula that test_balance.c repeats.
"""

import json
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
CLASSES = 6


def samples(n):
    """Confidence (float32) and class; class 5 is never the best, class 4 seldom is."""
    state, out = 1, []
    for _ in range(n):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        u = state >> 8
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        c = (state >> 16) % 16
        c = 0 if c < 7 else 1 if c < 11 else 2 if c < 14 else 3
        if u % 301 == 0:
            c = 4
        # From 0.2 to 1.0 in steps of 1/1000, more often high; class 3 is never very sure.
        confidence = 1 - 0.8 * (u % 1001 / 1000) ** 2 if c != 3 else 0.2 + 0.5 * (u % 1001) / 1000
        out.append((np.float32(confidence), c))
    return out


def balance(data, minimum, per_class, upsample):
    steps = [i / 100 for i in range(100, 0, -1) if i / 100 > minimum] + [minimum]
    classes = []
    for c in range(CLASSES):
        mine = [p for p, k in data if k == c]
        count = lambda tau: sum(p >= np.float32(tau) for p in mine)
        tau = next((t for t in steps if count(t) >= per_class), minimum)
        n = int(count(tau))
        copies = per_class / n if n else 0
        if not upsample:
            copies = min(copies, 1)
        classes.append({"tau": tau, "n": n, "copies": copies})
    return classes


def main():
    data = samples(3000)
    cases = []
    for minimum, per_class, upsample in [(0.3, 100, True), (0.3, 100, False), (0.305, 700, True),
                                         (0.0, 5000, True), (0.3, 1, True), (0.9, 333, False),
                                         (1.0, 10, True)]:
        cases.append({"minimum": minimum, "per_class": per_class, "upsample": upsample,
                      "classes": balance(data, minimum, per_class, upsample)})
    with open(os.path.join(HERE, "balance.json"), "w") as f:
        json.dump({"samples": len(data), "cases": cases}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
