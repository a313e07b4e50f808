#!/usr/bin/env python3
"""Turns a torchvision classifier into a safetensors file that distilld loads.

    convert_torchvision.py mobilenet_v2 teacher.safetensors                      (torchvision's weights)
    convert_torchvision.py resnet50 teacher.safetensors --weights IMAGENET1K_V1
    convert_torchvision.py resnet18 teacher.safetensors --state mine.pth --classes classes.txt

Names and layouts stay as they are; what the numbers alone do not tell goes into the metadata: padding,
preprocessing, size, classes, and label smoothing. docs/weights.md has the rest.
Needs torch and torchvision (0.13 or later), and no other package.
"""

import argparse
import json
import struct
import sys

MODELS = ("mobilenet_v2", "efficientnet_b0", "resnet18", "resnet34", "resnet50")
HEADS = {"mobilenet_v2": "classifier.1", "efficientnet_b0": "classifier.1"}  # others: fc


def write_safetensors(path, tensors, metadata):
    """tensors: {name: contiguous float32 array}, written in order and without holes."""
    header, at = {"__metadata__": metadata}, 0
    for name, array in tensors.items():
        assert array.dtype.name == "float32" and array.flags["C_CONTIGUOUS"], name
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            f.write(array.tobytes())


def read_classes(path):
    with open(path, encoding="utf-8") as f:
        return [line.strip() for line in f if line.strip()]


def describe(model, padding, preprocess, size, classes, label_smoothing):
    """The metadata; a comma divides class names, so one inside a name becomes a semicolon."""
    metadata = {
        "format": "pt",
        "model": model,
        "padding": padding,
        "preprocess": preprocess,
        "size": str(size),
    }
    if classes:
        metadata["classes"] = ",".join(c.replace(",", ";") for c in classes)
    if label_smoothing:
        metadata["label_smoothing"] = repr(label_smoothing)
    return metadata


def options(arguments):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", choices=MODELS)
    p.add_argument("output")
    p.add_argument("--state", help="checkpoint of torch.save: a state_dict, or a dict that holds one")
    p.add_argument("--weights", help="torchvision's own, by name (default: DEFAULT)")
    p.add_argument("--width", type=float, default=1.0, help="mobilenet_v2: width_mult")
    p.add_argument("--classes", help="file with a class name on each line, in the head's order")
    p.add_argument("--preprocess", choices=("unit", "symmetric", "imagenet"), default="imagenet")
    p.add_argument("--size", type=int, default=224, help="pixels a side that it was trained on")
    p.add_argument("--label-smoothing", type=float, help="that it was trained with")
    o = p.parse_args(arguments)
    if o.state and o.weights:
        p.error("--state and --weights exclude each other")
    return o


def load_state(path):
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), dict):
            state = state[key]
    # torch.nn.DataParallel puts a prefix before each name.
    return {k[7:] if k.startswith("module.") else k: v for k, v in state.items()}


def load_published(model, name):
    """torchvision's weights: state, class names, and the smoothing of their training recipe."""
    from torchvision import models

    enum = getattr(models, {"mobilenet_v2": "MobileNet_V2", "efficientnet_b0": "EfficientNet_B0"}.get(
        model, model.replace("resnet", "ResNet")) + "_Weights")
    weights = getattr(enum, name or "DEFAULT")
    state = getattr(models, model)(weights=weights).state_dict()
    # The first recipe has none; the second one (V2) and EfficientNet's have 0.1.
    smoothing = 0.1 if weights.name.endswith("V2") or model == "efficientnet_b0" else 0.0
    return state, weights.meta["categories"], smoothing


def main():
    o = options(sys.argv[1:])
    from torchvision import models

    if o.state:
        state, classes, smoothing = load_state(o.state), None, 0.0
    else:
        state, classes, smoothing = load_published(o.model, o.weights)
    if o.classes:
        classes = read_classes(o.classes)
    if o.label_smoothing is not None:
        smoothing = o.label_smoothing

    # torchvision itself says whether names and shapes are right.
    head = HEADS.get(o.model, "fc") + ".weight"
    if head not in state:
        raise SystemExit(f"{o.state}: no {head}; is this a {o.model}?")
    n = state[head].shape[0]
    if classes and len(classes) != n:
        raise SystemExit(f"{len(classes)} class names for a head of {n} classes")
    width = {"width_mult": o.width} if o.model == "mobilenet_v2" else {}
    net = getattr(models, o.model)(weights=None, num_classes=n, **width)
    net.load_state_dict(state)

    tensors = {
        name: value.detach().float().contiguous().numpy()
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = describe(o.model, "torch", o.preprocess, o.size, classes, smoothing)
    write_safetensors(o.output, tensors, metadata)
    print(f"{o.output}: {len(tensors)} tensors, {n} classes, padding torch, {o.preprocess}")


if __name__ == "__main__":
    main()
