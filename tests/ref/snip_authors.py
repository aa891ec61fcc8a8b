#!/usr/bin/python3
"""The MNIST experiment of SNIP's authors (github namhoonlee/snip-public) in PyTorch, without sight of pdq's: what their protocol gives here.
Scores on one batch of 100 of the fresh weights, biases scored with them (and so removed), other fresh weights trained under the mask.

    snip_authors.py FOLDER [--seeds 1,2] [--keep 1,0.05,0.02] [--steps 50000]     FOLDER: MNIST's four idx files, gzipped
"""
import argparse
import gzip
import os

import numpy
import torch
import torch.nn.functional as F

SIZES = [784, 300, 100, 10]


def read(folder, name, offset):
    return numpy.frombuffer(gzip.open(os.path.join(folder, name + ".gz")).read(), numpy.uint8, offset=offset)


def fresh():
    out = []
    for inputs, outputs in zip(SIZES, SIZES[1:]):
        w = torch.nn.init.trunc_normal_(torch.empty(inputs, outputs), 0, 1, -2, 2)
        out += [w * (1 / inputs) ** 0.5 / 0.87962566, torch.zeros(outputs)]  # variance scaling, fan_in
    return out


def logits(w, x):
    x = torch.relu(torch.addmm(w[1], x, w[0]))
    x = torch.relu(torch.addmm(w[3], x, w[2]))
    return torch.addmm(w[5], x, w[4])


def batches(n):
    while True:
        order = torch.randperm(n)
        for i in range(0, n - 99, 100):
            yield order[i:i + 100]


def train(x, y, keep, steps):
    order = batches(len(x))
    scored = [w.requires_grad_() for w in fresh()]
    i = next(order)
    gradient = torch.autograd.grad(F.cross_entropy(logits(scored, x[i]), y[i]), scored)
    score = torch.cat([(w * g).abs().detach().flatten() for w, g in zip(scored, gradient)])
    flat = torch.zeros_like(score)
    flat[score.topk(round(len(score) * keep)).indices] = 1
    if keep == 1:
        flat[:] = 1
    mask = [m.view_as(w) for m, w in zip(flat.split([w.numel() for w in scored]), scored)]
    w = [(v * m).requires_grad_() for v, m in zip(fresh(), mask)]
    velocity = [torch.zeros_like(v) for v in w]
    for step in range(steps):
        i, rate = next(order), 0.1 * 0.1 ** (step // 25000)
        gradient = torch.autograd.grad(F.cross_entropy(logits(w, x[i]), y[i]), w)
        with torch.no_grad():
            for v, g, m, s in zip(w, gradient, mask, velocity):
                s.mul_(0.9).add_((g + 5e-4 * v) * m)
                v.sub_(s, alpha=rate)
    return w


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--keep", default="1,0.05,0.02")
    parser.add_argument("--steps", type=int, default=50000)
    o = parser.parse_args()
    torch.set_num_threads(1)
    x = read(o.folder, "train-images-idx3-ubyte", 16).reshape(-1, 784).astype(numpy.float32) / 255
    test = read(o.folder, "t10k-images-idx3-ubyte", 16).reshape(-1, 784).astype(numpy.float32) / 255
    mean, deviation = x.mean(), x.std()
    x, test = torch.tensor((x - mean) / deviation), torch.tensor((test - mean) / deviation)
    y, answer = (torch.tensor(read(o.folder, name, 8).astype(numpy.int64)) for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"))
    for seed in map(int, o.seeds.split(",")):
        torch.manual_seed(seed)
        used = torch.randperm(len(x))[len(x) // 10:]
        for keep in map(float, o.keep.split(",")):
            w = train(x[used], y[used], keep, o.steps)
            with torch.no_grad():
                print(f"seed {seed}, Pm {100 * keep:g} %: test accuracy {100 * (logits(w, test).argmax(1) == answer).float().mean():.2f} %", flush=True)


if __name__ == "__main__":
    main()
