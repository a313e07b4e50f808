#!/usr/bin/env python3
"""PyTorch at its best on a CPU, one number (images a second) per call.

peer.py student-step | cheap-step | fine-tune-step | resnet18-step | mlp-step | teacher-infer
            one thread, 224x224 (mlp-step: 28x28, batch 64), channels-last, warmed
peer.py whole-step | stored-logits-step
            two processes of one thread each: DDP over gloo, a student step on every batch of 64,
            with teacher inference or with logits that are there. With `memory` behind it: the
            largest resident memory of a process in MB instead of the rate
"""
import os
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

SIZE, CLASSES, SECONDS = 224, 5, 4.0


class Student(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 64, 3), nn.ReLU(inplace=True), nn.MaxPool2d(4),
            nn.Conv2d(64, 128, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(128, 512), nn.ReLU(inplace=True), nn.Linear(512, CLASSES))


def conv_bn(i, o, k, s, g=1, act=True):
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return layers + ([nn.ReLU6(inplace=True)] if act else [])


class Block(nn.Module):
    def __init__(self, i, o, s, t):
        super().__init__()
        h = i * t
        layers = conv_bn(i, h, 1, 1) if t != 1 else []
        self.conv = nn.Sequential(*layers, *conv_bn(h, h, 3, s, h), *conv_bn(h, o, 1, 1, act=False))
        self.residual = s == 1 and i == o

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def teacher():
    layers, i = conv_bn(3, 32, 3, 2), 32
    for t, c, n, s in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                       (6, 160, 3, 2), (6, 320, 1, 1)]:
        for k in range(n):
            layers.append(Block(i, c, s if k == 0 else 1, t))
            i = c
    layers += conv_bn(320, 1280, 1, 1)
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, CLASSES))
    return net.eval().to(memory_format=torch.channels_last)


class Cheap(nn.Sequential):
    """The project's cheap_cnn: depthwise separable, strided early, shortcuts."""
    class Block(nn.Module):
        def __init__(self, i, o, s):
            super().__init__()
            self.depthwise = nn.Sequential(nn.Conv2d(i, i, 3, s, 1, groups=i, bias=False),
                                           nn.BatchNorm2d(i), nn.ReLU(inplace=True))
            self.pointwise = nn.Sequential(nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o))
            self.residual = s == 1 and i == o

        def forward(self, x):
            y = self.pointwise(self.depthwise(x))
            return F.relu(x + y if self.residual else y)

    def __init__(self):
        layers, i = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)], 16
        for o, s in [(32, 2), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1)]:
            layers.append(Cheap.Block(i, o, s))
            i = o
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES))


class Basic(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
                                  nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o))
        self.skip = nn.Identity() if s == 1 and i == o else nn.Sequential(
            nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


def resnet18():
    layers, i = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                 nn.MaxPool2d(3, 2, 1)], 64
    for o, s in [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]:
        layers.append(Basic(i, o, s))
        i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(inplace=True), nn.Linear(512, 256),
                         nn.ReLU(inplace=True), nn.Linear(256, 10))


def frozen_teacher(batch):
    """Folded and compiled as far as this version can: traced, frozen, optimised for inference."""
    x = torch.randn(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        net = torch.jit.optimize_for_inference(torch.jit.trace(teacher(), x))
        net(x)
    return net, x


def timed(step, images):
    for _ in range(3):
        step()
    begin, n = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        step()
        n += images
    return n / (time.perf_counter() - begin)


def loss_of(z, v, y):
    soft = -(F.softmax(v / 5, 1) * F.log_softmax(z / 5, 1)).sum(1).mean()
    return 0.9 * soft + 0.1 * F.cross_entropy(z, y)


def student_step(net, batch, teach=None, shape=(3, SIZE, SIZE), classes=CLASSES):
    net = net.train().to(memory_format=torch.channels_last)
    opt = torch.optim.Adam(net.parameters(), 1e-3)
    x = torch.randn(batch, *shape).to(memory_format=torch.channels_last)
    y = torch.arange(batch) % classes
    v = torch.randn(batch, classes)

    def step():
        target = v
        if teach:
            with torch.inference_mode():
                target = teach(x).clone()
        opt.zero_grad(set_to_none=True)
        loss_of(net(x), target.detach().clone(), y).backward()
        opt.step()
    return step


def whole(rank, port, out, with_teacher):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    net = nn.parallel.DistributedDataParallel(Student().to(memory_format=torch.channels_last))
    step = student_step(net, 32, frozen_teacher(32)[0] if with_teacher else None)
    for _ in range(2):
        step()
    torch.distributed.barrier()
    begin, steps = time.perf_counter(), 8
    for _ in range(steps):
        step()
    torch.distributed.barrier()
    if rank == 0:
        rate = 64 * steps / (time.perf_counter() - begin)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        out.put((rate, memory))


def main():
    torch.set_num_threads(1)
    kind = sys.argv[1]
    steps = {"student-step": Student, "cheap-step": Cheap, "resnet18-step": resnet18, "fine-tune-step": teacher}
    if kind in steps:
        print(timed(student_step(steps[kind](), 8), 8))
    elif kind == "mlp-step":
        print(timed(student_step(mlp(), 64, shape=(1, 28, 28), classes=10), 64))
    elif kind == "teacher-infer":
        best = 0
        for batch in (1, 8):  # whichever suits it better
            net, x = frozen_teacher(batch)

            def step():
                with torch.inference_mode():
                    net(x)
            best = max(best, timed(step, batch))
        print(best)
    elif kind in ("whole-step", "stored-logits-step"):
        context = torch.multiprocessing.get_context("spawn")
        out = context.SimpleQueue()
        port = 20000 + os.getpid() % 20000
        procs = [context.Process(target=whole, args=(r, port, out, kind == "whole-step")) for r in range(2)]
        for p in procs:
            p.start()
        for p in procs:
            p.join()
        if any(p.exitcode for p in procs):
            sys.exit("a DDP process failed")
        print(out.get()[len(sys.argv) > 2 and sys.argv[2] == "memory"])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
