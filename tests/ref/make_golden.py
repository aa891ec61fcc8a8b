#!/usr/bin/python3
"""Writes tests/golden/ops/*.txt and tests/golden/model-*/: inputs, outputs and gradients by PyTorch's autograd.

Inputs are float32 numbers; PyTorch computes on them in float64, so that what a test compares with has no rounding
of its own. Small models are written as Hugging Face directories with json and struct alone, for pdq to read as it
would read any other. Run it from anywhere; the same PyTorch gives the same files.
"""
import json
import os
import struct

import numpy
import torch
import torch.nn.functional as F

import read_hf
from golden_file import GOLDEN, GoldenFile

random = numpy.random.RandomState(20261123)


def normal(*shape, scale=1.0):
    """float32 numbers, held as float64, with a gradient."""
    x = torch.tensor(random.standard_normal(shape) * scale).to(torch.float32).to(torch.float64)
    return x.requires_grad_()


def integers(low, high, *shape):
    return torch.tensor(random.randint(low, high, shape))


class Ops:
    """One file of cases; each case's tensors are named case.tensor, gradients case.tensor.grad."""

    def __init__(self, name):
        self.file = GoldenFile(os.path.join(GOLDEN, "ops", name + ".txt"),
                               f"{name}: written by tests/ref/make_golden.py with PyTorch {torch.__version__}.\n"
                               "loss = mean((y - target)^2) where there is a target.")

    def case(self, case, inputs, y=None, loss=None, **constants):
        if loss is None:
            target = normal(*y.shape).detach()
            constants["target"] = target
            loss = F.mse_loss(y, target)
        loss.backward()
        for name, value in constants.items():
            self.file.put(f"{case}.{name}", value if hasattr(value, "shape") or isinstance(value, list) else [value])
        if y is not None:
            self.file.put(f"{case}.y", y)
        self.file.put(f"{case}.loss", [loss.item()])
        for name, x in inputs.items():
            self.file.put(f"{case}.{name}", x)
            self.file.put(f"{case}.{name}.grad", x.grad)


def rope(x, positions, theta):
    """x [N, heads, E] at positions [N]."""
    E = x.shape[-1]
    inverse = 1.0 / theta ** (torch.arange(0, E, 2, dtype=torch.float64) / E)
    angles = torch.outer(positions.double(), inverse)[:, None, :]
    return read_hf.rotate(x, angles.cos(), angles.sin())


def attention(q, k, v, B, T, H, G, E):
    q = q.view(B, T, H, E).transpose(1, 2)
    k = k.view(B, T, G, E).transpose(1, 2).repeat_interleave(H // G, dim=1)
    v = v.view(B, T, G, E).transpose(1, 2).repeat_interleave(H // G, dim=1)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    p = torch.softmax((q @ k.transpose(2, 3) / E ** 0.5).masked_fill(later, -torch.inf), dim=-1)
    return (p @ v).transpose(1, 2).reshape(B * T, H * E)


def distillation(student, teacher, targets, alpha, temperature):
    """Means over the rows with a target: the loss, CE and KL."""
    kept = targets >= 0
    ce = F.cross_entropy(student[kept], targets[kept])
    kl = F.kl_div(F.log_softmax(student[kept] / temperature, -1), F.log_softmax(teacher[kept] / temperature, -1),
                  log_target=True, reduction="batchmean")
    return alpha * temperature ** 2 * kl + (1 - alpha) * ce, ce, kl


def write_pointwise():
    ops = Ops("pointwise")
    table, ids = normal(11, 6), integers(0, 11, 9)
    ops.case("embed", {"table": table}, F.embedding(ids, table), ids=ids)
    x, w = normal(5, 12), normal(12)
    for case, eps in (("rmsnorm", 1e-5), ("rmsnorm_large_eps", 0.5)):
        x.grad = w.grad = None
        ops.case(case, {"x": x, "w": w}, read_hf.rms_norm(x, w, eps), eps=eps)
    gate, up = normal(4, 10, scale=3.0), normal(4, 10)
    ops.case("swiglu", {"gate": gate, "up": up}, F.silu(gate) * up)
    a, b = normal(4, 7), normal(4, 7)
    ops.case("add", {"a": a, "b": b}, a + b)
    x, gate = normal(6, 12), normal(4)
    ops.case("gate", {"x": x, "gate": gate}, (x.view(6, 4, 3) * gate[:, None]).reshape(6, 12))
    x, B, T, heads, E = normal(10, 16), 2, 5, 2, 8
    positions = (torch.arange(B * T) % T) + 3
    y = rope(x.view(B * T, heads, E), positions, 10000.0).reshape(B * T, heads * E)
    ops.case("rope", {"x": x}, y, E=E, T=T, position0=3, theta=10000.0)
    ops.file.close()


def write_products():
    ops = Ops("products")
    x, w, bias = normal(7, 10), normal(9, 10), normal(9)
    ops.case("linear", {"x": x, "w": w}, F.linear(x, w))
    x.grad = w.grad = None
    ops.case("linear_bias", {"x": x, "w": w, "bias": bias}, F.linear(x, w, bias))
    for case, B, T, H, G, E in (("attention_1", 2, 6, 2, 2, 4), ("attention_2", 1, 9, 4, 2, 6),
                                ("attention_4", 1, 67, 4, 1, 4)):
        q, k, v = normal(B * T, H * E), normal(B * T, G * E), normal(B * T, G * E)
        ops.case(case, {"q": q, "k": k, "v": v}, attention(q, k, v, B, T, H, G, E), B=B, T=T, E=E)
    ops.file.close()


def write_head():
    ops = Ops("head")
    N, D, V = 9, 6, 23
    teacher_x, teacher_w = normal(N, 8).detach(), normal(V, 8).detach()
    targets = integers(0, V, N)
    targets[2] = targets[7] = -1
    for case, alpha, temperature in (("ce", 0.0, 1.0), ("kl", 1.0, 1.0), ("kl_warm", 1.0, 4.0), ("mixed", 0.7, 2.0)):
        x, w = normal(N, D), normal(V, D)
        loss, ce, kl = distillation(x @ w.T, teacher_x @ teacher_w.T, targets, alpha, temperature)
        ops.case(case, {"x": x, "w": w}, loss=loss, targets=targets, alpha=alpha, temperature=temperature,
                 teacher_x=teacher_x, teacher_w=teacher_w, ce=[ce.item()], kl=[kl.item()])
    ops.file.close()


def write_spans():
    """Starts and ends of answers over padded sequences: no logit behind a sequence's end counts."""
    ops = Ops("spans")
    length = [7, 4, 1]
    B, T = len(length), 8
    teacher = normal(B * T, 2, scale=2).detach()
    targets = torch.tensor([[2, 6], [0, 0], [0, 0]])
    for case, alpha, temperature in (("ce", 0.0, 1.0), ("kl", 1.0, 1.0), ("mixed", 0.6, 3.0)):
        z = normal(B * T, 2, scale=2)
        parts = torch.zeros(3)
        for b in range(B):
            for end in range(2):
                rows = slice(b * T, b * T + length[b])
                parts = parts + torch.stack(distillation(z[rows, end][None], teacher[rows, end][None], targets[b, end][None], alpha,
                                                         temperature)) / (2 * B)
        ops.case(case, {"z": z}, loss=parts[0], B=B, T=T, length=torch.tensor(length), targets=targets, alpha=alpha,
                 temperature=temperature, teacher=teacher, ce=[parts[1].item()], kl=[parts[2].item()])
    ops.file.close()


def write_block():
    """One Llama block: two residual branches, rotary attention with two groups of two heads, SwiGLU."""
    ops = Ops("block")
    B, T, D, H, G, E, feed_forward = 2, 7, 12, 4, 2, 6, 20
    config = read_hf.Config({"model_type": "llama", "hidden_size": D, "num_hidden_layers": 1, "vocab_size": 1,
                             "num_attention_heads": H, "num_key_value_heads": G, "head_dim": E,
                             "intermediate_size": feed_forward, "rms_norm_eps": 1e-5})
    shapes = read_hf.expected_shapes(config)
    weights = {name: normal(*shape, scale=0.4) for name, shape in shapes.items() if ".layers.0." in name}
    x = normal(B * T, D)
    y = read_hf.Model(config, weights).block(x.view(B, T, D), "model.layers.0.").reshape(B * T, D)
    short = {name.split(".")[-2]: tensor for name, tensor in weights.items()}
    ops.case("block", {"x": x, **short}, y, B=B, T=T, E=E, eps=1e-5, theta=10000.0)
    ops.file.close()


STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def write_safetensors(path, tensors, dtype):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name in sorted(tensors):
        raw = tensors[name].detach().to(STORED[dtype]).contiguous()
        raw = (raw.view(torch.int16) if dtype != "F32" else raw).numpy().tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape),
                        "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)
    return len(body)


def write_directory(folder, source, weights, dtype, shards):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(source, file, indent=2)
        file.write("\n")
    names = sorted(weights)
    if shards == 1:
        write_safetensors(os.path.join(folder, "model.safetensors"), weights, dtype)
        return
    place, total = {}, 0
    for s in range(shards):
        shard = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[s::shards]}
        total += write_safetensors(os.path.join(folder, shard), part, dtype)
        place.update({name: shard for name in part})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))}, file, indent=2)
        file.write("\n")


SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
         "intermediate_size": 24, "vocab_size": 40, "max_position_embeddings": 512, "hidden_act": "silu",
         "bos_token_id": 1, "eos_token_id": 2}
# One model for each thing that a config can ask for; head_dim x heads (24) is not hidden_size (16).
MODELS = {
    "llama": ({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True,
               "rms_norm_eps": 1e-5, "rope_theta": 500.0, "torch_dtype": "float32",
               "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 128}}, "F32", 1),
    "biases": ({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False,
                "rms_norm_eps": 1e-6, "attention_bias": True, "mlp_bias": True, "torch_dtype": "float16",
                "rope_scaling": {"type": "linear", "factor": 2.0}}, "F16", 1),
    "mistral": ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "tie_word_embeddings": False,
                 "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": None,
                 "torch_dtype": "bfloat16"}, "BF16", 3),
    "qwen2": ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True,
               "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": 64,
               "torch_dtype": "float32"}, "F32", 1),
}


def make_model(name, folder=None, **shape):
    """One of MODELS in a folder (default: its place among the golden files), with keys of its own."""
    keys, dtype, shards = MODELS[name]
    source = {**SHAPE, **keys, **shape}
    config = read_hf.Config(source)
    weights = {}
    for tensor, shape in sorted(read_hf.expected_shapes(config).items()):
        centre = 1.0 if "norm" in tensor else 0.0
        values = normal(*shape, scale=0.3).detach() + centre
        weights[tensor] = values.to(STORED[dtype]).to(torch.float64).requires_grad_()
    write_directory(folder or os.path.join(GOLDEN, "model-" + name), source, weights, dtype, shards)
    return read_hf.Model(config, weights)


def write_model(name, model, teacher=None):
    B, T, V = 2, 9, SHAPE["vocab_size"]
    ids, targets = integers(0, V, B, T), integers(0, V, B, T)
    targets[0, 4] = -1
    logits = model.logits(ids).reshape(B * T, V)
    kind = "loss-kd" if teacher else "loss-ce"
    out = GoldenFile(os.path.join(GOLDEN, "model-" + name, kind + ".txt"),
                     f"{name}, {kind}: written by tests/ref/make_golden.py; logits, losses, gradients.")
    out.put("ids", ids)
    out.put("targets", targets)
    out.put("logits", logits)
    if teacher:
        teacher_logits = teacher.logits(ids).reshape(B * T, V).detach()
        loss, ce, kl = distillation(logits, teacher_logits, targets.reshape(-1), 0.7, 2.0)
        out.put("ce", [ce.item()])
        out.put("kl", [kl.item()])
    else:
        loss = F.cross_entropy(logits, targets.reshape(-1), ignore_index=-1)
    loss.backward()
    out.put("loss", [loss.item()])
    for tensor, w in model.w.items():
        out.put(tensor, w.grad)
        w.grad = None
    out.close()


def main():
    write_pointwise()
    write_products()
    write_head()
    write_block()
    models = {name: make_model(name) for name in MODELS}
    for name, model in models.items():
        write_model(name, model)
    write_model("llama", models["llama"], teacher=models["mistral"])
    write_spans()


if __name__ == "__main__":
    main()
