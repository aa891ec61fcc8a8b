#!/usr/bin/python3
"""Writes tests/golden/ops/lstm.txt and tests/golden/model-bilstm/: torch.nn.LSTM in both directions over packed sequences of several lengths,
and a whole classifier around it, computed by PyTorch in float64: outputs, loss and the gradient of every tensor."""
import json
import os

import numpy
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from golden_file import GOLDEN, GoldenFile
from gpt2_golden import write_safetensors

random = numpy.random.RandomState(20261130)


def normal(*shape, scale=0.5):
    return torch.tensor(random.standard_normal(shape) * scale).to(torch.float32).to(torch.float64).requires_grad_()


def lstm_with(inputs, units, prefix=""):
    """torch.nn.LSTM, and its weights, float32 numbers, by name."""
    lstm = torch.nn.LSTM(inputs, units, batch_first=True, bidirectional=True)
    weights = {name: normal(*p.shape) for name, p in lstm.named_parameters()}
    lstm.load_state_dict({name: w.detach() for name, w in weights.items()})
    return lstm, {prefix + name: p for name, p in lstm.named_parameters()}


def run(lstm, x, length):
    packed = pack_padded_sequence(x, torch.tensor(length), batch_first=True, enforce_sorted=False)
    y, (h, _) = lstm(packed)
    return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], torch.cat([h[0], h[1]], 1)


def write_ops():
    out = GoldenFile(os.path.join(GOLDEN, "ops", "lstm.txt"),
                     f"lstm: written by tests/ref/lstm_golden.py with PyTorch {torch.__version__}.\nloss = mean((y - target)^2).")
    # "chunks": more sequences than one thread takes at a time; "short": none as long as the batch is wide
    cases = {"small": (3, 7, 5, 6, [7, 1, 4]), "chunks": (19, 4, 3, 9, [1 + i * 3 % 4 for i in range(19)]), "short": (2, 6, 4, 5, [3, 2])}
    for case, (B, T, I, U, length) in cases.items():
        lstm, weights = lstm_with(I, U)
        x = normal(B, T, I, scale=1.0)
        y, last = run(lstm, x, length)
        target = normal(*y.shape).detach()
        loss = F.mse_loss(y, target)
        loss.backward()
        for name, value in (("B", [B]), ("T", [T]), ("length", length), ("y", y.reshape(B * T, -1)), ("target", target.reshape(B * T, -1)),
                            ("loss", [loss.item()]), ("last", last), ("x", x.reshape(B * T, I)), ("x.grad", x.grad.reshape(B * T, I))):
            out.put(f"{case}.{name}", value)
        for name, w in weights.items():
            out.put(f"{case}.{name}", w)
            out.put(f"{case}.{name}.grad", w.grad)
    out.close()


def write_model():
    folder = os.path.join(GOLDEN, "model-bilstm")
    V, I, U, D, labels, B, T, length = 23, 10, 7, 9, 3, 5, 8, [8, 1, 3, 5, 8]
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"model_type": "bilstm", "vocab_size": V, "embedding_size": I, "hidden_size": U, "classifier_size": D, "num_labels": labels}, file,
                  indent=1)
    lstm, w = lstm_with(I, U, "lstm.")
    for name, shape in (("embedding.weight", (V, I)), ("dense.weight", (D, 2 * U)), ("dense.bias", (D,)), ("classifier.weight", (labels, D)),
                        ("classifier.bias", (labels,))):
        w[name] = normal(*shape)
    write_safetensors(os.path.join(folder, "model.safetensors"), w)
    ids, targets = torch.tensor(random.randint(0, V, (B, T))), torch.tensor(random.randint(0, labels, B))
    _, last = run(lstm, F.embedding(ids, w["embedding.weight"]), length)
    dense = F.relu(F.linear(last, w["dense.weight"], w["dense.bias"]))
    logits = F.linear(dense, w["classifier.weight"], w["classifier.bias"])
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    out = GoldenFile(os.path.join(folder, "loss-ce.txt"), "bilstm: written by tests/ref/lstm_golden.py; logits, loss, gradients.")
    for name, value in (("ids", ids), ("types", torch.zeros_like(ids)), ("length", torch.tensor(length)), ("targets", targets), ("logits", logits)):
        out.put(name, value)
    out.put("loss", [loss.item()])
    for name, value in w.items():
        out.put(name, value.grad)
    out.close()


def main():
    torch.set_default_dtype(torch.float64)
    write_ops()
    write_model()


if __name__ == "__main__":
    main()
