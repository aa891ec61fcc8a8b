#!/usr/bin/python3
"""Writes small random BERT, DistilBERT and RoBERTa checkpoints as one finds them, one for each line of the input:

    FOLDER FAMILY HEAD [--bare] [--old] [--tiny] [--untied] [--nameless]

FAMILY: bert, distilbert or roberta; HEAD: classes, masked, pretraining (bert), spans or none. --bare: names without the base model's
prefix, as sentence-transformers has them; --old: TensorFlow's names of norms, position_ids, and the decoder's copies of tied tensors;
--tiny: bert-tiny's shape, hidden 128, two layers, two heads; --untied: a decoder of its own; --nameless: config.json names no
architecture. vocab.txt has plain words."""
import json
import os
import struct
import sys

import numpy

V, P, FF = 37, 20, 64
ARCHITECTURE = {"classes": "ForSequenceClassification", "masked": "ForMaskedLM", "pretraining": "ForPreTraining", "spans":
                "ForQuestionAnswering", "none": "Model"}
DECODER = {"bert": "cls.predictions.decoder.weight", "distilbert": "vocab_projector.weight", "roberta": "lm_head.decoder.weight"}
CLASS = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta"}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(V - 5)]


def config_of(family, head, D, H, L):
    c = {"architectures": [CLASS[family] + ARCHITECTURE[head]], "model_type": family, "initializer_range": 0.02, "pad_token_id": 0,
         "vocab_size": V, "max_position_embeddings": P, "transformers_version": "4.40.0", "torch_dtype": "float32"}
    if family == "distilbert":
        c.update({"dim": D, "n_layers": L, "n_heads": H, "hidden_dim": FF, "activation": "gelu", "dropout": 0.1, "attention_dropout": 0.1,
                  "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True})
    else:
        c.update({"hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H, "intermediate_size": FF, "hidden_act": "gelu",
                  "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
                  "position_embedding_type": "absolute", "use_cache": True, "classifier_dropout": None})
    if family == "roberta":
        c.update({"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-05})
    if head == "classes":
        c["id2label"], c["label2id"] = {"0": "no", "1": "yes", "2": "so"}, {"no": 0, "yes": 1, "so": 2}
        c["problem_type"] = "single_label_classification"
    return c


def names_of(family, head, c, D, L):
    """Stem: (rows, columns) of a matrix and its bias; (n,) of a norm; a full name alone: its shape."""
    base, types = family + ".", c.get("type_vocab_size")
    s = {base + "embeddings.word_embeddings.weight": (V, D), base + "embeddings.position_embeddings.weight": (P, D)}
    if types:
        s[base + "embeddings.token_type_embeddings.weight"] = (types, D)
    s[base + "embeddings.LayerNorm"] = (D,)
    for l in range(L):
        if family == "distilbert":
            at = f"{base}transformer.layer.{l}."
            s.update({at + f"attention.{n}_lin": (D, D) for n in ("q", "k", "v", "out")})
            s.update({at + "sa_layer_norm": (D,), at + "ffn.lin1": (FF, D), at + "ffn.lin2": (D, FF), at + "output_layer_norm": (D,)})
        else:
            at = f"{base}encoder.layer.{l}."
            s.update({at + f"attention.self.{n}": (D, D) for n in ("query", "key", "value")})
            s.update({at + "attention.output.dense": (D, D), at + "attention.output.LayerNorm": (D,), at + "intermediate.dense": (FF, D),
                      at + "output.dense": (D, FF), at + "output.LayerNorm": (D,)})
    if family == "bert" and head in ("classes", "pretraining", "none") or family == "roberta" and head in ("masked", "none"):
        s[base + "pooler.dense"] = (D, D)
    classes = {"bert": {"classifier": (3, D)}, "distilbert": {"pre_classifier": (D, D), "classifier": (3, D)},
               "roberta": {"classifier.dense": (D, D), "classifier.out_proj": (3, D)}}[family]
    masked = {"bert": {"cls.predictions.transform.dense": (D, D), "cls.predictions.transform.LayerNorm": (D,), "cls.predictions.bias": (V,)},
              "distilbert": {"vocab_transform": (D, D), "vocab_layer_norm": (D,), "vocab_projector.bias": (V,)},
              "roberta": {"lm_head.dense": (D, D), "lm_head.layer_norm": (D,), "lm_head.bias": (V,)}}[family]
    s.update({"classes": classes, "masked": masked, "pretraining": {**masked, "cls.seq_relationship": (2, D)},
              "spans": {"qa_outputs": (2, D)}, "none": {}}[head])
    return s


def tensors_of(family, head, c, D, L, random):
    w = {}
    normal = lambda shape, centre=0.0: (random.standard_normal(shape) * 0.3 + centre).astype(numpy.float32)
    for name, shape in names_of(family, head, c, D, L).items():
        if name.endswith((".weight", ".bias")):
            w[name] = normal(shape)
        elif len(shape) == 1:
            w[name + ".weight"], w[name + ".bias"] = normal(shape, 1.0), normal(shape)
        else:
            w[name + ".weight"], w[name + ".bias"] = normal(shape), normal(shape[:1])
    return w


def age(w, family, head):
    base = family + "."
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for n, v in w.items()}
    old[base + "embeddings.position_ids"] = numpy.arange(P, dtype=numpy.int64)[None]
    if head in ("masked", "pretraining"):
        old[DECODER[family]] = w[base + "embeddings.word_embeddings.weight"]
        if family != "distilbert":
            stem = {"bert": "cls.predictions.", "roberta": "lm_head."}[family]
            old[stem + "decoder.bias"] = w[stem + "bias"]
    return old


def write(path, w):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, value in w.items():
        data = numpy.ascontiguousarray(value).tobytes()
        header[name] = {"dtype": "I64" if value.dtype == numpy.int64 else "F32", "shape": list(value.shape),
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


def make(folder, family, head, options, keys={}):
    D, H, L = (128, 2, 2) if "--tiny" in options else (24, 3, 2)
    c = {**config_of(family, head, D, H, L), **keys}
    random = numpy.random.RandomState(len(family) * 7 + len(head))
    w = tensors_of(family, head, c, D, L, random)
    if "--old" in options:
        w = age(w, family, head)
    if "--untied" in options:
        c["tie_word_embeddings"] = False
        w[DECODER[family]] = (random.standard_normal((V, D)) * 0.3).astype(numpy.float32)
    if "--bare" in options:
        w = {n.removeprefix(family + "."): v for n, v in w.items()}
    if "--nameless" in options:
        del c["architectures"]
    os.makedirs(folder, exist_ok=True)
    write(os.path.join(folder, "model.safetensors"), w)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(c, file, indent=1)
    if family != "roberta":
        with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
            file.write("\n".join(WORDS))


if __name__ == "__main__":
    for line in sys.stdin:
        words = line.split()
        make(*words[:3], words[3:])
