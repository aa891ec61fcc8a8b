#!/usr/bin/python3
"""An independent reader of BERT, DistilBERT and RoBERTa directories, by transformers' definitions (heads of pruned_heads taken out of the
layers before the weights are loaded, names of old checkpoints), in PyTorch. Checks are lines of the input, one message for each that fails:

    same A B [--spare]        the same tensors by name, dtype and value, and the same config but for torch_dtype. With --spare A is a
                              checkpoint as it is found: TensorFlow's names, position_ids and copies of the embedding table may be missing
    close A B                 the same outputs of the whole model, head and all, on made token ids
    loss FOLDER TABLE VALUE   a classifier's mean cross-entropy in nats is VALUE, over a .tsv of sentence, label or a, b, label whose words
                              are lines of vocab.txt
    embedding FOLDER IDS FILE POOLING TOLERANCE   llama-embedding's JSON for these tokens: the last hidden states (none), the first one's (cls)
                              or their mean, with llama.cpp's GELU, to this share of the largest value
"""
import json
import os
import sys

import torch
import torch.nn.functional as F

import read_hf
from read_gpt2 import config_of, tensors_of

read_hf.FLOATS["I64"] = (torch.int64, 8)  # position_ids

BERT_LAYER = dict(q="attention.self.query", k="attention.self.key", v="attention.self.value", o="attention.output.dense",
                  norm1="attention.output.LayerNorm", up="intermediate.dense", down="output.dense", norm2="output.LayerNorm",
                  layer="encoder.layer.{}.")
FAMILIES = {
    "bert": dict(BERT_LAYER, base="bert.", dense="cls.predictions.transform.dense", norm="cls.predictions.transform.LayerNorm",
                 words="cls.predictions.decoder.weight", bias="cls.predictions.bias"),
    "roberta": dict(BERT_LAYER, base="roberta.", dense="lm_head.dense", norm="lm_head.layer_norm", words="lm_head.decoder.weight",
                    bias="lm_head.bias"),
    "distilbert": dict(q="attention.q_lin", k="attention.k_lin", v="attention.v_lin", o="attention.out_lin", norm1="sa_layer_norm",
                       up="ffn.lin1", down="ffn.lin2", norm2="output_layer_norm", layer="transformer.layer.{}.", base="distilbert.",
                       dense="vocab_transform", norm="vocab_layer_norm", words="vocab_projector.weight", bias="vocab_projector.bias"),
}


def config_keys(c):
    """The shape by one set of names: layers, hidden, heads, activation, eps, pruned."""
    if c["model_type"] == "distilbert":
        return c.get("n_layers", 6), c.get("dim", 768), c.get("n_heads", 12), c.get("activation", "gelu"), 1e-12
    return (c["num_hidden_layers"], c["hidden_size"], c["num_attention_heads"], c.get("hidden_act", "gelu"),
            c.get("layer_norm_eps", 1e-12))


class Bert:
    """w: tensors by the files' names, of any float type."""

    def __init__(self, config, w):
        self.c, self.w, self.f = config, w, FAMILIES[config["model_type"]]
        self.layers, self.hidden, self.heads, activation, self.eps = config_keys(config)
        self.activation = {"gelu": F.gelu, "relu": F.relu}[activation]
        self.base = self.f["base"] if any(name.startswith(self.f["base"]) for name in w) else ""
        self.architecture = config.get("architectures", [""])[0]

    def get(self, name):
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return self.w[name] if name in self.w else self.w[old]

    def linear(self, x, name):
        return F.linear(x, self.get(name + ".weight"), self.get(name + ".bias"))

    def norm(self, x, name):
        return F.layer_norm(x, (self.hidden,), self.get(name + ".weight"), self.get(name + ".bias"), self.eps)

    def positions(self, ids):
        """RoBERTa counts what is no padding, from padding_idx + 1; the others from 0."""
        if self.c["model_type"] != "roberta":
            return torch.arange(ids.shape[1]).expand_as(ids)
        pad = self.c.get("pad_token_id", 1)
        real = (ids != pad).long()
        return real.cumsum(1) * real + pad

    def encode(self, ids, types, length):
        """ids, types [B, T], length [B] -> hidden states [B, T, D]."""
        B, T = ids.shape
        x = self.get(self.base + "embeddings.word_embeddings.weight")[ids]
        x = x + self.get(self.base + "embeddings.position_embeddings.weight")[self.positions(ids)]
        if self.c["model_type"] != "distilbert":
            x = x + self.get(self.base + "embeddings.token_type_embeddings.weight")[types]
        x = self.norm(x, self.base + "embeddings.LayerNorm")
        unseen = torch.arange(T)[None, :] >= torch.tensor(length)[:, None]
        for l in range(self.layers):
            x = self.layer(x, self.base + self.f["layer"].format(l), l, unseen[:, None, None, :])
        return x

    def layer(self, x, at, l, unseen):
        B, T, D = x.shape
        f, E = self.f, self.hidden // self.heads
        heads = self.heads - len(self.c.get("pruned_heads", {}).get(str(l), []))
        q, k, v = (self.linear(x, at + f[n]).view(B, T, heads, E).transpose(1, 2) for n in "qkv")
        p = (q @ k.transpose(-1, -2) / E ** 0.5).masked_fill(unseen, float("-inf")).softmax(-1)
        y = (p @ v).transpose(1, 2).reshape(B, T, heads * E)
        x = self.norm(x + self.linear(y, at + f["o"]), at + f["norm1"])
        y = self.linear(self.activation(self.linear(x, at + f["up"])), at + f["down"])
        return self.norm(x + y, at + f["norm2"])

    def classes(self, x):
        first, kind = x[:, 0], self.c["model_type"]
        if kind == "bert":
            return self.linear(torch.tanh(self.linear(first, self.base + "pooler.dense")), "classifier")
        if kind == "distilbert":
            return self.linear(F.relu(self.linear(first, "pre_classifier")), "classifier")
        return self.linear(torch.tanh(self.linear(first, "classifier.dense")), "classifier.out_proj")

    def masked(self, x):
        f = self.f
        activation = F.gelu if self.c["model_type"] == "roberta" else self.activation
        tied = self.c.get("tie_word_embeddings", True)
        table = self.get(self.base + "embeddings.word_embeddings.weight") if tied else self.get(f["words"])
        return F.linear(self.norm(activation(self.linear(x, f["dense"])), f["norm"]), table, self.get(f["bias"]))

    def forward(self, ids, types, length):
        """What the head says: [B, classes] or [B, T, ...]."""
        x = self.encode(ids, types, length)
        if self.architecture.endswith("ForSequenceClassification"):
            return self.classes(x)
        if self.architecture.endswith(("ForMaskedLM", "ForPreTraining")):
            return self.masked(x)
        return self.linear(x, "qa_outputs") if self.architecture.endswith("ForQuestionAnswering") else x


def open_bert(folder):
    return Bert(config_of(folder), {k: v.double() for k, v in tensors_of(folder).items()})


def spare(model):
    """Names of an old checkpoint, and what it holds beside the model: (renamed tensors, what may be missing)."""
    new = {n.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): v for n, v in model.w.items()}
    may_miss = {n for n in new if n.endswith("position_ids")}
    if model.c.get("tie_word_embeddings", True) and model.f["words"] in new:
        assert torch.equal(new[model.f["words"]], new[model.base + "embeddings.word_embeddings.weight"])
        may_miss.add(model.f["words"])
    for name in ("cls.predictions.decoder.bias", "lm_head.decoder.bias"):  # one tensor under two names
        if name in new:
            assert torch.equal(new[name], new[model.f["bias"]])
            may_miss.add(name)
    return new, may_miss


def same(a, b, with_spare):
    x, y, may_miss = tensors_of(a), tensors_of(b), set()
    if with_spare:
        x, may_miss = spare(Bert(config_of(a), x))
    assert not y.keys() - x.keys() and x.keys() - y.keys() <= may_miss, x.keys() ^ y.keys()
    for name in y:
        assert x[name].dtype == y[name].dtype and x[name].shape == y[name].shape and torch.equal(x[name], y[name]), name
    p, q = config_of(a), config_of(b)
    p.pop("torch_dtype", None)
    q.pop("torch_dtype", None)
    assert p == q, (p, q)


def close(a, b):
    outputs = []
    for model in (open_bert(a), open_bert(b)):
        vocab, length = model.c["vocab_size"], [9, 5, 1]
        pad = model.c.get("pad_token_id", 1)
        ids = torch.tensor([[(r * 31 + t * 7 + 3) % vocab if t < length[r] else pad for t in range(9)] for r in range(3)])
        types = torch.tensor([[int(t > 3) for t in range(9)]] * 3) * (model.c.get("type_vocab_size", 2) > 1)
        y = model.forward(ids, types, length)
        seen = torch.arange(9)[None, :] < torch.tensor(length)[:, None]
        outputs.append(y[seen] if y.dim() == 3 else y)
    difference = (outputs[0] - outputs[1]).abs().max().item()
    assert difference < 1e-9, difference


def loss(folder, table):
    model, total, count = open_bert(folder), 0.0, 0
    with open(os.path.join(folder, "vocab.txt"), encoding="utf-8") as file:
        number = {word: i for i, word in enumerate(file.read().split("\n"))}
    end = number["[SEP]"]
    for line in open(table, encoding="utf-8").read().splitlines()[1:]:
        *texts, label = line.split("\t")
        ids, types = [number["[CLS]"]], [0]
        for k, text in enumerate(texts):
            words = [number[word] for word in text.split()] + [end]
            ids, types = ids + words, types + [k] * len(words)
        z = model.forward(torch.tensor([ids]), torch.tensor([types]), [len(ids)])
        total, count = total + F.cross_entropy(z, torch.tensor([int(label)])).item(), count + 1
    return total / count


def llama_gelu(x):
    """The tanh form, from a table of 16-bit floats between -10 and 10 (ggml)."""
    y = F.gelu(x.half().float(), approximate="tanh").half().double()
    return torch.where(x <= -10, torch.zeros(()), torch.where(x >= 10, x, y))


def embedding(folder, ids, file, pooling, tolerance):
    model = open_bert(folder)
    model.activation = llama_gelu
    ids = [int(i) for i in ids.split(",")]
    x = model.encode(torch.tensor([ids]), torch.zeros(1, len(ids), dtype=torch.int64), [len(ids)])[0]
    want = {"none": x, "cls": x[:1], "mean": x.mean(0, keepdim=True)}[pooling]
    with open(file, encoding="utf-8") as opened:
        found = torch.tensor([row["embedding"] for row in json.load(opened)["data"]])
    difference = ((found - want).abs().max() / want.abs().max()).item()
    assert found.shape == want.shape and difference < float(tolerance), difference


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    failed = 0
    for line in sys.stdin:
        command, first, second, *rest = line.split()
        try:
            if command == "same":
                same(first, second, "--spare" in rest)
            elif command == "close":
                close(first, second)
            elif command == "embedding":
                embedding(first, second, *rest)
            else:
                value = loss(first, second)
                assert abs(float(rest[0]) / value - 1) < 1e-5, value
        except (AssertionError, KeyError, IndexError, RuntimeError) as error:
            print(f"{line.strip()}: {error!r}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
