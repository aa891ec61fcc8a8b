#!/usr/bin/python3
"""Writes tests/golden/features.txt: every loss on features with its gradients, from the papers' equations: PyTorch, float64, autograd.

    setN.s0, s1, t0, t1   inputs: of the student, of the teacher (s1, t1 where a loss reads two tensors)
    LOSS.CASE.settings    set, B, T, causal, first tokens only, most samples (0: all), heads of s0, s1, t0, t1, then the B lengths
    LOSS.CASE.loss, .d0, .d1   the loss, its gradients with respect to s0 and s1
"""
import os

import torch
import torch.nn.functional as F

from golden_file import GOLDEN, GoldenFile

torch.manual_seed(20)
torch.set_default_dtype(torch.float64)


def normal(*shape):
    return torch.randn(*shape).float().double()  # exact in float32


def samples(x, s):
    """A list of [n, D]: a sequence's tokens each, or all first tokens; evenly spread where there are too many."""
    x = x.view(s["B"], s["T"], -1)
    groups = [x[:, 0]] if s["first"] else [x[b, :n] for b, n in enumerate(s["length"])]
    if s["samples"]:
        groups = [g[[i * len(g) // min(len(g), s["samples"]) for i in range(min(len(g), s["samples"]))]] for g in groups]
    return groups


def mean_over_groups(loss):
    return lambda s, s0, s1, t0, t1: sum(loss(x, t) for x, t in zip(samples(s0, s), samples(t0, s))) / len(samples(s0, s))


def rows(loss):
    return lambda s, s0, s1, t0, t1: loss(torch.cat(samples(s0, s)), torch.cat(samples(t0, s)))


def cosine(x, t):  # Sanh 2019: nn.CosineEmbeddingLoss with target 1
    return F.cosine_embedding_loss(x, t, torch.ones(len(x)))


def pkd(x, t):  # Sun 2019, equation 7
    return (F.normalize(x, dim=-1) - F.normalize(t, dim=-1)).pow(2).sum(-1).mean()


def similarity(x, t):  # Tung 2019, equations 1 to 4
    gram = [F.normalize(y @ y.T, p=2, dim=1) for y in (x, t)]
    return (gram[0] - gram[1]).pow(2).sum() / len(x) ** 2


def huber(a, b):  # Park 2019, equation 7
    d = (a - b).abs()
    return torch.where(d <= 1, 0.5 * d ** 2, d - 0.5)


def rkd_distance(x, t):  # Park 2019, equations 4 to 6; means over ordered pairs
    off = ~torch.eye(len(x), dtype=torch.bool)
    pairs = [(y[:, None] - y[None]).pow(2).sum(-1)[off].sqrt() for y in (x, t)]
    return huber(*(d / d.mean() for d in pairs)).mean()


def rkd_angle(x, t):  # Park 2019, equations 8 to 10; means over triples of different samples
    total, count = 0, 0
    for i in range(len(x)):
        for j in range(len(x)):
            for k in range(len(x)):
                if len({i, j, k}) == 3:
                    cos = [F.normalize(y[i] - y[j], dim=0) @ F.normalize(y[k] - y[j], dim=0) for y in (x, t)]
                    total, count = total + huber(*cos), count + 1
    return total / count


def cka(x, t):  # Kornblith 2019, equation 4 with linear kernels, by HSIC with the centring matrix
    n = len(x)
    H = torch.eye(n) - torch.ones(n, n) / n
    hsic = lambda a, b: torch.trace(a @ a.T @ H @ b @ b.T @ H)
    return 1 - hsic(x, t) / (hsic(x, x) * hsic(t, t)).sqrt()


def fsp(s, s0, s1, t0, t1):  # Yim 2017, equations 1 and 2; mean over the entries
    total = 0
    for f1, f2, g1, g2 in zip(*(samples(x, s) for x in (s0, s1, t0, t1))):
        total = total + F.mse_loss(f1.T @ f2 / len(f1), g1.T @ g2 / len(g1))
    return total / len(samples(s0, s))


def scores(a, b, s, heads, groups, n, of):
    """[H, n, n] of sequence `of`: q k^T / sqrt(E)."""
    E = a.shape[1] // heads
    q = a.view(s["B"], s["T"], heads, E)[of, :n].transpose(0, 1)
    k = b.view(s["B"], s["T"], groups, E)[of, :n].transpose(0, 1).repeat_interleave(heads // groups, dim=0)
    return q @ k.transpose(1, 2) / E ** 0.5


def maps(loss):
    """loss gets the seen scores of both and returns (sum over rows, sum over entries): their means are added."""
    def of(s, s0, s1, t0, t1):
        relation = s1 is None
        by_row = by_entry = n_row = n_entry = 0
        for b, n in enumerate(s["length"]):
            zs = scores(s0, s0 if relation else s1, s, s["heads"][0], s["heads"][1], n, b)
            zt = scores(t0, t0 if relation else t1, s, s["heads"][2], s["heads"][3], n, b)
            for i in range(n):
                seen = i + 1 if s["causal"] and not relation else n
                r, e = loss(zs[:, i, :seen], zt[:, i, :seen])
                by_row, by_entry = by_row + r, by_entry + e
                n_row, n_entry = n_row + len(zs), n_entry + len(zs) * seen
        return by_row / n_row + by_entry / n_entry
    return of


def kl(zs, zt):  # Wang 2020, equations 4 to 6; Wang 2021, equations 4 to 8
    return F.kl_div(F.log_softmax(zs, -1), F.log_softmax(zt, -1), log_target=True, reduction="sum"), 0


def map_mse(zs, zt):
    return 0, (zs.softmax(-1) - zt.softmax(-1)).pow(2).sum()


def score_mse(zs, zt):  # Jiao 2020, equation 7
    return 0, (zs - zt).pow(2).sum()


def mse_entropy(zs, zt):
    entropy = [-(z.softmax(-1) * z.log_softmax(-1)).sum(-1) for z in (zs, zt)]
    return 0.2 * (entropy[0] - entropy[1]).pow(2).sum(), 0.8 * map_mse(zs, zt)[1]


LOSSES = {
    "embedding_mse": rows(F.mse_loss), "hidden_mse": rows(F.mse_loss), "hidden_cosine": rows(cosine), "hidden_pkd": rows(pkd), "cka": rows(cka),
    "similarity": mean_over_groups(similarity), "rkd_distance": mean_over_groups(rkd_distance), "rkd_angle": mean_over_groups(rkd_angle),
    "fsp": fsp, "attention_kl": maps(kl), "attention_mse": maps(map_mse), "attention_score_mse": maps(score_mse),
    "attention_mse_entropy": maps(mse_entropy), "query_relation": maps(kl), "key_relation": maps(kl), "value_relation": maps(kl)}

B, T = 3, 7
FULL, PADDED = [7, 7, 7], [7, 4, 5]


def settings(B=B, T=T, length=FULL, causal=0, first=0, samples=0, heads=(0, 0, 0, 0)):
    return {"B": B, "T": T, "length": length, "causal": causal, "first": first, "samples": samples, "heads": list(heads)}


def main():
    sets = [(normal(B * T, 6), normal(B * T, 6), normal(B * T, 6), normal(B * T, 6)),                # equal widths, two layers
            (normal(B * T, 5), None, normal(B * T, 8), None),                                       # other widths
            (normal(B * T, 4 * 3), normal(B * T, 2 * 3), normal(B * T, 4 * 5), normal(B * T, 4 * 5)),  # q, k
            (normal(2 * 67, 2 * 2), normal(2 * 67, 2), normal(2 * 67, 2 * 3), normal(2 * 67, 2 * 3)),  # more than a tile of queries
            (normal(B * T, 12), None, normal(B * T, 20), None)]                                     # cut into relation heads
    out = GoldenFile(os.path.join(GOLDEN, "features.txt"), "written by tests/ref/feature_golden.py, which says what is what")
    for i, tensors in enumerate(sets):
        for name, x in zip(("s0", "s1", "t0", "t1"), tensors):
            if x is not None:
                out.put(f"set{i}.{name}", x)

    def case(loss, name, which, s):
        s0, s1, t0, t1 = sets[which]
        if loss not in ("fsp",) and not loss.startswith("attention"):
            s1 = t1 = None
        x = [None if t is None else t.clone().requires_grad_() for t in (s0, s1)]
        value = LOSSES[loss](s, x[0], x[1], t0, t1)
        value.backward()
        key = f"{loss}.{name}"
        out.put(key + ".settings", [which, s["B"], s["T"], s["causal"], s["first"], s["samples"], *s["heads"], *s["length"]])
        out.put(key + ".loss", [value.item()])
        for k in range(2):
            if x[k] is not None:
                out.put(f"{key}.d{k}", x[k].grad)

    for loss in ("embedding_mse", "hidden_mse", "hidden_cosine", "hidden_pkd", "fsp"):
        case(loss, "padded", 0, settings(length=PADDED))
        case(loss, "first", 0, settings(length=PADDED, first=1))
    for loss in ("similarity", "rkd_distance", "rkd_angle", "cka"):
        case(loss, "padded", 1, settings(length=PADDED))
        case(loss, "first", 1, settings(first=1))
        case(loss, "few", 1, settings(length=PADDED, samples=4))
    for loss in ("attention_kl", "attention_mse", "attention_score_mse", "attention_mse_entropy"):
        case(loss, "padded", 2, settings(length=PADDED, heads=(4, 2, 4, 4)))
        case(loss, "causal", 2, settings(causal=1, heads=(4, 2, 4, 4)))
    case("attention_kl", "tiles", 3, settings(2, 67, [67, 40], heads=(2, 1, 2, 2)))
    case("attention_kl", "causal_tiles", 3, settings(2, 67, [67, 67], causal=1, heads=(2, 1, 2, 2)))
    for loss, heads in (("query_relation", 1), ("key_relation", 2), ("value_relation", 4)):
        case(loss, "padded", 4, settings(length=PADDED, heads=(heads,) * 4))
        case(loss, "full", 4, settings(causal=1, heads=(heads,) * 4))  # causal models have whole relations, too
    out.close()


if __name__ == "__main__":
    main()
