#!/usr/bin/python3
"""Makes torchvision.json: whole networks as torchvision computes them, on our weights.

    cmake --build build/release --target kd_golden_weights
    tests/golden/make_torchvision_golden.py build/release/tests/kd_golden_weights

Needs Debian's python3-torch and python3-torchvision (0.14.1 was used). Weights, inputs and labels are
drawn by the given program, so that only the answers are stored. Dropout and stochastic depth are off;
everything runs in one thread.
"""

import math
import sys

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from make_golden import emit, fill, numbers, probe, same, write

CLASSES, IMAGES = 10, 4


class Same(nn.Module):
    """Pads as TensorFlow's "SAME" what comes to a strided convolution."""

    def __init__(self, conv):
        super().__init__()
        conv.padding = (0, 0)
        self.inner = conv

    def forward(self, x):
        k, s = self.inner.kernel_size[0], self.inner.stride[0]
        top, bottom = same(x.shape[2], s, k)
        left, right = same(x.shape[3], s, k)
        return self.inner(F.pad(x, (left, right, top, bottom)))


def as_tensorflow(module):
    """torchvision's network in TensorFlow's kind: other padding, other eps."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.stride[0] > 1:
            setattr(module, name, Same(child))
        else:
            as_tensorflow(child)
        if isinstance(child, nn.BatchNorm2d):
            child.eps = 1e-3


def problem(program, model, padding, size, apart, seed):
    tensors = emit(
        program, [model, 1, padding, size, CLASSES, IMAGES, seed] + ["apart"] * apart
    )
    x = tensors.pop("golden.input").permute(0, 3, 1, 2).contiguous()
    y = tensors.pop("golden.labels").long()
    tensors.pop("golden.teacher")
    net = getattr(torchvision.models, model)(weights=None, num_classes=CLASSES)
    fill(net, tensors)
    if padding == "tf":
        as_tensorflow(net)
    for m in net.modules():
        if isinstance(m, (nn.Dropout, torchvision.ops.StochasticDepth)):
            m.p = 0.0
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0  # the running statistics become the batch's
    return net, x, y


def margin(net, x):
    """How far the inputs of a training step keep from where a gradient jumps: the corners of ReLU and
    ReLU6, and two equal largest values in a window of a max pool."""
    least = [math.inf]

    def look(module, args):
        v = args[0]
        if isinstance(module, nn.MaxPool2d):
            k, s, p = module.kernel_size, module.stride, module.padding
            padded = F.pad(v, (p, p, p, p), value=-math.inf)
            windows = padded.unfold(2, k, s).unfold(3, k, s).flatten(4)
            first, second = windows.topk(2, dim=4).values.unbind(4)
            gap = (first - second)[first > 0]
            least[0] = min(least[0], gap.min().item())
            return
        least[0] = min(least[0], v.abs().min().item())
        if isinstance(module, nn.ReLU6):
            least[0] = min(least[0], (v - 6).abs().min().item())

    kinds = (nn.ReLU, nn.ReLU6, nn.MaxPool2d)
    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        net.train()(x)
    for h in hooks:
        h.remove()
    return least[0]


def clear_seed(program, model, padding, size, apart, wanted):
    for seed in range(1, 1000):
        net, x, _ = problem(program, model, padding, size, apart, seed)
        if margin(net, x) > wanted:
            return seed
    raise SystemExit(f"{model}: no seed keeps {wanted} away from the corners")


def summary(t):
    """The two numbers of probe, then the first, the middle and the last value."""
    flat = t.detach().reshape(-1)
    return probe(t) + numbers(flat[[0, flat.numel() // 2, flat.numel() - 1]])


def case(program, model, padding, size, apart, wanted):
    seed = clear_seed(program, model, padding, size, apart, wanted)
    net, x, y = problem(program, model, padding, size, apart, seed)
    with torch.inference_mode():
        logits = net.eval()(x)
    z = net.train()(x)
    F.cross_entropy(z, y).backward()
    # A strided convolution of TensorFlow's kind sits in a module of ours.
    gradient = {k.replace(".inner", ""): summary(p.grad) for k, p in net.named_parameters()}
    gradient.update({k: summary(b) for k, b in net.named_buffers() if "running" in k})
    print(model, padding, "seed", seed, flush=True)
    return dict(
        model=model,
        padding=padding,
        apart=apart,
        seed=seed,
        size=size,
        classes=CLASSES,
        images=IMAGES,
        logits=numbers(logits),
        train_logits=numbers(z),
        gradient=gradient,
    )


def main():
    torch.set_num_threads(1)
    write(
        "torchvision.json",
        dict(
            cases=[
                case(sys.argv[1], *arguments)
                for arguments in [
                    # (model, padding, size, apart, least distance from a corner)
                    ("mobilenet_v2", "torch", 64, True, 3e-4),
                    ("efficientnet_b0", "torch", 64, False, 0),
                    ("efficientnet_b0", "tf", 64, False, 0),
                    ("resnet18", "torch", 64, False, 6e-6),
                ]
            ]
        ),
    )


main()
