#!/usr/bin/python3
"""Writes tests/golden/wordpiece/: a small vocab.txt and texts with the ids that BERT's own tokenizer gives them, uncased and cased. Written
from Google's tokenization.py (BasicTokenizer, WordpieceTokenizer) with Python's unicodedata, without sight of pdq's."""
import json
import os
import unicodedata

from golden_file import GOLDEN

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "un", "aff", "able", "run", "ning", "hello", "world", "don", "t", "arger", "cafe", "Ärger", "café", "The", "Cat",
         "İ", "i", "2026", "20", "26", "naive", "日", "本", "語", "한", "🙂", "ß", "strasse", "ﬁ", "é"]


def vocabulary():
    words = list(SPECIAL)
    for word in WORDS + [chr(c) for c in range(33, 127)]:
        if word not in words:
            words.append(word)
    for piece in ["aff", "able", "ning", "s", "ing", "ed", "26", "語", "ß"] + [chr(c) for c in range(97, 123)] + [str(d) for d in range(10)]:
        if "##" + piece not in words:
            words.append("##" + piece)
    return words


def is_control(c):
    return c not in "\t\n\r" and unicodedata.category(c).startswith("C")


def is_space(c):
    return c in " \t\n\r" or unicodedata.category(c) in ("Zs", "Zl", "Zp")


def is_punctuation(c):
    n = ord(c)
    return 33 <= n <= 47 or 58 <= n <= 64 or 91 <= n <= 96 or 123 <= n <= 126 or unicodedata.category(c).startswith("P")


def is_cjk(c):
    n = ord(c)
    return any(a <= n <= b for a, b in ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
                                        (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)))


def basic(text, lower):
    out = ""
    for c in text:
        if ord(c) in (0, 0xFFFD) or is_control(c):
            continue
        out += " " if is_space(c) else c
    out = "".join(f" {c} " if is_cjk(c) else c for c in out)
    if lower:
        out = "".join(c for c in unicodedata.normalize("NFD", out) if unicodedata.category(c) != "Mn").lower()
    words = []
    for word in out.split():
        current = ""
        for c in word:
            if is_punctuation(c):
                words += [current, c]
                current = ""
            else:
                current += c
        words.append(current)
    return [w for w in words if w]


def wordpiece(word, index):
    if len(word) > 100:
        return [index["[UNK]"]]
    ids, at = [], 0
    while at < len(word):
        end = len(word)
        while end > at and ("##" if at else "") + word[at:end] not in index:
            end -= 1
        if end == at:
            return [index["[UNK]"]]
        ids.append(index[("##" if at else "") + word[at:end]])
        at = end
    return ids


TEXTS = ["The cat.", "unaffable running", "Hello,World!!", "don't", "Ärger café naïve", "cafe\u0301 e\u0301", "日本語 한국 日x", "hello🙂world 🙂",
         "a\tb\nc\rd", "nul\u0000in\u0007side", "zero\u200bwidth soft\u00adhyphen", "nbsp\u00a0space\u2003em\u2028line", "\ufffdbad\ufffd",
         "x" * 100, "y" * 101, "cat" * 40, "İi ß Straße ﬁ", "$5+3=8 ^_`|~ <a@b>", "“quotes” — dash… ¿qué?", "2026 20260", "", "   ", "\u0000",
         "a" + "\u0301" * 30, "한글", "[MASK]ed [CLS]", "the\u3000cat", "…", "中文和English混合", "tab\u000bvertical\u000cfeed", "A" * 99 + "é"]


def with_special(text, lower, index):
    """Names of special tokens in the text are those tokens, as Hugging Face's tokenizers have it."""
    ids, rest = [], text
    while rest:
        found = min(((rest.find(s), s) for s in SPECIAL if s in rest), default=None)
        head = rest if found is None else rest[:found[0]]
        ids += [i for word in basic(head, lower) for i in wordpiece(word, index)]
        if found is None:
            break
        ids.append(index[found[1]])
        rest = rest[found[0] + len(found[1]):]
    return [index["[CLS]"]] + ids + [index["[SEP]"]]


def main():
    folder = os.path.join(GOLDEN, "wordpiece")
    os.makedirs(folder, exist_ok=True)
    words = vocabulary()
    index = {w: i for i, w in enumerate(words)}
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.write("".join(w + "\n" for w in words))
    cases = [{"hex": t.encode().hex(), "uncased": with_special(t, True, index), "cased": with_special(t, False, index)} for t in TEXTS]
    with open(os.path.join(folder, "cases.json"), "w", encoding="utf-8") as file:
        json.dump({"cases": cases}, file, indent=0)


if __name__ == "__main__":
    main()
