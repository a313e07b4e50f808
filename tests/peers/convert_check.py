#!/usr/bin/env python3
"""convert_check.py torchvision|keras PROGRAM: converts networks of random weights with docs/convert_*.py,
lets PROGRAM (kd_convert_check) answer pictures, and asks the library they came from for the same."""

import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLASSES = ["one", "two", "three, or more", "four", "five"]


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, e in json.loads(data[8 : 8 + n]).items():
        if name != "__metadata__":
            first, last = (8 + n + at for at in e["data_offsets"])
            out[name] = np.frombuffer(data[first:last], "<f4").reshape(e["shape"])
    return out


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.split()


def compare(label, folder, script, arguments, program, model, width, size, expected, logits_of):
    """Converts, lets our program answer, and compares with logits_of(pictures of bytes)."""
    file, answers = os.path.join(folder, "w.safetensors"), os.path.join(folder, "a.safetensors")
    names = os.path.join(folder, "classes.txt")
    with open(names, "w", encoding="utf-8") as f:
        f.write("\n".join(CLASSES) + "\n")
    run(sys.executable, os.path.join(DOCS, script), model, file, "--classes", names,
        "--size", str(size), *arguments)
    said = run(program, file, model, str(width), str(size), str(len(CLASSES)), answers)
    if said != expected:
        raise SystemExit(f"{label}: the metadata says {said}, {expected} was expected")
    got = read_safetensors(answers)
    want = logits_of(got["raw"].astype("float64"))
    error = np.abs(got["logits"] - want).max() / np.sqrt((want**2).mean())
    print(f"{label}: logits within {error:.1e}")
    if not error < 1e-3 or want.std() == 0:
        raise SystemExit(f"{label}: logits differ")


def torchvision_cases(program, folder):
    import torch
    from torchvision import models

    torch.manual_seed(1)
    state = os.path.join(folder, "state.pth")
    for model, width, how in [
        ("mobilenet_v2", 1.0, "imagenet"),
        ("mobilenet_v2", 0.5, "symmetric"),
        ("efficientnet_b0", 1.0, "imagenet"),
        ("resnet18", 1.0, "unit"),
        ("resnet34", 1.0, "imagenet"),
        ("resnet50", 1.0, "imagenet"),
    ]:
        more = {"width_mult": width} if width != 1 else {}
        net = getattr(models, model)(weights=None, num_classes=len(CLASSES), **more)
        pictures = torch.rand(4, 3, 96, 96) * 2 - 1
        net.train()
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(m.weight, 0.5, 1.5)
                torch.nn.init.normal_(m.bias, 0, 0.2)
                m.momentum = 0.7
        with torch.no_grad():
            net(pictures)
        net.eval()
        # A checkpoint as training scripts write it, with and without the wrapping.
        wrapped = {"state_dict": {"module." + k: v for k, v in net.state_dict().items()}, "epoch": 3}
        torch.save(wrapped if model == "resnet18" else net.state_dict(), state)

        def logits_of(raw):
            x = {"unit": raw / 255, "symmetric": raw / 127.5 - 1, "imagenet": (raw / 255 - MEAN) / STD}
            with torch.inference_mode():
                return net(torch.tensor(x[how]).float().permute(0, 3, 1, 2)).numpy()

        compare(f"torchvision {model} {width}", folder, "convert_torchvision.py",
                ["--state", state, "--preprocess", how, "--width", str(width),
                 "--label-smoothing", "0.1"],
                program, model, width, 96, ["torch", "96", "5", "0.1"], logits_of)


def keras_cases(program, folder):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import keras
    except ImportError:
        from tensorflow import keras
    rng = np.random.default_rng(1)
    layers = keras.layers
    for model, size, how in [
        ("mobilenet_v2", 96, "symmetric"),
        ("mobilenet_v2", 128, "unit"),
        ("efficientnet_b0", 96, "imagenet"),
    ]:
        build = {"mobilenet_v2": "MobileNetV2", "efficientnet_b0": "EfficientNetB0"}[model]
        base = getattr(keras.applications, build)(
            weights=None, include_top=False, input_shape=(size, size, 3), pooling="avg")
        # Transfer learning: the network as one layer of another.
        net = keras.Sequential([keras.Input((size, size, 3)), base, layers.Dropout(0.2),
                                layers.Dense(len(CLASSES))])
        for layer in base.layers:
            if isinstance(layer, layers.BatchNormalization):
                shape = layer.get_weights()[0].shape
                layer.set_weights([rng.uniform(0.5, 1.5, shape), rng.normal(0, 0.2, shape),
                                   rng.normal(0, 0.2, shape), rng.uniform(0.5, 1.5, shape)])
            elif type(layer).__name__ == "Normalization":
                # Its variance is not the square of the deviation in the published file either.
                layer.set_weights([MEAN, STD, np.int64(0)][: len(layer.get_weights())])
                layer.finalize_state()
            elif layer.get_weights():
                # Weights that keep the signal alive under the made-up statistics.
                w = layer.get_weights()
                fan = w[0].shape[0] * w[0].shape[1]
                fan *= 1 if "Depthwise" in type(layer).__name__ else w[0].shape[2]
                layer.set_weights([rng.normal(0, (2 / fan) ** 0.5, w[0].shape)] + w[1:])
        saved = os.path.join(folder, "saved.h5")
        net.save(saved)

        def logits_of(raw):
            x = {"unit": raw / 255, "symmetric": raw / 127.5 - 1, "imagenet": raw}
            return net.predict(x[how].astype("float32"), verbose=0)

        compare(f"keras {model} {size}", folder, "convert_keras.py",
                ["--saved", saved, "--preprocess", how], program, model, 1.0, size,
                ["tf", str(size), "5", "0"], logits_of)


def main():
    cases = {"torchvision": torchvision_cases, "keras": keras_cases}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        cases(sys.argv[2], folder)


main()
