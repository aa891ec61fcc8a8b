#!/usr/bin/python3
"""Writes tests/golden/model-llama/training.txt: ten AdamW steps of the small golden model by PyTorch in float32.

Runs from the same weights: cross-entropy on a new batch each step (constant learning rate), distillation from the golden mistral model on
the same batches (falling rate), distillation on one window again and again, and on that window mutual learning of both models and of
three (Zhang et al. 2018, eq. 8: the mean of the KL to each of the others), all stepping at once.
"""
import os

import torch
import torch.nn.functional as F

import make_golden
import read_hf
from golden_file import GOLDEN, GoldenFile

STEPS, B, T, V = 10, 2, 12, make_golden.SHAPE["vocab_size"]
CLIP, DECAY, BETAS, EPS = 1.0, 0.1, (0.9, 0.95), 1e-8
ALPHA, TEMPERATURE = 0.7, 2.0


def token_stream(count):
    """Mostly a fixed successor, sometimes a random one: something to learn, with a loss that moves."""
    state, token, out = 12345, 3, []
    for _ in range(count):
        out.append(token)
        state = (state * 1103515245 + 12345) % 2 ** 31
        draw = state // 65536
        token = draw % V if draw % 4 == 0 else (token * 7 + 5) % V
    return out


def train(batches, rates, teacher):
    """Losses and gradient norms (before clipping) of ten steps; batches [(ids [B,T], targets [B*T])]."""
    torch.set_default_dtype(torch.float32)
    model = read_hf.open_model(os.path.join(GOLDEN, "model-llama"))
    for w in model.w.values():
        w.requires_grad_()
    matrices = [w for w in model.w.values() if w.dim() == 2]
    vectors = [w for w in model.w.values() if w.dim() == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=BETAS, eps=EPS)
    losses, norms = [], []
    for (ids, targets), rate in zip(batches, rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        logits = model.logits(ids).reshape(-1, V)
        if teacher:
            with torch.no_grad():
                guide = teacher.logits(ids).reshape(-1, V)
            loss = make_golden.distillation(logits, guide, targets, ALPHA, TEMPERATURE)[0]
        else:
            loss = F.cross_entropy(logits, targets)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.w.values(), CLIP).item())
        losses.append(loss.item())
        optimizer.step()
    return losses, norms


def learner(name):
    """A golden model and its optimizer."""
    torch.set_default_dtype(torch.float32)
    model = read_hf.open_model(os.path.join(GOLDEN, name))
    for w in model.w.values():
        w.requires_grad_()
    groups = [{"params": [w for w in model.w.values() if w.dim() == 2], "weight_decay": DECAY},
              {"params": [w for w in model.w.values() if w.dim() == 1], "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=1.0, betas=BETAS, eps=EPS)


def learn_mutually(names, batches, rates):
    """The mean of the students' losses, and the first one's gradient norm."""
    students = [learner(name) for name in names]
    losses, norms = [], []
    for (ids, targets), rate in zip(batches, rates):
        logits = [model.logits(ids).reshape(-1, V) for model, _ in students]
        total = 0
        for k, own in enumerate(logits):
            others = [z.detach() for i, z in enumerate(logits) if i != k]
            kl = sum(F.kl_div(F.log_softmax(own / TEMPERATURE, -1), F.softmax(z / TEMPERATURE, -1), reduction="batchmean")
                     for z in others) / len(others)
            # what is logged is the KL to the mean of the others: less by what no student changes
            mean = sum(F.softmax(z / TEMPERATURE, -1) for z in others) / len(others)
            shown = F.kl_div(F.log_softmax(own / TEMPERATURE, -1), mean, reduction="batchmean").detach()
            loss = ALPHA * TEMPERATURE ** 2 * kl + (1 - ALPHA) * F.cross_entropy(own, targets)
            total = total + loss + ALPHA * TEMPERATURE ** 2 * (shown - kl.detach())
        for _, optimizer in students:
            optimizer.zero_grad()
        total.backward()
        losses.append(total.item() / len(students))
        for k, (model, optimizer) in enumerate(students):
            norm = torch.nn.utils.clip_grad_norm_(model.w.values(), CLIP).item()
            if k == 0:
                norms.append(norm)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    return losses, norms


def main():
    stream = token_stream(STEPS * B * T + 1)
    batches = []
    for step in range(STEPS):
        begin = step * B * T
        ids = torch.tensor(stream[begin:begin + B * T]).view(B, T)
        batches.append((ids, torch.tensor(stream[begin + 1:begin + B * T + 1])))
    window = [(torch.tensor([stream[:T]]), torch.tensor(stream[1:T + 1]))] * STEPS
    teacher = read_hf.open_model(os.path.join(GOLDEN, "model-mistral"))
    constant, falling = [0.01] * STEPS, [0.02 * 0.8 ** step for step in range(STEPS)]
    out = GoldenFile(os.path.join(GOLDEN, "model-llama", "training.txt"),
                     f"written by tests/ref/train_golden.py, float32: AdamW betas {BETAS}, eps {EPS},\n"
                     f"decay {DECAY} on matrices, clip {CLIP}, alpha {ALPHA}, temperature {TEMPERATURE};\n"
                     "norm: of the gradient before clipping")
    out.put("shape", [STEPS, B, T])
    out.put("stream", stream)
    for name, data, rates, guide in (("ce", batches, constant, None), ("kd", batches, falling, teacher),
                                     ("window", window, constant, teacher)):
        losses, norms = train(data, rates, guide)
        out.put(name + ".rate", rates)
        out.put(name + ".loss", losses)
        out.put(name + ".norm", norms)
    for name, models in (("two", ("llama", "mistral")), ("three", ("llama", "mistral", "qwen2"))):
        losses, norms = learn_mutually(["model-" + m for m in models], window, constant)
        out.put(name + ".loss", losses)
        out.put(name + ".norm", norms)
    out.close()


if __name__ == "__main__":
    main()
