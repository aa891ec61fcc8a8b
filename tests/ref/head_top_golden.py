#!/usr/bin/python3
"""Writes tests/golden/ops/head_top.txt: a teacher's likeliest entries and their divergence by PyTorch's topk and autograd, in float64."""
import os

import numpy
import torch
import torch.nn.functional as F

from golden_file import GOLDEN, GoldenFile

random = numpy.random.RandomState(20261128)


def normal(*shape):
    return torch.tensor(random.standard_normal(shape)).to(torch.float32).to(torch.float64)


def divergence(log_p, log_tail, ids, logits, temperature):
    """KL over k + 1 events: the entries, and all others."""
    log_q = F.log_softmax(logits / temperature, 1)
    kl = (log_p.exp() * (log_p - log_q.gather(1, ids))).sum(1)
    if ids.shape[1] == logits.shape[1]:
        return kl
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, ids, False)
    log_q_tail = torch.logsumexp(log_q.masked_fill(~others, -torch.inf), 1)
    return kl + log_tail.exp() * (log_tail - log_q_tail)


def systematic(tail, draws, start):
    """Draws at equal distances along the tail's masses."""
    places = (numpy.arange(draws) + start) * tail.sum() / draws
    return numpy.searchsorted(numpy.cumsum(tail), places, side="right")


def drawn_cases(file):
    """KL from entries and draws: sum p log p is kept, sum p log q is estimated."""
    N, D, V = 5, 6, 23
    for case, k, m, alpha, temperature in (("drawn", 3, 12, 0.7, 1.0), ("drawn_warm", 6, 40, 1.0, 3.0)):
        teacher_x, teacher_w, bias, start = normal(N, 8), normal(V, 8), normal(V), random.uniform(size=N)
        targets = torch.tensor(random.randint(0, V, N))
        log_p = F.log_softmax((teacher_x @ teacher_w.T + bias) / temperature, 1)
        ids = log_p.topk(k, 1).indices.sort(1).values
        x, w = normal(N, D).requires_grad_(), normal(V, D).requires_grad_()
        logits = x @ w.T
        log_q = F.log_softmax(logits / temperature, 1)
        kl, mass, entropy, draws, drawn = 0, [], [], [], numpy.zeros((N, m))
        for n in range(N):
            p = log_p[n].exp()
            tail = p.scatter(0, ids[n], 0)
            r = tail[tail > 0] / tail.sum()
            mass.append(tail.sum().item())
            entropy.append(-(r * r.log()).sum().item())
            draws.append(int(numpy.ceil(m * mass[n])))
            picked = systematic(tail.numpy(), draws[n], start[n])
            drawn[n, :draws[n]] = picked
            kl = kl + (p * log_p[n]).sum() - (p[ids[n]] * log_q[n, ids[n]]).sum() - mass[n] * log_q[n, torch.tensor(picked)].mean()
        kl = kl / N
        ce = F.cross_entropy(logits, targets)
        loss = alpha * temperature ** 2 * kl + (1 - alpha) * ce
        loss.backward()
        for name, value in (("k", [k]), ("m", [m]), ("alpha", [alpha]), ("temperature", [temperature]), ("targets", targets),
                            ("teacher_x", teacher_x), ("teacher_w", teacher_w), ("bias", bias), ("start", start), ("ids", ids),
                            ("log_p", log_p.gather(1, ids)), ("log_tail", numpy.log(mass)), ("draws", draws), ("drawn", torch.tensor(drawn)),
                            ("entropy", entropy), ("ce", [ce.item()]), ("kl", [kl.item()]), ("loss", [loss.item()]), ("x", x), ("w", w),
                            ("x.grad", x.grad), ("w.grad", w.grad)):
            file.put(f"{case}.{name}", value)


def main():
    file = GoldenFile(os.path.join(GOLDEN, "ops", "head_top.txt"),
                      f"head_top: written by tests/ref/head_top_golden.py with PyTorch {torch.__version__}.")
    N, D, V = 9, 6, 23
    targets = torch.tensor(random.randint(0, V, N))
    targets[2] = targets[7] = -1
    counted = targets >= 0
    for case, k, alpha, temperature in (("one", 1, 1.0, 1.0), ("few", 5, 0.7, 2.0), ("warm", 8, 1.0, 4.0), ("all", 23, 0.5, 2.0)):
        teacher_x, teacher_w, bias = normal(N, 8), normal(V, 8), normal(V)
        log_p = F.log_softmax((teacher_x @ teacher_w.T + bias) / temperature, 1)
        ids = log_p.topk(k, 1).indices.sort(1).values
        top = log_p.gather(1, ids)
        rest = torch.ones_like(log_p, dtype=torch.bool).scatter(1, ids, False)
        tail = torch.logsumexp(log_p.masked_fill(~rest, -torch.inf), 1) if k < V else torch.full((N,), -1e30, dtype=torch.float64)
        x, w = normal(N, D).requires_grad_(), normal(V, D).requires_grad_()
        logits = x @ w.T
        ce = F.cross_entropy(logits[counted], targets[counted])
        kl = divergence(top, tail, ids, logits, temperature)[counted].mean()
        loss = alpha * temperature ** 2 * kl + (1 - alpha) * ce
        loss.backward()
        for name, value in (("k", [k]), ("alpha", [alpha]), ("temperature", [temperature]), ("targets", targets), ("teacher_x", teacher_x),
                            ("teacher_w", teacher_w), ("bias", bias), ("ids", ids), ("log_p", top), ("log_tail", tail), ("ce", [ce.item()]),
                            ("kl", [kl.item()]), ("loss", [loss.item()]), ("x", x), ("w", w), ("x.grad", x.grad), ("w.grad", w.grad)):
            file.put(f"{case}.{name}", value)
    drawn_cases(file)
    file.close()


if __name__ == "__main__":
    main()
