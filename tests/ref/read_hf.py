#!/usr/bin/python3
"""An independent reader of Hugging Face model directories (Llama, Mistral, Qwen2, Qwen3, Gemma 2, MiniCPM, Granite).

It builds the model that transformers would build from config.json and the safetensors, with json, struct and torch
alone, and prints losses and logits for given token ids as JSON. It was written from the formats and from the models'
definitions, without sight of pdq's own reader and writer, so that the two cannot share a mistake.

    read_hf.py FOLDER... --ids 1,2,3 [--seq-len N] [--tokens N] [--logits] [--greedy N] [--float64]

The ids are cut into windows of seq_len; every token but a window's first is predicted; --tokens stops after N
predictions.
One line of JSON for each folder.
"""
import argparse
import json
import math
import os
import struct
import sys

import torch
import torch.nn.functional as F

FLOATS = {"F32": (torch.float32, 4), "F16": (torch.float16, 2), "BF16": (torch.bfloat16, 2)}


def fail(message):
    raise SystemExit("read_hf.py: " + message)


def read_safetensors(path):
    """{name: tensor}, metadata of one file, every offset checked."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            fail(f"{path}: a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length).decode("utf-8"))
        body = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    tensors, covered = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        dtype, width = FLOATS[entry["dtype"]]
        count = math.prod(entry["shape"])
        if begin != covered or end > len(body) or end - begin != count * width:
            fail(f"{path}: {name}: offsets {begin}..{end} after {covered}, {count} values, {len(body)} bytes of data")
        covered = end
        tensors[name] = torch.frombuffer(body, dtype=dtype, count=count, offset=begin).reshape(entry["shape"]).clone()
    if covered != len(body):
        fail(f"{path}: {len(body) - covered} bytes after the last tensor")
    return tensors, metadata


def read_tensors(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    single = os.path.join(folder, "model.safetensors")
    if os.path.exists(single):
        return read_safetensors(single)
    with open(index, encoding="utf-8") as file:
        place = json.load(file)
    tensors, metadata, shards = {}, {}, {}
    for name, shard in place["weight_map"].items():
        if shard not in shards:
            shards[shard], more = read_safetensors(os.path.join(folder, shard))
            metadata.update(more)
        tensors[name] = shards[shard].pop(name)
    left = [name for shard in shards.values() for name in shard]
    if left:
        fail(f"{index}: not in the weight map: {left}")
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    if place["metadata"]["total_size"] != total:
        fail(f"{index}: total_size {place['metadata']['total_size']}, the shards hold {total}")
    return tensors, metadata


class Config:
    """The keys that matter, with transformers' defaults for the model type."""

    def __init__(self, source):
        kind = source["model_type"]
        if kind not in ("llama", "mistral", "qwen2", "nemotron-nas", "qwen3", "gemma2", "minicpm", "granite"):
            fail(f"model_type {kind}")
        self.kind = kind
        self.hidden = source["hidden_size"]
        self.layers = source["num_hidden_layers"]
        self.heads = source["num_attention_heads"]
        default_groups = {"mistral": 8, "qwen2": 32, "qwen3": 32, "gemma2": 4}.get(kind, self.heads)
        self.groups = source.get("num_key_value_heads") or default_groups
        default_width = {"qwen3": 128, "gemma2": 256}.get(kind, self.hidden // self.heads)
        self.head_dim = source.get("head_dim") or default_width
        self.feed_forward = source["intermediate_size"]
        # What each layer has: query heads, key/value heads, feed-forward width; 0 where a block is a no-op.
        self.layer = [(self.heads, self.groups, self.feed_forward)] * self.layers
        if kind == "nemotron-nas":
            self.layer = [self.block_shape(b["attention"], b["ffn"]) for b in source["block_configs"]]
            if len(self.layer) != self.layers:
                fail(f"{len(self.layer)} block_configs for {self.layers} layers")
        self.vocab = source["vocab_size"]
        self.eps = source.get("rms_norm_eps", 1e-6)
        self.tied = source.get("tie_word_embeddings", kind in ("gemma2", "minicpm"))
        self.out_bias = kind not in ("mistral", "qwen2", "nemotron-nas") and source.get("attention_bias", False)
        self.qkv_bias = kind == "qwen2" or self.out_bias
        self.mlp_bias = kind in ("llama", "granite") and source.get("mlp_bias", False)
        act = source.get("hidden_activation", "gelu_pytorch_tanh") if kind == "gemma2" else source.get("hidden_act", "silu")
        if act != ("gelu_pytorch_tanh" if kind == "gemma2" else "silu"):
            fail(f"activation {act}")
        self.read_scales(source)
        rope = dict(source.get("rope_scaling") or {})
        rope.update(source.get("rope_parameters") or {})
        self.theta = rope.get("rope_theta", source.get("rope_theta", 10000.0))
        self.rope = rope
        self.windows = self.read_windows(source)

    def read_scales(self, source):
        """What the family multiplies by or bends: embeddings, what a block adds, logits, scores."""
        kind = self.kind
        self.embed_scale = self.residual_scale = self.logit_scale = 1.0
        self.score_scale = self.head_dim ** -0.5
        self.score_cap = self.logit_cap = None
        if kind == "gemma2":
            self.embed_scale = self.hidden ** 0.5
            self.score_scale = source.get("query_pre_attn_scalar", 256) ** -0.5
            self.score_cap = source.get("attn_logit_softcapping", 50.0)
            self.logit_cap = source.get("final_logit_softcapping", 30.0)
        if kind == "minicpm":
            self.embed_scale = source.get("scale_emb", 1)
            self.residual_scale = source.get("scale_depth", 1) / self.layers ** 0.5
            self.logit_scale = source.get("dim_model_base", 1) / self.hidden
        if kind == "granite":
            self.embed_scale = source.get("embedding_multiplier", 1.0)
            self.residual_scale = source.get("residual_multiplier", 1.0)
            self.score_scale = source.get("attention_multiplier", 1.0)
            self.logit_scale = 1 / source.get("logits_scaling", 1.0)

    def read_windows(self, source):
        """For each layer how many positions it sees, None: all."""
        kind, n = self.kind, self.layers
        default = {"mistral": 4096, "qwen2": 4096, "qwen3": 4096, "gemma2": 4096}.get(kind)
        window = source.get("sliding_window", default)
        if kind in ("qwen2", "qwen3") and not source.get("use_sliding_window", False) or default is None:
            window = None
        slides = [kind == "mistral"] * n
        if kind == "gemma2":
            slides = [layer % 2 == 0 for layer in range(n)]
        if kind in ("qwen2", "qwen3"):
            slides = [layer >= source.get("max_window_layers", 28) for layer in range(n)]
        if source.get("layer_types"):
            slides = [name == "sliding_attention" for name in source["layer_types"]]
        return [window if s else None for s in slides]

    def block_shape(self, attention, ffn):
        """DeciLM: the same query heads in every layer, n_heads_in_group of them to a key/value head."""
        if attention.get("replace_with_linear") or ffn.get("replace_with_linear"):
            fail("a linear block")
        heads, groups = (0, 0) if attention["no_op"] else (self.heads, self.heads // attention["n_heads_in_group"])
        return heads, groups, 0 if ffn["no_op"] else ffn["intermediate_size"]

    def frequencies(self):
        """Inverse frequencies [head_dim / 2], scaled as the rope type says."""
        half = torch.arange(0, self.head_dim, 2, dtype=torch.float64)
        inverse = 1.0 / self.theta ** (half / self.head_dim)
        kind = self.rope.get("rope_type", self.rope.get("type", "default"))
        if kind == "default":
            return inverse
        factor = self.rope["factor"]
        if kind == "linear":
            return inverse / factor
        if kind != "llama3":
            fail(f"rope type {kind}")
        low, high = self.rope["low_freq_factor"], self.rope["high_freq_factor"]
        context = self.rope["original_max_position_embeddings"]
        scaled = []
        for f in inverse.tolist():
            wavelength = 2 * math.pi / f
            if wavelength < context / high:
                scaled.append(f)
            elif wavelength > context / low:
                scaled.append(f / factor)
            else:
                smooth = (context / wavelength - low) / (high - low)
                scaled.append((1 - smooth) * f / factor + smooth * f)
        return torch.tensor(scaled, dtype=torch.float64)


def expected_shapes(c):
    """Every tensor that the model has, by name."""
    shapes = {"model.embed_tokens.weight": (c.vocab, c.hidden), "model.norm.weight": (c.hidden,)}
    if not c.tied:
        shapes["lm_head.weight"] = (c.vocab, c.hidden)
    for layer in range(c.layers):
        at = f"model.layers.{layer}."
        heads, groups, feed_forward = c.layer[layer]
        q, kv = heads * c.head_dim, groups * c.head_dim
        gemma = c.kind == "gemma2"
        if heads:
            shapes[at + "input_layernorm.weight"] = (c.hidden,)
        if heads and gemma or feed_forward and not gemma:
            shapes[at + "post_attention_layernorm.weight"] = (c.hidden,)
        if feed_forward and gemma:
            shapes[at + "pre_feedforward_layernorm.weight"] = (c.hidden,)
            shapes[at + "post_feedforward_layernorm.weight"] = (c.hidden,)
        if heads and c.kind == "qwen3":
            shapes[at + "self_attn.q_norm.weight"] = shapes[at + "self_attn.k_norm.weight"] = (c.head_dim,)
        for part, rows, columns, bias in (("self_attn.q_proj", q, c.hidden, c.qkv_bias),
                                          ("self_attn.k_proj", kv, c.hidden, c.qkv_bias),
                                          ("self_attn.v_proj", kv, c.hidden, c.qkv_bias),
                                          ("self_attn.o_proj", c.hidden, q, c.out_bias),
                                          ("mlp.gate_proj", feed_forward, c.hidden, c.mlp_bias),
                                          ("mlp.up_proj", feed_forward, c.hidden, c.mlp_bias),
                                          ("mlp.down_proj", c.hidden, feed_forward, c.mlp_bias)):
            if not rows or not columns:
                continue
            shapes[at + part + ".weight"] = (rows, columns)
            if bias:
                shapes[at + part + ".bias"] = (rows,)
    return shapes


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, cos, sin):
    """x [B, heads, T, head_dim]: pairs (i, i + head_dim / 2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def soft_cap(x, cap):
    return x if cap is None else cap * torch.tanh(x / cap)


class Model:
    def __init__(self, config, weights):
        self.c, self.w = config, weights

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def norm(self, x, name):
        weight = self.w[name + ".weight"]
        return rms_norm(x, 1 + weight if self.c.kind == "gemma2" else weight, self.c.eps)

    def attention(self, x, at, heads, groups, window):
        c = self.c
        B, T, _ = x.shape
        q = self.linear(x, at + "q_proj").view(B, T, heads, c.head_dim)
        k = self.linear(x, at + "k_proj").view(B, T, groups, c.head_dim)
        v = self.linear(x, at + "v_proj").view(B, T, groups, c.head_dim).transpose(1, 2)
        if c.kind == "qwen3":
            q, k = self.norm(q, at + "q_norm"), self.norm(k, at + "k_norm")
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        angles = torch.outer(torch.arange(T, dtype=torch.float64), c.frequencies())
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k = k.repeat_interleave(heads // groups, dim=1)
        v = v.repeat_interleave(heads // groups, dim=1)
        distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        scores = soft_cap(q @ k.transpose(2, 3) * c.score_scale, c.score_cap).masked_fill(hidden, -math.inf)
        y = torch.softmax(scores, dim=-1) @ v
        return self.linear(y.transpose(1, 2).reshape(B, T, heads * c.head_dim), at + "o_proj")

    def feed_forward(self, x, at):
        gate = self.linear(x, at + "gate_proj")
        if self.c.kind == "gemma2":
            gate = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate ** 3)))
        else:
            gate = F.silu(gate)
        return self.linear(gate * self.linear(x, at + "up_proj"), at + "down_proj")

    def block(self, x, at, heads, groups, feed_forward, window=None):
        gemma, scale = self.c.kind == "gemma2", self.c.residual_scale
        if heads:
            y = self.attention(self.norm(x, at + "input_layernorm"), at + "self_attn.", heads, groups, window)
            x = x + scale * (self.norm(y, at + "post_attention_layernorm") if gemma else y)
        if feed_forward:
            y = self.norm(x, at + ("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"))
            y = self.feed_forward(y, at + "mlp.")
            x = x + scale * (self.norm(y, at + "post_feedforward_layernorm") if gemma else y)
        return x

    def hidden(self, ids):
        """ids [B, T] -> normalised hidden states [B, T, D]."""
        x = self.w["model.embed_tokens.weight"][ids] * self.c.embed_scale
        for layer in range(self.c.layers):
            x = self.block(x, f"model.layers.{layer}.", *self.c.layer[layer], self.c.windows[layer])
        return self.norm(x, "model.norm")

    def logits(self, ids):
        head = self.w["model.embed_tokens.weight" if self.c.tied else "lm_head.weight"]
        return soft_cap(F.linear(self.hidden(ids), head) * self.c.logit_scale, self.c.logit_cap)


def open_model(folder, dtype=torch.float32):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = Config(json.load(file))
    tensors, metadata = read_tensors(folder)
    for name, other in metadata.items():
        if name not in tensors and other in tensors:
            tensors[name] = tensors[other]
    if config.tied:
        tensors.pop("lm_head.weight", None)
    shapes = expected_shapes(config)
    for name in shapes.keys() - tensors.keys():
        fail(f"{folder}: {name} is missing")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes.get(name):
            fail(f"{folder}: {name} is {tuple(tensor.shape)}, config.json wants {shapes.get(name, 'no such tensor')}")
    return Model(config, {name: tensor.to(dtype) for name, tensor in tensors.items()})


def losses(model, ids, seq_len, limit):
    """Natural-log losses of every token but a window's first."""
    out = []
    for begin in range(0, len(ids), seq_len):
        window = torch.tensor([ids[begin:begin + seq_len]])
        if window.shape[1] < 2 or len(out) >= limit:
            break
        logp = F.log_softmax(model.logits(window)[0].double(), dim=-1)
        picked = logp[:-1].gather(1, window[0, 1:, None])[:, 0]
        out += (-picked).tolist()
    return out[:limit]


def greedy(model, ids, count):
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:] if count else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument("--ids", required=True, help="comma-separated, or @FILE")
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=sys.maxsize)
    parser.add_argument("--logits", action="store_true", help="logits of the last position of the first window")
    parser.add_argument("--greedy", type=int, default=0, metavar="N", help="the N most likely next ids, one by one")
    parser.add_argument("--float64", action="store_true")
    args = parser.parse_args()
    text = open(args.ids[1:], encoding="utf-8").read() if args.ids.startswith("@") else args.ids
    ids = [int(word) for word in text.replace(",", " ").split()]
    torch.set_grad_enabled(False)
    for folder in args.folders:
        model = open_model(folder, torch.float64 if args.float64 else torch.float32)
        nll = losses(model, ids, args.seq_len, args.tokens)
        result = {"tokens": len(nll), "nll": math.fsum(nll) / len(nll) if nll else None, "nll_sum": math.fsum(nll)}
        if args.logits:
            result["logits"] = model.logits(torch.tensor([ids[:args.seq_len]]))[0, -1].tolist()
        if args.greedy:
            result["greedy"] = greedy(model, ids[:args.seq_len], args.greedy)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
