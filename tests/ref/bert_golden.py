#!/usr/bin/python3
"""Writes tests/golden/model-bert-*/: small BERT models with a head for classes, masked words and spans, in transformers' layout, computed by
PyTorch in float64 from its definition, over padded sequences with token types: logits, cross-entropy and the gradient of every
parameter. The masked one has TensorFlow's names for norms, a pooler, and the tied decoder written out, as old checkpoints do; the
spans' one exact names of the base model. And tests/golden/model-distilbert-*/ and model-roberta-*/, checkpoints of make_bert.py computed by
read_bert.py."""
import json
import os

import numpy
import torch
import torch.nn.functional as F

import make_bert
from golden_file import GOLDEN, GoldenFile
from gpt2_golden import write_safetensors
from read_bert import open_bert

random = numpy.random.RandomState(20261129)
L, D, H, FF, V, P, TYPES, EPS = 2, 24, 3, 40, 37, 16, 2, 1e-12
B, T, LENGTH = 3, 9, [9, 5, 1]
SPANS = {}


def normal(*shape, scale=0.3, centre=0.0):
    return torch.tensor(random.standard_normal(shape) * scale + centre).to(torch.float32).to(torch.float64).requires_grad_()


def shapes(head):
    s = {"bert.embeddings.word_embeddings.weight": (V, D), "bert.embeddings.position_embeddings.weight": (P, D),
         "bert.embeddings.token_type_embeddings.weight": (TYPES, D)}

    def norm(name):
        s[name + ".weight"] = s[name + ".bias"] = (D,)

    def dense(name, rows, columns):
        s[name + ".weight"], s[name + ".bias"] = (rows, columns), (rows,)

    norm("bert.embeddings.LayerNorm")
    for l in range(L):
        at = f"bert.encoder.layer.{l}."
        for name in ("query", "key", "value"):
            dense(at + "attention.self." + name, D, D)
        dense(at + "attention.output.dense", D, D)
        norm(at + "attention.output.LayerNorm")
        dense(at + "intermediate.dense", FF, D)
        dense(at + "output.dense", D, FF)
        norm(at + "output.LayerNorm")
    if head == "classes":
        dense("bert.pooler.dense", D, D)
        dense("classifier", 4, D)
    elif head == "masked":
        dense("bert.pooler.dense", D, D)
        dense("cls.predictions.transform.dense", D, D)
        norm("cls.predictions.transform.LayerNorm")
        s["cls.predictions.bias"] = (V,)
    else:
        dense("qa_outputs", 2, D)
    return s


def forward(w, head, ids, types, activation):
    get = lambda name: w["bert." + name]
    norm = lambda x, name: F.layer_norm(x, (D,), w[name + ".weight"], w[name + ".bias"], EPS)
    dense = lambda x, name: F.linear(x, w[name + ".weight"], w[name + ".bias"])
    x = get("embeddings.word_embeddings.weight")[ids] + get("embeddings.token_type_embeddings.weight")[types]
    x = norm(x + get("embeddings.position_embeddings.weight")[:T], "bert.embeddings.LayerNorm")
    hidden = torch.zeros(B, 1, 1, T)
    for b in range(B):
        hidden[b, :, :, LENGTH[b]:] = float("-inf")
    for l in range(L):
        at = f"bert.encoder.layer.{l}."
        q, k, v = (dense(x, at + "attention.self." + n).view(B, T, H, D // H).transpose(1, 2) for n in ("query", "key", "value"))
        p = (q @ k.transpose(-1, -2) / (D // H) ** 0.5 + hidden).softmax(-1)
        y = (p @ v).transpose(1, 2).reshape(B, T, D)
        x = norm(x + dense(y, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        y = dense(activation(dense(x, at + "intermediate.dense")), at + "output.dense")
        x = norm(x + y, at + "output.LayerNorm")
    if head == "classes":
        return dense(torch.tanh(dense(x[:, 0], "bert.pooler.dense")), "classifier")
    if head == "masked":
        y = norm(activation(dense(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
        return (F.linear(y, get("embeddings.word_embeddings.weight")) + w["cls.predictions.bias"]).reshape(B * T, V)
    return dense(x, "qa_outputs").reshape(B * T, 2)


def write(head, architecture, activation_name):
    folder = os.path.join(GOLDEN, "model-bert-" + head)
    os.makedirs(folder, exist_ok=True)
    w = {name: normal(*s, centre=1.0 if "LayerNorm.weight" in name else 0.0) for name, s in shapes(head).items()}
    SPANS["w"] = w  # the last one written
    activation = {"gelu": F.gelu, "relu": F.relu}[activation_name]
    config = {"architectures": [architecture], "model_type": "bert", "num_hidden_layers": L, "hidden_size": D, "num_attention_heads": H,
              "intermediate_size": FF, "vocab_size": V, "max_position_embeddings": P, "type_vocab_size": TYPES, "layer_norm_eps": EPS,
              "hidden_act": activation_name, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    if head == "classes":
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(4)}
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=1)
    stored = dict(w)
    if head == "masked":
        stored = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in w.items()}
        stored["cls.predictions.decoder.weight"] = w["bert.embeddings.word_embeddings.weight"]
        stored["cls.seq_relationship.weight"], stored["cls.seq_relationship.bias"] = normal(2, D), normal(2)
    write_safetensors(os.path.join(folder, "model.safetensors"), stored)
    ids, types = torch.tensor(random.randint(0, V, (B, T))), torch.tensor(random.randint(0, TYPES, (B, T)))
    logits = forward(w, head, ids, types, activation)
    unused = {name: torch.zeros_like(stored[name]) for name in stored if name.startswith("cls.seq_relationship.")}
    put_losses(folder, f"bert {head}", w, ids, types, logits, head == "classes", unused)


def put_losses(folder, what, w, ids, types, logits, is_classes, unused):
    """logits [B, classes] or [B * T, ...]; unused: weights that nothing depends on, as zeros."""
    targets = torch.tensor(random.randint(0, logits.shape[1], logits.shape[0]))
    if not is_classes:  # what lies behind a sequence's end is no target
        for b in range(B):
            targets[b * T + LENGTH[b]:(b + 1) * T] = -1
        for b in range(B):
            for t in range(LENGTH[b], T):
                logits = logits.index_fill(0, torch.tensor([b * T + t]), 0.0)
    loss = F.cross_entropy(logits, targets, ignore_index=-1)
    loss.backward()
    out = GoldenFile(os.path.join(folder, "loss-ce.txt"), f"{what}: written by tests/ref/bert_golden.py; logits (0 behind a sequence's end), loss, gradients.")
    for name, value in (("ids", ids), ("types", types), ("length", torch.tensor(LENGTH)), ("targets", targets), ("logits", logits)):
        out.put(name, value)
    out.put("loss", [loss.item()])
    for name, value in w.items():
        out.put(name, value.grad if value.grad is not None else torch.zeros_like(value))
    for name, value in unused.items():
        out.put(name, value)
    out.close()


def write_span_loss():
    """The spans' model again: half of it the loss of start and end over each sequence's positions, half KL from a teacher of another width, at
    temperature 2, and the gradient of every parameter."""
    folder = os.path.join(GOLDEN, "model-bert-spans")
    w, activation = SPANS["w"], F.gelu
    for value in w.values():
        value.grad = None
    ids, types = torch.tensor(random.randint(0, V, (B, T))), torch.tensor(random.randint(0, TYPES, (B, T)))
    targets = torch.tensor([[2, 7], [4, 4], [0, 0]])
    teacher_x, teacher_w, teacher_bias = normal(B * T, 16).detach(), normal(2, 16, scale=1.0).detach(), normal(2).detach()
    own, other = forward(w, "spans", ids, types, activation), F.linear(teacher_x, teacher_w, teacher_bias)
    ce = kl = 0.0
    for b in range(B):
        rows = slice(b * T, b * T + LENGTH[b])
        for end in range(2):
            log_own, log_other = F.log_softmax(own[rows, end] / 2, 0), F.log_softmax(other[rows, end] / 2, 0)
            ce = ce + F.cross_entropy(own[rows, end][None], targets[b, end][None]) / (2 * B)
            kl = kl + (log_other.exp() * (log_other - log_own)).sum() / (2 * B)
    loss = 0.5 * 4 * kl + 0.5 * ce
    loss.backward()
    out = GoldenFile(os.path.join(folder, "loss-spans.txt"), "bert spans: written by tests/ref/bert_golden.py; loss of spans with a teacher, gradients.")
    for name, value in (("ids", ids), ("types", types), ("length", torch.tensor(LENGTH)), ("targets", targets), ("teacher_x", teacher_x),
                        ("teacher_w", teacher_w), ("teacher_bias", teacher_bias)):
        out.put(name, value)
    out.put("loss", [loss.item()])
    for name, value in w.items():
        out.put(name, value.grad)
    out.close()


def write_found(family, head, activation):
    """A checkpoint as make_bert.py makes it. RoBERTa's first sequence has padding inside, which its positions do not count."""
    folder = os.path.join(GOLDEN, f"model-{family}-{head}")
    make_bert.make(folder, family, head, [], {"activation" if family == "distilbert" else "hidden_act": activation})
    if os.path.exists(os.path.join(folder, "vocab.txt")):
        os.remove(os.path.join(folder, "vocab.txt"))
    model = open_bert(folder)
    for value in model.w.values():
        value.requires_grad_()
    ids = torch.tensor(random.randint(3, make_bert.V, (B, T)))
    ids[0, 2] = model.c["pad_token_id"]
    types = torch.zeros(B, T, dtype=torch.int64)
    logits = model.forward(ids, types, LENGTH)
    put_losses(folder, f"{family} {head}", model.w, ids, types, logits if head == "classes" else logits.reshape(B * T, -1), head == "classes", {})


def main():
    torch.set_default_dtype(torch.float64)
    write("classes", "BertForSequenceClassification", "gelu")
    write("masked", "BertForPreTraining", "relu")
    write("spans", "BertForQuestionAnswering", "gelu")
    state = random.get_state()
    write_found("distilbert", "classes", "gelu")
    write_found("distilbert", "masked", "relu")
    write_found("roberta", "classes", "gelu")
    write_found("roberta", "masked", "relu")
    random.set_state(state)
    write_span_loss()


if __name__ == "__main__":
    main()
