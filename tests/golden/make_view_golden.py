#!/usr/bin/python3
"""Makes views.json: what torchvision makes of a small picture.

    tests/golden/make_view_golden.py

torchvision 0.14 and Pillow 9.4 (Debian's python3-torchvision, python3-pil) were used. Colour goes
through torchvision's path for Pillow pictures, whose grey is ours; the rest through that for
tensors, bilinear. The picture is a formula that test_view_ops.c repeats.
"""

import json
import math
import os

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
SIZE = 16
LINEAR = InterpolationMode.BILINEAR


def picture():
    """A slope with noise on it: bytes 20 to 219, so that autocontrast has something to do."""
    out = bytearray()
    state = 12345
    for y in range(SIZE):
        for x in range(SIZE):
            for c in range(3):
                state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
                slope = (x * (c + 1) * 5 + y * (3 - c) * 4) % 160
                out.append(20 + slope + (state >> 24) * 40 // 256)
    return bytes(out)


def shear(tensor, x, y):
    return F.affine(tensor, angle=0.0, translate=[0, 0], scale=1.0, interpolation=LINEAR,
                    shear=[math.degrees(math.atan(x)), math.degrees(math.atan(y))], center=[0, 0])


def move(tensor, x, y):
    return F.affine(tensor, angle=0.0, translate=[x, y], scale=1.0, interpolation=LINEAR,
                    shear=[0.0, 0.0])


def main():
    data = picture()
    image = Image.frombytes("RGB", (SIZE, SIZE), data)
    tensor = torch.tensor(list(data), dtype=torch.uint8).view(SIZE, SIZE, 3).permute(2, 0, 1)
    cases = []

    def add(name, value, result):
        if isinstance(result, torch.Tensor):
            flat = result.permute(1, 2, 0).contiguous().view(-1).tolist()
        else:
            flat = list(result.tobytes())
        cases.append({"op": name, "value": value, "rgb": flat})

    for f in (0.4, 1.0, 1.7):
        add("brightness", f, F.adjust_brightness(image, f))
        add("contrast", f, F.adjust_contrast(image, f))
        add("saturation", f, F.adjust_saturation(image, f))
        add("sharpness", f, F.adjust_sharpness(tensor, f))
    for angle in (-150.0, -30.0, 12.5, 90.0, 180.0):
        add("rotate", angle, F.rotate(tensor, angle, interpolation=LINEAR))
    # RandAugment at magnitude 20 of 30, by the names of kd_rand_op; value -20 turns the sign.
    for sign in (1, -1):
        part = sign * 20 / 30
        shift = int(150.0 / 331.0 * SIZE * part)
        add("shear_x", sign * 20, shear(tensor, 0.3 * part, 0.0))
        add("shear_y", sign * 20, shear(tensor, 0.0, 0.3 * part))
        add("translate_x", sign * 20, move(tensor, shift, 0))
        add("translate_y", sign * 20, move(tensor, 0, shift))
        add("rand_rotate", sign * 20, F.rotate(tensor, 30 * part, interpolation=LINEAR))
        add("rand_brightness", sign * 20, F.adjust_brightness(image, 1 + 0.9 * part))
        add("rand_color", sign * 20, F.adjust_saturation(image, 1 + 0.9 * part))
        add("rand_contrast", sign * 20, F.adjust_contrast(image, 1 + 0.9 * part))
        add("rand_sharpness", sign * 20, F.adjust_sharpness(tensor, 1 + 0.9 * part))
    for m in (1, 11, 20, 30):
        bits = 8 - int(round(m / (30 / 4)))
        add("posterize", m, F.posterize(tensor, bits))
        add("solarize", m, F.solarize(tensor, 255.0 * (30 - m) / 30))
    add("autocontrast", 0, F.autocontrast(tensor))
    add("equalize", 0, F.equalize(tensor))
    with open(os.path.join(HERE, "views.json"), "w") as f:
        json.dump({"size": SIZE, "cases": cases}, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
