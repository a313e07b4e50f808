#!/usr/bin/env python3
"""Networks of Keras as tf2onnx exports them, ours against TensorFlow.

onnx_keras.py KD_ONNX_RUN FOLDER      (needs tensorflow 2.15 and tf2onnx)

Random weights, at opsets 9, 13 and 17, with the input as Keras has it (NHWC) and once as NCHW. Exit code
1 if one is refused or differs."""
import os
import subprocess
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf
import tf2onnx

keras = tf.keras
layers = keras.layers
SIZE, CLASSES = 96, 5
NAMES = ("MobileNet MobileNetV2 MobileNetV3Small EfficientNetB0 ResNet50V2 DenseNet121 "
         "NASNetMobile").split()
rng = np.random.default_rng(0)


def pictures(n):
    """Coarse patterns of strong colours: on noise an untrained network says the same to all."""
    x = rng.uniform(-2, 2, (n, 4, 4, 3)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    return (x + rng.uniform(0, 1, x.shape)).astype(np.float32)


def small():
    return keras.Sequential([
        layers.Rescaling(1 / 2, offset=-0.1, input_shape=(SIZE, SIZE, 3)),
        layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(),
        layers.SeparableConv2D(12, 3, padding="same", strides=2, activation="swish"),
        layers.BatchNormalization(), layers.AveragePooling2D(3, padding="same", strides=2),
        layers.ZeroPadding2D(1), layers.DepthwiseConv2D(3, depth_multiplier=2), layers.LeakyReLU(),
        layers.Flatten(), layers.Dropout(0.3), layers.Dense(16, activation="tanh"),
        layers.Dense(CLASSES, activation="softmax")])


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def compare(tool, folder, name):
    if name == "small":
        net = small()
    else:
        net = getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3),
                                                classes=CLASSES)
    for layer in net.layers:  # statistics of pictures
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    net(pictures(8), training=True)
    x = pictures(2)
    want = net.predict(x, verbose=0)
    paths = [os.path.join(folder, n) for n in ("keras.onnx", "keras.in", "keras.out")]
    worst = 0
    for opset, nchw in ((9, False), (13, True), (17, False)):
        spec = tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="x")
        tf2onnx.convert.from_keras(net, input_signature=[spec], opset=opset, output_path=paths[0],
                                   inputs_as_nchw=["x"] if nchw else None)
        np.ascontiguousarray(x.transpose(0, 3, 1, 2) if nchw else x).tofile(paths[1])
        p = subprocess.run([tool, "run", *paths], capture_output=True, text=True)
        if p.returncode:
            return False, f"opset {opset}: {p.stderr.strip()}"
        got = softmax(np.fromfile(paths[2], np.float32).reshape(want.shape))
        worst = max(worst, float(np.abs(got - want).max() / np.abs(want[0] - want[1]).max()))
    return worst <= 1e-3, f"off by {worst:.2g} of what tells pictures apart"


def main():
    failed = 0
    for name in ["small"] + NAMES:
        ok, text = compare(*sys.argv[1:3], name)
        failed += not ok
        print(f"{'passed' if ok else 'FAILED'} {name}: {text}", flush=True)
    print(f"Keras networks: {len(NAMES) + 1 - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
