#!/usr/bin/env python3
"""Networks of torchvision as PyTorch exports them, ours against PyTorch.

onnx_torch.py KD_ONNX_RUN FOLDER      (needs torch and torchvision)

Random weights; statistics of batch norms are those of random pictures, so that something of a
picture is left at the end. With an open and with a fixed batch, with and without PyTorch's own
folding of constants. Exit code 1 if one is refused or differs."""
import os
import subprocess
import sys
import warnings

import numpy as np
import torch
import torchvision

NAMES = ("resnet18 resnext50_32x4d mobilenet_v2 mobilenet_v3_small efficientnet_b0 densenet121 "
         "squeezenet1_0 shufflenet_v2_x1_0 googlenet mnasnet1_0 regnet_y_400mf").split()
SIZE, BATCH, CLASSES = 96, 2, 11


def network(name):
    extra = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **extra).train()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = 1
    with torch.no_grad():
        net(pictures(8))
    return net.eval()


def pictures(n):
    """Coarse patterns of strong colours: on noise an untrained network says the same to all."""
    x = torch.rand(n, 3, 4, 4).mul(4).sub(2).repeat_interleave(SIZE // 4, 2)
    return x.repeat_interleave(SIZE // 4, 3) + torch.rand(n, 3, SIZE, SIZE)


def compare(tool, folder, name):
    net = network(name)
    x = pictures(BATCH)
    with torch.no_grad():
        want = net(x).numpy()
    paths = [os.path.join(folder, n) for n in ("torch.onnx", "torch.in", "torch.out")]
    x.numpy().tofile(paths[1])
    worst = 0
    for opset, fixed, fold in ((11, False, True), (13, True, True), (16, False, False)):
        torch.onnx.export(net, x, paths[0], opset_version=opset, input_names=["input"],
                          output_names=["logits"], do_constant_folding=fold,
                          dynamic_axes=None if fixed else {"input": {0: "n"}, "logits": {0: "n"}})
        p = subprocess.run([tool, "run", *paths], capture_output=True, text=True)
        if p.returncode:
            return False, p.stderr.strip()
        got = np.fromfile(paths[2], np.float32).reshape(want.shape)
        # Of what differs between the two pictures: logits have a large part in common.
        worst = max(worst, float(np.abs(got - want).max() / np.abs(want - want.mean(axis=0)).max()))
    return worst <= 1e-3, f"off by {worst:.2g} of what tells pictures apart"


def main():
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    failed = 0
    for name in NAMES:
        ok, text = compare(*sys.argv[1:3], name)
        failed += not ok
        print(f"{'passed' if ok else 'FAILED'} {name}: {text}", flush=True)
    print(f"torchvision networks: {len(NAMES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
