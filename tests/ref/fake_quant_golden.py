#!/usr/bin/python3
"""Writes tests/golden/ops/fake_quant.txt: a linear layer and a table whose weights are rounded to Q4_0 and Q8_0 blocks in the forward pass, with
the straight-through gradient, by PyTorch in float64. The rounding is llama.cpp's, written from its definition in float32."""
import numpy as np
import torch
import torch.nn.functional as F

from make_golden import Ops, integers, normal

BLOCK = 32


def q4_0(block):
    extreme = block[np.argmax(np.abs(block))]
    d = np.float32(extreme / np.float32(-8))
    inverse = np.float32(0) if d == 0 else np.float32(1) / d
    code = np.minimum(15, (block * inverse + np.float32(8.5)).astype(np.int32))
    scale = np.float32(np.float16(d))
    return (code - 8).astype(np.float32) * scale, sorted((-8 * scale, 7 * scale)), 15


def q8_0(block):
    d = np.float32(np.abs(block).max() / np.float32(127))
    inverse = np.float32(0) if d == 0 else np.float32(1) / d
    q = block * inverse
    code = np.trunc(q + np.copysign(np.float32(0.49999997), q)).astype(np.int32)
    scale = np.float32(np.float16(d))
    return code.astype(np.float32) * scale, (-128 * scale, 127 * scale), 255


def rounded(w, encode):
    """w' and where w can move it: not beyond the last level by more than half a step."""
    values, moves = np.empty(w.shape, np.float32), np.empty(w.shape, bool)
    for row in range(w.shape[0]):
        for at in range(0, w.shape[1], BLOCK):
            block = w[row, at:at + BLOCK]
            value, (low, high), steps = encode(block)
            half = (high - low) / steps / 2
            values[row, at:at + BLOCK] = value
            moves[row, at:at + BLOCK] = (block >= low - half) & (block <= high + half)
    return torch.tensor(values).double(), torch.tensor(moves)


def learned(w, s):
    """Q4_0 with learned scales (Esser et al. 2020, eq. 1 to 3): d = d0 exp(s), a scale for each block."""
    start = torch.empty(s.shape, dtype=torch.float64)
    for row in range(w.shape[0]):
        for b in range(w.shape[1] // BLOCK):
            block = w.detach().numpy().astype(np.float32)[row, b * BLOCK:(b + 1) * BLOCK]
            start[row, b] = float(np.float16(block[np.argmax(np.abs(block))] / np.float32(-8)))
    d = (start * torch.exp(s)).repeat_interleave(BLOCK, 1)
    v = w / d
    moves = (v >= -8.5) & (v <= 7.5)
    code = v + (torch.round(v).clamp(-8, 7) - v).detach()  # straight through
    return torch.where(moves, code, torch.clamp(v, -8, 7).detach()) * d


def main():
    ops = Ops("fake_quant")
    for encode in (q4_0, q8_0):
        x, w = normal(4, 64), normal(10, 64)
        value, moves = rounded(w.detach().numpy().astype(np.float32), encode)
        passed = w * moves  # the identity where w can move w', a constant elsewhere
        effective = passed + (value - passed).detach()
        ids = integers(0, 10, 3)
        y = torch.cat((x, effective[ids])) @ effective.T
        ops.case(encode.__name__, {"x": x, "w": w}, y=y, ids=ids, clipped=[(~moves).sum().item()])
    x, w = normal(4, 64), normal(10, 64)
    s = torch.zeros(10, 2, dtype=torch.float64).requires_grad_()
    ids = integers(0, 10, 3)
    effective = learned(w, s)
    y = torch.cat((x, effective[ids])) @ effective.T
    ops.case("learned", {"x": x, "w": w, "s": s}, y=y, ids=ids)
    ops.file.close()


if __name__ == "__main__":
    main()
