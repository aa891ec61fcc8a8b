#!/usr/bin/python3
"""Writes tests/golden/lenet/lenet.txt: a small multi-layer perceptron by PyTorch in float64: logits, losses and gradients of
cross-entropy and of distillation, ten steps of Adam, and the scores of SNIP, GraSP and SynFlow before training, each straight from
its paper's equation with autograd (GraSP's product with the Hessian is exact here)."""
import os

import torch
import torch.nn.functional as F

from golden_file import GOLDEN, GoldenFile

SIZES, TEACHER, B, STEPS = [12, 9, 7, 5], [12, 11, 10, 5], 8, 10
ALPHA, TEMPERATURE = 0.6, 3.0


def names(sizes):
    return [f"layers.{l}" for l in range(len(sizes) - 2)] + ["head"]


def make(sizes):
    weights = {}
    for l, name in enumerate(names(sizes)):
        weights[name + ".weight"] = torch.randn(sizes[l + 1], sizes[l]).float().double() * 0.5
        weights[name + ".bias"] = torch.randn(sizes[l + 1]).float().double() * 0.2
        for key in (name + ".weight", name + ".bias"):
            weights[key] = weights[key].float().double().requires_grad_()
    return weights


def logits(weights, sizes, x):
    for name in names(sizes):
        x = x @ weights[name + ".weight"].T + weights[name + ".bias"]
        if name != "head":
            x = torch.relu(x)
    return x


def put_gradients(out, prefix, loss, weights):
    for name, g in zip(weights, torch.autograd.grad(loss, list(weights.values()), retain_graph=True)):
        out.put(f"{prefix}.{name}", g)


def main():
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    w, teacher = make(SIZES), make(TEACHER)
    x = torch.rand(B, SIZES[0]).float().double()
    y = torch.randint(0, SIZES[-1], (B,))
    out = GoldenFile(os.path.join(GOLDEN, "lenet", "lenet.txt"), "Written by tests/ref/lenet_golden.py.")
    out.put("x", x)
    out.put("y", y)
    for name in w:
        out.put("w." + name, w[name])
    for name in teacher:
        out.put("teacher." + name, teacher[name])
    z, t = logits(w, SIZES, x), logits(teacher, TEACHER, x).detach()
    out.put("logits", z)
    ce = F.cross_entropy(z, y)
    out.put("ce", [ce.item()])
    put_gradients(out, "ce", ce, w)
    kl = F.kl_div(F.log_softmax(z / TEMPERATURE, 1), F.log_softmax(t / TEMPERATURE, 1), log_target=True, reduction="batchmean")
    kd = ALPHA * TEMPERATURE ** 2 * kl + (1 - ALPHA) * ce
    out.put("kl", [kl.item()])
    out.put("kd", [kd.item()])
    put_gradients(out, "kd", kd, w)

    matrices = {name: v for name, v in w.items() if v.dim() == 2}
    gradients = torch.autograd.grad(ce, list(matrices.values()), create_graph=True)
    for name, g in zip(matrices, gradients):
        out.put("snip." + name, (g * matrices[name]).abs())
    flow = sum((g * g.detach()).sum() for g in gradients)  # its gradient is H g
    for name, hg in zip(matrices, torch.autograd.grad(flow, list(matrices.values()))):
        out.put("grasp." + name, hg * matrices[name])
    absolute = {name: v.detach().abs().requires_grad_() for name, v in matrices.items()}
    signal = torch.ones(SIZES[0])
    for v in absolute.values():
        signal = v @ signal
    for name, g in zip(absolute, torch.autograd.grad(signal.sum(), list(absolute.values()))):
        out.put("synflow." + name, g * absolute[name].detach())

    optimizer = torch.optim.Adam(list(w.values()), lr=1.2e-2)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(w, SIZES, x), y)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    out.put("adam", losses)
    out.close()


if __name__ == "__main__":
    main()
