#!/usr/bin/python3
"""Makes resize.json: what Pillow's BILINEAR makes of small pictures.

    tests/golden/make_resize_golden.py

The pictures are a formula that the test repeats, so only results are stored. Pillow 9.4 (Debian's
python3-pil) was used.
"""

import json
import os

from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = [
    (8, 8, 4, 4),
    (13, 7, 5, 3),
    (7, 13, 9, 20),
    (64, 48, 6, 5),
    (5, 5, 5, 5),
    (1, 1, 3, 2),
    (3, 1, 1, 4),
    (100, 3, 7, 2),
    (33, 31, 32, 8),
    (2, 40, 4, 11),
]


def picture(w, h):
    """Bytes of a multiplicative generator mixed with a slope; test_resize.c has the same."""
    out = bytearray()
    state = w * 1000 + h
    for y in range(h):
        for x in range(w):
            for c in range(3):
                state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
                noise = state >> 24
                slope = (255 * x // w + 255 * y // h) // 2
                out.append(noise if (x // 3 + y // 2 + c) % 2 else slope)
    return bytes(out)


def main():
    cases = []
    for w, h, ow, oh in CASES:
        image = Image.frombytes("RGB", (w, h), picture(w, h))
        small = image.resize((ow, oh), Image.BILINEAR)
        cases.append({"in": [w, h], "out": [ow, oh], "rgb": list(small.tobytes())})
    with open(os.path.join(HERE, "resize.json"), "w") as f:
        f.write('{"cases": [\n')
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
