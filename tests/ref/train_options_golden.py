#!/usr/bin/python3
"""Writes tests/golden/model-llama/options.txt: what a training's options do to the small golden model, by PyTorch in float64.

    lora     loss and gradients of low-rank factors beside q_proj and down_proj; the same where a third of the weights is zero and stays so
    fgm      losses before and after the move of the embeddings, and the gradient of their sum
    average  ten AdamW steps of cross-entropy with a moving average of the weights, warmed up
    groups   the same steps with frozen tensors and factors of the learning rate
"""
import fnmatch
import os

import torch
import torch.nn.functional as F

import read_hf
from golden_file import GOLDEN, GoldenFile
from train_golden import B, BETAS, CLIP, DECAY, EPS, STEPS, T, V, token_stream

RANK, ALPHA = 3, 6.0
EPSILON = 0.5
AVERAGE = 0.8
FREEZE, RATES = ("*embed*", "model.layers.0.*"), {"*norm*": 0.1, "*down_proj*": 3.0}
RATE = 0.01
SHOWN = ("model.norm.weight", "model.layers.1.mlp.down_proj.weight")


class Moved(read_hf.Model):
    """The model whose embeddings are moved by `shift` [B, T, D]."""

    shift = 0

    def hidden(self, ids):
        x = self.w["model.embed_tokens.weight"][ids] + self.shift
        for layer in range(self.c.layers):
            x = self.block(x, f"model.layers.{layer}.", *self.c.layer[layer], self.c.windows[layer])
        return self.norm(x, "model.norm")


def open_model():
    model = read_hf.open_model(os.path.join(GOLDEN, "model-llama"), torch.float64)
    return Moved(model.c, model.w)


def cross_entropy(model, batch):
    ids, targets = batch
    return F.cross_entropy(model.logits(ids).reshape(-1, V), targets)


def factors_of(w):
    """A and B that a float32 holds exactly."""
    make = lambda *shape: (0.3 * torch.randn(*shape)).to(torch.float64).requires_grad_()
    return make(RANK, w.shape[1]), make(w.shape[0], RANK)


def lora(out, batch, masked):
    model = open_model()
    prefix = "masked." if masked else "lora."
    names = [n for n in model.w if "q_proj" in n or "down_proj" in n]
    torch.manual_seed(3)
    factors = {}
    for name in names:
        w = model.w[name]
        if masked:
            w.view(-1)[::3] = 0
        a, b = factors[name] = factors_of(w)
        product = ALPHA / RANK * (b @ a)
        model.w[name] = w + (product * (w != 0) if masked else product)
    loss = cross_entropy(model, batch)
    loss.backward()
    out.put(prefix + "loss", [loss.item()])
    for name in names:
        for letter, factor in zip("AB", factors[name]):
            if not masked:
                out.put(f"lora.{name}.{letter}", factor)
            out.put(f"{prefix}{name}.{letter}.gradient", factor.grad)


def fgm(out, batch):
    model = open_model()
    for w in model.w.values():
        w.requires_grad_()
    model.shift = torch.zeros(B, T, model.c.hidden, dtype=torch.float64, requires_grad=True)
    clean = cross_entropy(model, batch)
    clean.backward()
    g = model.shift.grad
    model.shift = EPSILON * g / g.reshape(B, -1).norm(dim=1)[:, None, None]
    moved = cross_entropy(model, batch)
    moved.backward()
    out.put("fgm.loss", [clean.item(), moved.item()])
    for name, w in model.w.items():
        out.put(f"fgm.{name}.norm", [w.grad.norm().item()])
    for name in SHOWN:
        out.put(f"fgm.{name}.gradient", model.w[name].grad)


def matches(name, patterns):
    return [p for p in patterns if fnmatch.fnmatchcase(name, p)]


def train(out, prefix, batches, freeze, rates, average):
    model = open_model()
    groups = []
    for name, w in model.w.items():
        if matches(name, freeze):
            continue
        w.requires_grad_()
        factor = ([1.0] + [rates[p] for p in matches(name, rates)])[-1]
        groups.append({"params": [w], "weight_decay": DECAY if w.dim() == 2 else 0.0, "lr": RATE * factor})
    optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    mean = {name: w.detach().clone() for name, w in model.w.items()}
    losses = []
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([w for g in groups for w in g["params"]], CLIP)
        losses.append(loss.item())
        optimizer.step()
        d = min(average, (1 + step) / (10 + step))
        for name, w in model.w.items():
            mean[name] = d * mean[name] + (1 - d) * w.detach()
    out.put(prefix + ".loss", losses)
    for name in SHOWN:
        out.put(f"{prefix}.{name}", mean[name] if average else model.w[name])


def main():
    stream = token_stream(STEPS * B * T + 1)
    batches = []
    for step in range(STEPS):
        begin = step * B * T
        batches.append((torch.tensor(stream[begin:begin + B * T]).view(B, T), torch.tensor(stream[begin + 1:begin + B * T + 1])))
    out = GoldenFile(os.path.join(GOLDEN, "model-llama", "options.txt"),
                     f"written by tests/ref/train_options_golden.py, float64: lora rank {RANK}, alpha {ALPHA:g}; fgm {EPSILON};\n"
                     f"average {AVERAGE}; frozen {FREEZE}, rates {RATES}; learning rate {RATE}; the rest as in training.txt")
    lora(out, batches[0], False)
    lora(out, batches[0], True)
    fgm(out, batches[0])
    train(out, "average", batches, (), {}, AVERAGE)
    train(out, "groups", batches, FREEZE, RATES, 0)
    out.close()


if __name__ == "__main__":
    main()
