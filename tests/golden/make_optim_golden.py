#!/usr/bin/python3
"""Makes optim.json with torch.optim (Debian's python3-torch, 1.13): weights after each of eight steps,
their moving average, and learning-rate factors of one-cycle schedules.

    tests/golden/make_optim_golden.py
"""

import math

import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from make_golden import numbers, write

STEPS = 8
# Vector: weight of a hidden layer (6), head weight (4). Gradients are written down, so that only the
# update itself is compared.
HIDDEN = [0.5, -0.25, 1.0, 0.125, -0.75, 0.0]
HEAD = [0.3, -0.6, 0.9, -1.2]
GRADS = [
    numbers(
        torch.tensor([math.sin(1.7 * i + 0.9 * t) * 10.0 ** ((i % 5) - 3) for i in range(10)])
    )
    for t in range(STEPS)
]
CASES = [
    dict(name="sgd", rule="sgd", lr=0.1),
    dict(name="sgd momentum", rule="sgd", lr=0.1, momentum=0.9),
    dict(name="sgd momentum decay", rule="sgd", lr=0.05, momentum=0.9, weight_decay=0.01),
    dict(name="sgd decay head", rule="sgd", lr=0.05, head_lr=0.5, weight_decay=0.01),
    dict(name="sgd nesterov", rule="sgd", lr=0.1, momentum=0.9, nesterov=True),
    dict(
        name="sgd nesterov decay head",
        rule="sgd",
        lr=0.05,
        head_lr=0.2,
        momentum=0.8,
        nesterov=True,
        weight_decay=0.02,
    ),
    dict(name="adam", rule="adam", lr=0.01),
    dict(name="adam decay head", rule="adam", lr=0.001, head_lr=0.01, weight_decay=0.02),
    dict(name="adam betas", rule="adam", lr=0.01, beta1=0.5, beta2=0.9, eps=1e-4),
    dict(name="adamw", rule="adamw", lr=0.01, weight_decay=0),
    dict(name="adamw decay head", rule="adamw", lr=0.01, head_lr=0.05, weight_decay=0.3),
    dict(name="adam cosine", rule="adam", lr=0.01, cosine=8, warmup=3),
    dict(name="adamw cosine", rule="adamw", lr=0.02, weight_decay=0.5, cosine=8, warmup=2),
    dict(name="sgd cosine", rule="sgd", lr=0.1, momentum=0.9, cosine=8),
    dict(name="sgd warmup", rule="sgd", lr=0.1, warmup=5),
    dict(name="sgd step", rule="sgd", lr=0.1, momentum=0.9, milestones=[2, 5, 6], gamma=0.3),
    dict(name="adam step warmup", rule="adam", lr=0.02, warmup=3, milestones=[4, 7], gamma=0.1),
    dict(
        name="sgd one-cycle",
        rule="sgd",
        lr=0.2,
        head_lr=0.6,
        momentum=0.9,
        one_cycle=dict(total=8, pct_start=0.3, div_factor=25, final_div_factor=1e4),
    ),
    dict(
        name="adamw one-cycle",
        rule="adamw",
        lr=0.05,
        weight_decay=0.1,
        one_cycle=dict(total=8, pct_start=0.5, div_factor=10, final_div_factor=4),
    ),
    dict(name="sgd clip", rule="sgd", lr=0.1, momentum=0.9, weight_decay=0.1, clip_norm=0.5),
    dict(name="adam clip never", rule="adam", lr=0.01, clip_norm=1e3),
    dict(name="sgd average", rule="sgd", lr=0.3, ema=0.75),
    dict(
        name="adamw clip average",
        rule="adamw",
        lr=0.05,
        weight_decay=0.2,
        clip_norm=1,
        ema=0.9,
    ),
    dict(name="sgd frozen backbone", rule="sgd", lr=0.1, momentum=0.9, frozen=True, ema=0.5),
    dict(
        name="adamw frozen backbone",
        rule="adamw",
        lr=0.01,
        head_lr=0.1,
        weight_decay=0.5,
        frozen=True,
    ),
]


def optimiser(c, a, b):
    groups = [dict(params=[a]), dict(params=[b], lr=c.get("head_lr", c["lr"]))]
    common = dict(lr=c["lr"], weight_decay=c.get("weight_decay", 0))
    if c["rule"] == "sgd":
        return torch.optim.SGD(
            groups, momentum=c.get("momentum", 0), nesterov=c.get("nesterov", False), **common
        )
    kind = torch.optim.AdamW if c["rule"] == "adamw" else torch.optim.Adam
    betas = (c.get("beta1", 0.9), c.get("beta2", 0.999))
    return kind(groups, betas=betas, eps=c.get("eps", 1e-8), **common)


def one_cycle(o, max_lr, total, pct_start, div_factor, final_div_factor):
    return lr_scheduler.OneCycleLR(
        o,
        max_lr,
        total_steps=total,
        pct_start=pct_start,
        cycle_momentum=False,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )


def schedule(c, o):
    if "one_cycle" in c:
        return one_cycle(o, [g["lr"] for g in o.param_groups], **c["one_cycle"])
    warmup, plan = c.get("warmup", 0), []
    if warmup:
        plan.append(lr_scheduler.LambdaLR(o, lambda s: min(1.0, (s + 1) / warmup)))
    if "cosine" in c:
        plan.append(lr_scheduler.CosineAnnealingLR(o, T_max=c["cosine"] - warmup))
    if "milestones" in c:
        after = [m - warmup for m in c["milestones"]]
        plan.append(lr_scheduler.MultiStepLR(o, after, gamma=c["gamma"]))
    if len(plan) == 2:
        return lr_scheduler.SequentialLR(o, plan, milestones=[warmup])
    return plan[0] if plan else None


def run(c):
    net = nn.ParameterList(
        [
            nn.Parameter(torch.tensor(HIDDEN), requires_grad=not c.get("frozen", False)),
            nn.Parameter(torch.tensor(HEAD)),
        ]
    )
    a, b = net
    o = optimiser(c, a, b)
    plan = schedule(c, o)
    average = None
    if "ema" in c:
        average = AveragedModel(net, avg_fn=lambda old, new, n: c["ema"] * old + (1 - c["ema"]) * new)
        average.update_parameters(net)  # the first call copies what it starts from
        c["average"] = []
    c["w"] = []
    for g in GRADS:
        g = torch.tensor(g)
        b.grad = g[6:].clone()
        if a.requires_grad:
            a.grad = g[:6].clone()
        if "clip_norm" in c:
            nn.utils.clip_grad_norm_(net.parameters(), c["clip_norm"])
        o.step()
        if plan:
            plan.step()
        c["w"].append(numbers(torch.cat([a, b])))
        if average:
            average.update_parameters(net)
            c["average"].append(numbers(torch.cat(list(average.parameters()))))
    return c


def factors():
    """Learning rates of a one-cycle whose greatest is 1."""
    out = []
    for total, pct_start, div_factor, final_div_factor in [
        (8, 0.3, 25.0, 1e4),
        (10, 0.25, 10.0, 100.0),
        (60, 0.3, 25.0, 1e4),
        (7, 0.5, 4.0, 2.0),
        (5, 0.9, 3.0, 1.0),
        (3, 0.3, 25.0, 1e4),
        (2, 0.7, 25.0, 1e4),
        (1, 0.5, 25.0, 1e4),
    ]:
        c = dict(
            total=total,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
        )
        o = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
        plan = one_cycle(o, 1.0, **c)
        c["factors"] = []
        for _ in range(total):
            c["factors"].append(plan.get_last_lr()[0])
            o.step()
            plan.step()
        out.append(c)
    return out


def main():
    torch.set_num_threads(1)
    write(
        "optim.json",
        dict(
            start=HIDDEN + HEAD,
            hidden=6,
            grads=GRADS,
            cases=[run(c) for c in CASES],
            one_cycles=factors(),
        ),
    )


main()
