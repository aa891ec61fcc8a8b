#!/usr/bin/python3
"""Ranges of the observers on made-up values, by numpy: tests/golden/observers.txt, for tests/unit/test_integers.c.

Written from the definitions: the largest magnitude; the end of the bin in which 99.99 % of the values are; the range (hundredths of the
largest) with the least squared error of the bins' middles; Migacz's KL divergence between a histogram and its coarse self (TensorRT, 2017).

    observers_golden.py > ../golden/observers.txt
"""
import numpy as np

BINS = 2048


def values(kind, n=20000):
    i = np.arange(n, dtype=np.float64)
    u = (i * 2654435761 % 4294967296) / 4294967296 - 0.5
    x = u if kind == "flat" else u ** 3 * 8 if kind == "peaked" else np.where(i % 1000 == 7, u * 40, u ** 3)
    return x.astype(np.float32)


def histogram(x):
    most = np.float64(np.abs(x).max())
    bins = np.minimum((np.abs(x).astype(np.float64) / most * BINS).astype(np.int64), BINS - 1)
    return most, np.bincount(bins, minlength=BINS).astype(np.float64)


def percentile(most, count, bits):
    return most * (np.argmax(np.cumsum(count) >= 0.9999 * count.sum()) + 1) / BINS


def mse(most, count, bits):
    levels, x = 2 ** (bits - 1) - 1, most * (np.arange(BINS) + 0.5) / BINS
    ranges = most * np.arange(100, 0, -1) / 100
    errors = [(count * (x - np.minimum(np.rint(x / (r / levels)), levels) * (r / levels)) ** 2).sum() for r in ranges]
    return ranges[int(np.argmin(errors))]


def entropy(most, count, bits):
    levels, best, least = 2 ** (bits - 1), BINS, np.inf
    for n in range(levels, BINS + 1):
        p = count[:n].copy()
        p[-1] += count[n:].sum()
        q = np.zeros(n)
        for k in range(levels):
            part = slice(k * n // levels, (k + 1) * n // levels)
            filled = count[part] > 0
            if filled.any():
                q[part] = np.where(filled, count[part].sum() / filled.sum(), 0)
        p, q = p / p.sum(), q / q.sum()
        if (q[p > 0] == 0).any():
            continue
        kl = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
        if kl < least:
            best, least = n, kl
    return most * best / BINS


for kind in ("flat", "peaked", "outliers"):
    most, count = histogram(values(kind))
    for bits in (4, 8):
        print(kind, bits, *(f"{r:.9g}" for r in (most, percentile(most, count, bits), mse(most, count, bits), entropy(most, count, bits))))
