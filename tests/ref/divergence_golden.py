#!/usr/bin/python3
"""Writes tests/golden/ops/divergence.txt: the losses on answers of common/tensor/divergence.h with gradients, by PyTorch in float64."""
import torch
import torch.nn.functional as F

from make_golden import Ops, integers, normal

ALPHA = 0.6


def reverse_kl(zs, zt, T, beta):  # Gu 2024, equation 2, on given text
    return T ** 2 * F.kl_div(F.log_softmax(zt / T, -1), F.log_softmax(zs / T, -1), log_target=True, reduction="batchmean")


def js(zs, zt, T, beta):  # Agarwal 2024, equation 1
    p, q = F.softmax(zt / T, -1), F.softmax(zs / T, -1)
    m = torch.log(beta * p + (1 - beta) * q)
    return T ** 2 * (beta * F.kl_div(m, p, reduction="batchmean") + (1 - beta) * F.kl_div(m, q, reduction="batchmean"))


def tv(zs, zt, T, beta):  # Wen 2023, section 3.2
    return T * 0.5 * (F.softmax(zt / T, -1) - F.softmax(zs / T, -1)).abs().sum(-1).mean()


def mse(zs, zt, T, beta):  # Ba and Caruana 2014, equation 3
    return F.mse_loss(zs, zt)


def main():
    ops = Ops("divergence")
    N, D, V = 9, 6, 23
    teacher_x, teacher_w = normal(N, 8).detach(), normal(V, 8).detach()
    targets = integers(0, V, N)
    targets[2] = targets[7] = -1
    kept = targets >= 0
    for divergence in (reverse_kl, js, tv, mse):
        for case, T, beta in ((divergence.__name__, 1.0, 0.5), (divergence.__name__ + "_warm", 3.0, 0.2)):
            x, w = normal(N, D), normal(V, D)
            zs, zt = (x @ w.T)[kept], (teacher_x @ teacher_w.T)[kept]
            loss = ALPHA * divergence(zs, zt, T, beta) + (1 - ALPHA) * F.cross_entropy(zs, targets[kept])
            ops.case(case, {"x": x, "w": w}, loss=loss, targets=targets, alpha=ALPHA, temperature=T, beta=beta, teacher_x=teacher_x,
                     teacher_w=teacher_w)
    ops.file.close()


if __name__ == "__main__":
    main()
