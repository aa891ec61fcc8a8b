#!/usr/bin/python3
"""An independent reader of GPT-2 directories, by transformers' definitions (Conv1D, c_attn, pruned_heads taken out of the layers before
the weights are loaded), in PyTorch:

    read_gpt2.py loss FOLDER --ids 1,2,3 --seq-len N     mean loss in nats, windows of seq_len, a window's first token not predicted
    read_gpt2.py same A B                                the same tensors by name, dtype and value, and the same config but for torch_dtype
"""
import json
import os
import sys

import torch
import torch.nn.functional as F

from read_hf import read_tensors


def config_of(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        return json.load(file)


def tensors_of(folder):
    found = read_tensors(folder)
    return found[0] if isinstance(found, tuple) else found


def logits(config, w, ids):
    D, H, L = config["n_embd"], config["n_head"], config["n_layer"]
    E, T, eps = D // H, len(ids), config.get("layer_norm_epsilon", 1e-5)
    base = "transformer." if "transformer.wte.weight" in w else ""
    gelu = {"gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x ** 3))),
            "gelu": F.gelu}[config.get("activation_function", "gelu_new")]
    x = w[base + "wte.weight"][ids] + w[base + "wpe.weight"][:T]
    for l in range(L):
        get = lambda name, default=None: w.get(f"{base}h.{l}.{name}", default)
        heads = H - len(config.get("pruned_heads", {}).get(str(l), []))
        h = F.layer_norm(x, (D,), get("ln_1.weight"), get("ln_1.bias"), eps)
        qkv = h @ get("attn.c_attn.weight") + get("attn.c_attn.bias", torch.zeros(3 * heads * E))
        q, k, v = (part.view(T, heads, E).transpose(0, 1) for part in qkv.split(heads * E, 1))
        score = (q @ k.transpose(1, 2) / E ** 0.5).masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        y = (score.softmax(-1) @ v).transpose(0, 1).reshape(T, heads * E)
        x = x + y @ get("attn.c_proj.weight") + get("attn.c_proj.bias")
        h = F.layer_norm(x, (D,), get("ln_2.weight"), get("ln_2.bias"), eps)
        inner = config.get("n_inner") or 4 * D
        assert get("mlp.c_fc.weight").shape == (D, inner), (get("mlp.c_fc.weight").shape, inner)
        x = x + gelu(h @ get("mlp.c_fc.weight") + get("mlp.c_fc.bias")) @ get("mlp.c_proj.weight") + get("mlp.c_proj.bias")
    x = F.layer_norm(x, (D,), w[base + "ln_f.weight"], w[base + "ln_f.bias"], eps)
    return x @ w[base + "wte.weight" if config.get("tie_word_embeddings", True) else "lm_head.weight"].T


def loss(folder, ids, seq_len):
    config, w = config_of(folder), {k: v.double() for k, v in tensors_of(folder).items()}
    total, count = 0.0, 0
    for at in range(0, len(ids), seq_len):
        window = ids[at:at + seq_len]
        if len(window) > 1:
            z = logits(config, w, window)
            total += F.cross_entropy(z[:-1], torch.tensor(window[1:]), reduction="sum").item()
            count += len(window) - 1
    return total / count


def same(a, b):
    x, y = tensors_of(a), tensors_of(b)
    x = {k: v for k, v in x.items() if not k.endswith((".attn.bias", ".attn.masked_bias"))}  # buffers, no weights
    assert x.keys() == y.keys(), (x.keys() ^ y.keys())
    for name in x:
        assert x[name].dtype == y[name].dtype and x[name].shape == y[name].shape and torch.equal(x[name], y[name]), name
    p, q = config_of(a), config_of(b)
    p.pop("torch_dtype", None)
    q.pop("torch_dtype", None)
    assert p == q, (p, q)


def main():
    torch.set_default_dtype(torch.float64)
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "same":
        same(*arguments)
    else:
        ids = [int(i) for i in arguments[arguments.index("--ids") + 1].split(",")]
        print(loss(arguments[0], ids, int(arguments[arguments.index("--seq-len") + 1])))


if __name__ == "__main__":
    main()
