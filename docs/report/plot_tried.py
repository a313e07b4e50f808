#!/usr/bin/env python3
"""Draws tried.csv (validation pictures right, of 551, by epoch) as tried.svg, without any library."""
import csv
import os

here = os.path.dirname(os.path.abspath(__file__))
runs = {}
with open(os.path.join(here, "tried.csv"), encoding="utf-8") as f:
    for row in csv.DictReader(f):
        runs.setdefault(row["run"], []).append((int(row["epoch"]), 100 * int(row["right_of_551"]) / 551))
W, H, left, right, top, bottom = 760, 420, 56, 200, 20, 44
last = max(e for r in runs.values() for e, _ in r)
low, high = 40, 100
x = lambda e: left + (W - left - right) * e / last
y = lambda a: top + (H - top - bottom) * (high - a) / (high - low)
colours = ["#9aa5b1", "#5b8def", "#2e9e6b", "#c77d1e", "#b0338f", "#333333"]
out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">',
       "<title>Validation accuracy of the 144,261-parameter student by epoch</title>",
       f'<rect width="{W}" height="{H}" fill="#ffffff"/>']
for a in range(low, high + 1, 10):
    out.append(f'<line x1="{left}" x2="{W - right}" y1="{y(a):.1f}" y2="{y(a):.1f}" stroke="#e3e6ea"/>'
               f'<text x="{left - 6}" y="{y(a) + 4:.1f}" text-anchor="end">{a} %</text>')
for e in range(0, last + 1, 20):
    out.append(f'<text x="{x(e):.1f}" y="{H - bottom + 18}" text-anchor="middle">{e}</text>')
out.append(f'<text x="{(left + W - right) / 2}" y="{H - 8}" text-anchor="middle">epoch</text>')
for name, value in (("the target, 84 %", 84), ("the teacher, 94.2 %", 94.2)):
    out.append(f'<line x1="{left}" x2="{W - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#333" '
               f'stroke-dasharray="4 4"/><text x="{W - right + 8}" y="{y(value) + 4:.1f}">{name}</text>')
for i, (name, points) in enumerate(runs.items()):
    line = " ".join(f"{x(e):.1f},{y(a):.1f}" for e, a in points)
    row = H - bottom - 16 * (len(runs) - i)
    out.append(f'<polyline points="{line}" fill="none" stroke="{colours[i]}" stroke-width="1.6"/>'
               f'<line x1="{W - right + 8}" x2="{W - right + 28}" y1="{row}" y2="{row}" stroke="{colours[i]}" '
               f'stroke-width="3"/><text x="{W - right + 34}" y="{row + 4}">{name}</text>')
out.append("</svg>")
with open(os.path.join(here, "tried.svg"), "w", encoding="utf-8") as f:
    f.write("\n".join(out) + "\n")
