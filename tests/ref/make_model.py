#!/usr/bin/python3
"""Writes one of the small models of make_golden.py or families_golden.py, somewhat wider, with a byte-level tokenizer.json, so that
text can be put through it:  make_model.py llama|biases|mistral|qwen2|qwen3|gemma2|minicpm|granite|windows FOLDER [KEY=JSON...]
The keys go into config.json.
"""
import json
import os
import sys

import families_golden  # noqa: F401: it adds its models to make_golden's
import make_golden

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("i", "n")]


def byte_symbols():
    """GPT-2's printable character for every byte."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(len(others))]


def tokenizer():
    words = ["<s>", "</s>"] + byte_symbols() + ["".join(pair) for pair in MERGES]
    special = [{"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i in range(2)]
    begin, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "post_processor": {"type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text, second],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {word: i for i, word in enumerate(words)},
                      "merges": [" ".join(pair) for pair in MERGES]}}


def main():
    name, folder = sys.argv[1:3]
    keys = {key: json.loads(value) for key, value in (word.split("=", 1) for word in sys.argv[3:])}
    made = tokenizer()
    make_golden.make_model(name, folder, **{"hidden_size": 32, "head_dim": 16, "intermediate_size": 128, "bos_token_id": 0,
                           "max_position_embeddings": 256, "eos_token_id": 1, "vocab_size": len(made["model"]["vocab"]), **keys})
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(made, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
