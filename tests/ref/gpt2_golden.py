#!/usr/bin/python3
"""Writes tests/golden/ops/norms.txt and tests/golden/model-gpt2*/: layer norm, both GELUs, and small GPT-2 models in transformers'
layout (Conv1D matrices [in, out], q, k and v in one), computed by PyTorch in float64 straight from that layout. Gradients are under
pdq's names: q, k and v apart, matrices [out, in]."""
import json
import os
import struct

import numpy
import torch
import torch.nn.functional as F

from golden_file import GOLDEN, GoldenFile

random = numpy.random.RandomState(20261128)
L, D, H, FF, V, P = 2, 24, 3, 40, 37, 16


def normal(*shape, scale=1.0, centre=0.0):
    x = torch.tensor(random.standard_normal(shape) * scale + centre).to(torch.float32).to(torch.float64)
    return x.requires_grad_()


def write_ops():
    out = GoldenFile(os.path.join(GOLDEN, "ops", "norms.txt"), "layer norm and GELU: written by tests/ref/gpt2_golden.py.")

    def case(name, inputs, y, **numbers):
        target = normal(*y.shape).detach()
        loss = F.mse_loss(y, target)
        loss.backward()
        for key, value in numbers.items():
            out.put(f"{name}.{key}", [value])
        out.put(f"{name}.target", target)
        out.put(f"{name}.y", y)
        out.put(f"{name}.loss", [loss.item()])
        for key, x in inputs.items():
            out.put(f"{name}.{key}", x)
            out.put(f"{name}.{key}.grad", x.grad)
            x.grad = None

    x, w, b = normal(5, 12, centre=3.0), normal(12), normal(12)
    for name, eps in (("layernorm", 1e-5), ("layernorm_large_eps", 0.5)):
        case(name, {"x": x, "w": w, "b": b}, F.layer_norm(x, (12,), w, b, eps), eps=eps)
    x = normal(4, 10, scale=2.0)
    case("gelu_erf", {"x": x}, 0.5 * x * (1 + torch.erf(x / 2 ** 0.5)))
    case("gelu_tanh", {"x": x}, 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x ** 3))))
    out.close()


def shapes(prefix, tied):
    s = {prefix + "wte.weight": (V, D), prefix + "wpe.weight": (P, D), prefix + "ln_f.weight": (D,), prefix + "ln_f.bias": (D,)}
    for l in range(L):
        h = f"{prefix}h.{l}."
        s.update({h + "ln_1.weight": (D,), h + "ln_1.bias": (D,), h + "attn.c_attn.weight": (D, 3 * D), h + "attn.c_attn.bias": (3 * D,),
                  h + "attn.c_proj.weight": (D, D), h + "attn.c_proj.bias": (D,), h + "ln_2.weight": (D,), h + "ln_2.bias": (D,),
                  h + "mlp.c_fc.weight": (D, FF), h + "mlp.c_fc.bias": (FF,), h + "mlp.c_proj.weight": (FF, D), h + "mlp.c_proj.bias": (D,)})
    if not tied:
        s["lm_head.weight"] = (V, D)
    return s


def forward(w, prefix, ids, gelu, tied, eps):
    B, T = ids.shape
    x = w[prefix + "wte.weight"][ids] + w[prefix + "wpe.weight"][:T]
    for l in range(L):
        g = lambda name: w[f"{prefix}h.{l}.{name}"]
        h = F.layer_norm(x, (D,), g("ln_1.weight"), g("ln_1.bias"), eps)
        q, k, v = ((h @ g("attn.c_attn.weight") + g("attn.c_attn.bias")).view(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4))
        scores = q @ k.transpose(-1, -2) / (D // H) ** 0.5
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, D)
        x = x + y @ g("attn.c_proj.weight") + g("attn.c_proj.bias")
        h = F.layer_norm(x, (D,), g("ln_2.weight"), g("ln_2.bias"), eps)
        h = gelu(h @ g("mlp.c_fc.weight") + g("mlp.c_fc.bias"))
        x = x + h @ g("mlp.c_proj.weight") + g("mlp.c_proj.bias")
    x = F.layer_norm(x, (D,), w[prefix + "ln_f.weight"], w[prefix + "ln_f.bias"], eps)
    return x @ w[prefix + "wte.weight" if tied else "lm_head.weight"].T


def write_safetensors(path, tensors):
    header, at, data = {}, 0, b""
    for name, value in tensors.items():
        raw = value.detach().to(torch.float32).numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def put_gradients(out, w, prefix):
    for name, value in w.items():
        full = name if name.startswith("transformer.") or name == "lm_head.weight" else "transformer." + name
        g = value.grad.T if value.dim() == 2 and (".attn." in name or ".mlp." in name) else value.grad
        if "c_attn" in name:
            for part, piece in zip("qkv", g.chunk(3, 0)):
                out.put(full.replace("c_attn", part), piece.contiguous())
        else:
            out.put(full, g.contiguous())


def write_model(name, prefix, tied, activation, buffers):
    folder = os.path.join(GOLDEN, "model-" + name)
    os.makedirs(folder, exist_ok=True)
    w = {key: normal(*s, scale=0.3, centre=1.0 if ".ln_" in "." + key and key.endswith("weight") else 0.0)
         for key, s in shapes(prefix, tied).items()}
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": L, "n_embd": D, "n_head": H, "n_inner": FF,
              "n_positions": P, "vocab_size": V, "activation_function": activation, "layer_norm_epsilon": 1e-5,
              "tie_word_embeddings": tied, "resid_pdrop": 0.1}
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=1)
    stored = dict(w)
    for l in range(L if buffers else 0):  # what old checkpoints carry: the causal mask, as floats
        stored[f"{prefix}h.{l}.attn.bias"] = torch.ones(P, P).tril().view(1, 1, P, P)
        stored[f"{prefix}h.{l}.attn.masked_bias"] = torch.tensor(-1e4)
    write_safetensors(os.path.join(folder, "model.safetensors"), stored)
    ids, targets = torch.tensor(random.randint(0, V, (2, 9))), torch.tensor(random.randint(0, V, (2, 9)))
    targets[0, 4] = -1
    gelu = {"gelu": lambda x: F.gelu(x),
            "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x ** 3)))}[activation]
    logits = forward(w, prefix, ids, gelu, tied, 1e-5).reshape(18, V)
    loss = F.cross_entropy(logits, targets.reshape(-1), ignore_index=-1)
    loss.backward()
    out = GoldenFile(os.path.join(folder, "loss-ce.txt"), f"{name}: written by tests/ref/gpt2_golden.py; logits, loss, gradients.")
    out.put("ids", ids)
    out.put("targets", targets)
    out.put("logits", logits)
    out.put("loss", [loss.item()])
    put_gradients(out, w, prefix)
    out.close()


def main():
    torch.set_default_dtype(torch.float64)
    write_ops()
    write_model("gpt2", "transformer.", False, "gelu_new", False)
    write_model("gpt2-bare", "", True, "gelu", True)


if __name__ == "__main__":
    main()
