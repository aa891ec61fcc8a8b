#!/usr/bin/python3
"""The distillation step of bench_step.c in plain PyTorch: the same shapes, loss and optimizer, written by hand.

usage: torch_step.py SHAPE(d288|d256) PRECISION(f32|bf16) THREADS
Prints one line: tokens/s (median of five steps after one that warms up) and the process's peak memory in MB.

A step: the teacher forward without gradients, the student forward and backward through
0.7 * T^2 * KL(teacher || student) + 0.3 * CE at T = 2, gradients clipped to norm 1, AdamW. bf16: autocast.
"""
import math
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F

SHAPES = {  # hidden, layers, heads, ff, vocabulary, length, sequences, student's ff, student's heads
    "d288": (288, 6, 6, 768, 32000, 256, 8, 384, 6),
    "d256": (256, 4, 4, 1024, 2048, 256, 8, 512, 2),
}


def make_weights(hidden, layers, heads, head_dim, ff, vocabulary, train):
    def matrix(rows, columns):
        return torch.nn.Parameter(torch.randn(rows, columns) * 0.02, requires_grad=train)

    def norm():
        return torch.nn.Parameter(torch.ones(hidden), requires_grad=train)

    inner = heads * head_dim
    return {
        "embed": matrix(vocabulary, hidden),
        "norm": norm(),
        "layers": [
            {
                "norm1": norm(), "q": matrix(inner, hidden), "k": matrix(inner, hidden), "v": matrix(inner, hidden),
                "o": matrix(hidden, inner), "norm2": norm(), "gate": matrix(ff, hidden), "up": matrix(ff, hidden),
                "down": matrix(hidden, ff),
            }
            for _ in range(layers)
        ],
    }


def parameters(weights):
    yield weights["embed"]
    yield weights["norm"]
    for layer in weights["layers"]:
        yield from layer.values()


def rms_norm(x, w):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * w


class Rotary:
    def __init__(self, length, head_dim):
        angle = torch.outer(torch.arange(length).float(), 1e4 ** (-torch.arange(0, head_dim, 2) / head_dim))
        self.cos, self.sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def __call__(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cos.to(x.dtype) + torch.cat([-second, first], -1) * self.sin.to(x.dtype)


def forward(weights, ids, heads, head_dim, rotary, mask):
    B, S = ids.shape
    x = F.embedding(ids, weights["embed"])

    def split(y):
        return y.view(B, S, heads, head_dim).transpose(1, 2)

    for w in weights["layers"]:
        h = rms_norm(x, w["norm1"])
        q, k, v = (split(F.linear(h, w[name])) for name in "qkv")
        score = rotary(q) @ rotary(k).transpose(-1, -2) / math.sqrt(head_dim) + mask
        y = score.float().softmax(-1).to(v.dtype) @ v
        x = x + F.linear(y.transpose(1, 2).reshape(B, S, heads * head_dim), w["o"])
        h = rms_norm(x, w["norm2"])
        x = x + F.linear(F.silu(F.linear(h, w["gate"])) * F.linear(h, w["up"]), w["down"])
    return F.linear(rms_norm(x, weights["norm"]), weights["embed"])


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES or sys.argv[2] not in ("f32", "bf16"):
        sys.exit(__doc__)
    shape, precision, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    hidden, layers, heads, ff, vocabulary, S, B, student_ff, student_heads = SHAPES[shape]
    head_dim = hidden // heads
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    teacher = make_weights(hidden, layers, heads, head_dim, ff, vocabulary, False)
    student = make_weights(hidden, layers, student_heads, head_dim, student_ff, vocabulary, True)
    trained = list(parameters(student))
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    rotary = Rotary(S, head_dim)
    mask = torch.full((S, S), float("-inf")).triu(1)
    T, alpha = 2.0, 0.7

    def step():
        ids, targets = torch.randint(0, vocabulary, (2, B, S))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                reference = forward(teacher, ids, heads, head_dim, rotary, mask)
            logits = forward(student, ids, student_heads, head_dim, rotary, mask)
        reference, logits = reference.float().view(-1, vocabulary), logits.float().view(-1, vocabulary)
        kl = F.kl_div(F.log_softmax(logits / T, -1), F.log_softmax(reference / T, -1), log_target=True,
                      reduction="batchmean")
        loss = alpha * T * T * kl + (1 - alpha) * F.cross_entropy(logits, targets.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return loss.item()

    step()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{B * S / statistics.median(seconds):.1f} {peak:.0f} {torch.__version__}")


if __name__ == "__main__":
    main()
