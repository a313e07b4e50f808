#!/usr/bin/python3
"""Makes mobilenet_v2.json and shallow_cnn.json with PyTorch (Debian's python3-torch).

    cmake --build build/dev --target kd_golden_weights
    tests/golden/make_golden.py build/dev/tests/kd_golden_weights

The program it is given writes the weights and inputs, drawn by the project's own counter generator,
as safetensors; only their results are stored here. Networks are written out below in plain torch with
torchvision's names, so that torchvision is not needed. Everything runs in one thread.
"""

import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))


def load(path):
    """safetensors -> {name: tensor}; float32 only."""
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32"
        first, last = entry["data_offsets"]
        raw = bytearray(data[8 + size + first : 8 + size + last])
        out[name] = torch.frombuffer(raw, dtype=torch.float32).reshape(entry["shape"]).clone()
    return out


def write(name, what):
    """JSON with a line for each list of numbers."""
    text = json.dumps(what, indent=1)
    text = re.sub(r"\[[^][{}\"]*\]", lambda m: " ".join(m.group().split()), text)
    with open(os.path.join(HERE, name), "w") as f:
        f.write(text.replace("[ ", "[").replace(" ]", "]") + "\n")


def probe(t):
    """Euclidean norm, and product with the vector cos(i / 10): two numbers that tell a tensor."""
    t = t.detach().reshape(-1).double()
    along = torch.dot(t, torch.cos(torch.arange(t.numel(), dtype=torch.float64) / 10))
    return [float("%.9g" % t.norm().item()), float("%.9g" % along.item())]


def numbers(t):
    """float32 values with the nine digits that bring them back."""
    return [float("%.9g" % x) for x in t.detach().reshape(-1).tolist()]


# ---- networks


def divisible(v):
    """Channel rounding of the MobileNet papers: nearest multiple of 8, never 10 % below."""
    new = max(8, int(v + 4) // 8 * 8)
    return new + 8 if new < 0.9 * v else new


def same(size, stride, kernel=3):
    """Padding of TensorFlow's "SAME" on one side of `size` pixels."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Conv3x3(nn.Conv2d):
    """3x3 convolution that pads as torch does, or as TensorFlow."""

    def __init__(self, cin, cout, stride, groups, tf):
        super().__init__(cin, cout, 3, stride, 0, groups=groups, bias=False)
        self.tf = tf

    def forward(self, x):
        s = self.stride[0]
        top, bottom = same(x.shape[2], s) if self.tf else (1, 1)
        left, right = same(x.shape[3], s) if self.tf else (1, 1)
        return super().forward(F.pad(x, (left, right, top, bottom)))


def unit(conv, cout, eps):
    return nn.Sequential(conv, nn.BatchNorm2d(cout, eps=eps), nn.ReLU6())


class Residual(nn.Module):
    def __init__(self, cin, cout, stride, expand, tf, eps):
        super().__init__()
        mid, parts = cin * expand, []
        if expand != 1:
            parts.append(unit(nn.Conv2d(cin, mid, 1, bias=False), mid, eps))
        parts.append(unit(Conv3x3(mid, mid, stride, mid, tf), mid, eps))
        parts += [nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout, eps=eps)]
        self.conv = nn.Sequential(*parts)
        self.skip = stride == 1 and cin == cout

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, width, classes, tf):
        super().__init__()
        eps = 1e-3 if tf else 1e-5
        c = divisible(32 * width)
        layers = [unit(Conv3x3(3, c, 2, 1, tf), c, eps)]
        for expand, out, repeat, stride in [
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]:
            out = divisible(out * width)
            for i in range(repeat):
                layers.append(Residual(c, out, stride if i == 0 else 1, expand, tf, eps))
                c = out
        last = divisible(1280 * max(1.0, width))
        layers.append(unit(nn.Conv2d(c, last, 1, bias=False), last, eps))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean([2, 3]))


class Student(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3)
        self.conv2 = nn.Conv2d(64, 128, 3)
        self.fc1 = nn.Linear(128, 512)
        self.fc2 = nn.Linear(512, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 4)
        x = F.relu(self.conv2(x)).mean([2, 3])
        return self.fc2(F.relu(self.fc1(x)))


def fill(net, tensors):
    """Loads by name; num_batches_tracked is the one thing that our files do not have."""
    lost = net.load_state_dict(tensors, strict=False)
    assert not lost.unexpected_keys, lost
    assert all(k.endswith("num_batches_tracked") for k in lost.missing_keys), lost


def emit(program, args):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "w.safetensors")
        subprocess.run([program, path, *map(str, args)], check=True)
        return load(path)


SEED = 20


def problem(program, width, padding, size, classes, images, seed):
    tensors = emit(program, ["mobilenet_v2", width, padding, size, classes, images, seed])
    x = tensors.pop("golden.input").permute(0, 3, 1, 2).contiguous()
    y = tensors.pop("golden.labels").long()
    tensors.pop("golden.teacher")
    net = MobileNetV2(width, classes, padding == "tf")
    net.classifier[0].p = 0.0
    fill(net, tensors)
    return net, x, y


def margin(net, x):
    """Distance of any ReLU6's input from its corners 0 and 6 in a training step."""
    least = [math.inf]

    def look(module, args):
        v = args[0]
        least[0] = min(least[0], v.abs().min().item(), (v - 6).abs().min().item())

    hooks = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, nn.ReLU6)]
    with torch.no_grad():
        net.train()(x)
    for h in hooks:
        h.remove()
    return least[0]


def clear_seed(program, width, padding, size, classes, images):
    """The first seed for which no value lies so close to a corner that rounding could move it across:
    then gradients can be compared tightly."""
    for seed in range(1, 1000):
        net, x, _ = problem(program, width, padding, size, classes, images, seed)
        if margin(net, x) > 3e-5:
            return seed
    raise SystemExit("no seed without values at the corners of ReLU6")


def mobilenets(program):
    cases = []
    for width, padding, size, clear in [
        (1.0, "tf", 96, False),
        (1.0, "torch", 96, False),
        (0.35, "tf", 64, False),
        (0.35, "torch", 65, False),
        (0.05, "tf", 40, True),
        (0.05, "torch", 35, True),
    ]:
        classes, n = 5, 3
        seed = clear_seed(program, width, padding, size, classes, n) if clear else SEED
        net, x, y = problem(program, width, padding, size, classes, n, seed)
        with torch.inference_mode():
            logits = net.eval()(x)
        # One training step's worth: logits under the batch's own statistics, and a summary of every
        # gradient and of every statistic (momentum 1 leaves the batch's in the running ones).
        net.train()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = 1.0
        z = net(x)
        F.cross_entropy(z, y).backward()
        summary = {k: probe(p.grad) for k, p in net.named_parameters()}
        summary.update({k: probe(b) for k, b in net.named_buffers() if "running" in k})
        cases.append(
            dict(
                width=width,
                padding=padding,
                seed=seed,
                clear=clear,
                size=size,
                classes=classes,
                images=n,
                logits=numbers(logits),
                train_logits=numbers(z),
                **(dict(gradient=summary) if width < 1 else {}),
            )
        )
    write("mobilenet_v2.json", dict(cases=cases))


def report_loss(z, v, y, kd, ce, T):
    """The report's weighted loss: no T^2, divided by the sum of the weights."""
    soft = -(F.softmax(v / T, 1) * F.log_softmax(z / T, 1)).sum(1).mean()
    return (kd * soft + ce * F.cross_entropy(z, y)) / (kd + ce)


def students(program):
    cases = []
    for name, lr, kd, ce in [("ce", 1e-3, 0, 1), ("weighted", 1e-2, 0.9, 0.1)]:
        size, classes, n, steps, T = 32, 5, 8, 10, 5.0
        tensors = emit(program, ["shallow_cnn", 1, "torch", size, classes, n * steps, SEED])
        x = tensors.pop("golden.input").permute(0, 3, 1, 2).contiguous()
        v = tensors.pop("golden.teacher")
        y = tensors.pop("golden.labels").long()
        net = Student(3, classes)
        fill(net, tensors)
        o = torch.optim.Adam(net.parameters(), lr=lr)
        losses, last = [], None
        for t in range(steps):
            at = slice(t * n, (t + 1) * n)
            z = net(x[at])
            loss = report_loss(z, v[at], y[at], kd, ce, T)
            o.zero_grad()
            loss.backward()
            o.step()
            losses.append(loss.item())
            last = z
        cases.append(
            dict(
                name=name,
                lr=lr,
                kd=kd,
                ce=ce,
                temperature=T,
                size=size,
                classes=classes,
                batch=n,
                steps=steps,
                seed=SEED,
                losses=losses,
                last_logits=numbers(last),
            )
        )
    write("shallow_cnn.json", dict(cases=cases))


def main():
    torch.set_num_threads(1)
    mobilenets(sys.argv[1])
    students(sys.argv[1])


if __name__ == "__main__":
    main()
