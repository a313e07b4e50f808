#!/usr/bin/env python3
"""Turns a Keras MobileNetV2 or EfficientNetB0 classifier into a safetensors file for distilld.

    convert_keras.py mobilenet_v2 teacher.safetensors                       (ImageNet weights)
    convert_keras.py mobilenet_v2 teacher.safetensors --saved mine.keras --classes classes.txt

--saved takes what model.save wrote (.keras, .h5, a SavedModel folder), also where the network is one
layer of a larger model, as with transfer learning: layers are found by name at any depth, and the last
Dense one is the head. Layers become torchvision's names and layouts; docs/weights.md has the rest.
Needs keras or tensorflow.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from convert_torchvision import describe, read_classes, write_safetensors  # noqa: E402


def mobilenet_v2_names():
    """(Keras's layer, our name) in our order; which kind a layer is, Keras tells."""
    yield "Conv1", "features.0.0"
    yield "bn_Conv1", "features.0.1"
    for i in range(17):
        keras, ours = f"block_{i}" if i else "expanded_conv", f"features.{i + 1}.conv"
        part = 0
        if i:
            yield f"{keras}_expand", f"{ours}.0.0"
            yield f"{keras}_expand_BN", f"{ours}.0.1"
            part = 1
        yield f"{keras}_depthwise", f"{ours}.{part}.0"
        yield f"{keras}_depthwise_BN", f"{ours}.{part}.1"
        yield f"{keras}_project", f"{ours}.{part + 1}"
        yield f"{keras}_project_BN", f"{ours}.{part + 2}"
    yield "Conv_1", "features.18.0"
    yield "Conv_1_bn", "features.18.1"


def efficientnet_b0_names():
    yield "stem_conv", "features.0.0"
    yield "stem_bn", "features.0.1"
    for stage, repeat in enumerate((1, 2, 2, 3, 3, 4, 1), start=1):
        for i in range(repeat):
            keras, ours, part = f"block{stage}{'abcd'[i]}", f"features.{stage}.{i}.block", 0
            if stage > 1:
                yield f"{keras}_expand_conv", f"{ours}.0.0"
                yield f"{keras}_expand_bn", f"{ours}.0.1"
                part = 1
            yield f"{keras}_dwconv", f"{ours}.{part}.0"
            yield f"{keras}_bn", f"{ours}.{part}.1"
            yield f"{keras}_se_reduce", f"{ours}.{part + 1}.fc1"
            yield f"{keras}_se_expand", f"{ours}.{part + 1}.fc2"
            yield f"{keras}_project_conv", f"{ours}.{part + 2}.0"
            yield f"{keras}_project_bn", f"{ours}.{part + 2}.1"
    yield "top_conv", "features.8.0"
    yield "top_bn", "features.8.1"


NETWORKS = {
    # names, preprocessing of the published weights, smoothing they were trained with
    "mobilenet_v2": (mobilenet_v2_names, "symmetric", 0.0),
    "efficientnet_b0": (efficientnet_b0_names, "imagenet", 0.1),
}


def layers_of(model):
    """All layers, those of nested models too, in order."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layers_of(layer)
        else:
            yield layer


def layout(kind, array):
    """Keras's kernel in PyTorch's layout."""
    if kind == "DepthwiseConv2D":
        return array.transpose(2, 3, 0, 1)  # H W C 1 -> C 1 H W
    if kind == "Conv2D":
        return array.transpose(3, 2, 0, 1)  # H W I O -> O I H W
    return array.transpose(1, 0)  # Dense: I O -> O I


def tensors_of(layer, name):
    kind, weights = type(layer).__name__, layer.get_weights()
    if kind == "BatchNormalization":
        if abs(layer.epsilon - 1e-3) > 1e-9:
            raise SystemExit(f"{layer.name}: epsilon {layer.epsilon}, padding tf has 0.001")
        if len(weights) != 4:
            raise SystemExit(f"{layer.name}: gamma, beta, mean and variance were expected")
        for part, array in zip(("weight", "bias", "running_mean", "running_var"), weights):
            yield f"{name}.{part}", array
        return
    if kind not in ("Conv2D", "DepthwiseConv2D", "Dense"):
        raise SystemExit(f"{layer.name} is a {kind}, which was not expected there")
    yield f"{name}.weight", layout(kind, weights[0])
    if len(weights) > 1:
        yield f"{name}.bias", weights[1]


def input_scale(layers):
    """EfficientNetB0 normalises its input itself. Returns what its own layers multiply each channel
    with, relative to (x / 255 - mean) / std, after checking that they subtract ImageNet's mean."""
    import numpy as np

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    probe, at = np.zeros((2, 1, 1, 3), "float32"), None
    probe[1] = 255.0
    for layer in layers:
        if type(layer).__name__ in ("Rescaling", "Normalization"):
            probe = at = np.asarray(layer(probe))
    if at is None:
        return 1.0
    low, high = at[0, 0, 0].astype("float64"), at[1, 0, 0].astype("float64")
    if not np.allclose(-low / (high - low), mean, atol=1e-4):
        raise SystemExit("the network's own normalisation has another mean than ImageNet's")
    return (high - low) * std


def load(o):
    try:
        import keras
    except ImportError:
        from tensorflow import keras
    if o.saved:
        return keras.models.load_model(o.saved, compile=False)
    name = {"mobilenet_v2": "MobileNetV2", "efficientnet_b0": "EfficientNetB0"}[o.model]
    return getattr(keras.applications, name)(weights="imagenet")


def convert(model, network):
    """{our name: float32 array} of a Keras model, and its number of classes."""
    import numpy as np

    layers = list(layers_of(model))
    by_name = {layer.name: layer for layer in layers}
    heads = [layer for layer in layers if type(layer).__name__ == "Dense"]
    if len(heads) != 1:
        raise SystemExit(f"{len(heads)} Dense layers; exactly one, the classifier, was expected")
    tensors = {}
    for keras_name, ours in NETWORKS[network][0]():
        if keras_name not in by_name:
            raise SystemExit(f"no layer {keras_name}; is this a {network}?")
        for name, array in tensors_of(by_name[keras_name], ours):
            tensors[name] = array
    for name, array in tensors_of(heads[0], "classifier.1"):
        tensors[name] = array
    classes = tensors["classifier.1.weight"].shape[0]
    tensors.setdefault("classifier.1.bias", np.zeros(classes))
    if network == "efficientnet_b0":
        scale = input_scale(layers)
        tensors["features.0.0.weight"] = tensors["features.0.0.weight"] * np.reshape(
            scale * np.ones(3), (1, 3, 1, 1)
        )
    return {k: np.ascontiguousarray(v, dtype="float32") for k, v in tensors.items()}, classes


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", choices=tuple(NETWORKS))
    p.add_argument("output")
    p.add_argument("--saved", help="what model.save wrote (default: Keras's ImageNet weights)")
    p.add_argument("--classes", help="file with a class name on each line, in the head's order")
    p.add_argument("--preprocess", choices=("unit", "symmetric", "imagenet"),
                   help="what the network was trained on (default: as the published weights)")
    p.add_argument("--size", type=int, default=224, help="pixels a side that it was trained on")
    p.add_argument("--label-smoothing", type=float, help="that it was trained with")
    o = p.parse_args()
    _, preprocess, smoothing = NETWORKS[o.model]
    if o.saved:
        smoothing = 0.0
    if o.label_smoothing is not None:
        smoothing = o.label_smoothing
    preprocess = o.preprocess or preprocess
    tensors, n = convert(load(o), o.model)
    classes = read_classes(o.classes) if o.classes else None
    if classes and len(classes) != n:
        raise SystemExit(f"{len(classes)} class names for a head of {n} classes")
    write_safetensors(
        o.output, tensors, describe(o.model, "tf", preprocess, o.size, classes, smoothing)
    )
    print(f"{o.output}: {len(tensors)} tensors, {n} classes, padding tf, {preprocess}")


if __name__ == "__main__":
    main()
