#!/usr/bin/python3
"""Exact match and F1 of answers by the rules of SQuAD's evaluation (Rajpurkar et al. 2016, section 6.1; 2018, section 6), written from their
definition: lower case, punctuation and the words a, an, the go, white space becomes single spaces; the best over the right answers; a question
without an answer is answered by the empty text.

    squad_score.py DATA ANSWERS    DATA: SQuAD's .json or rows in .jsonl; ANSWERS: {id: answer}. Prints {"exact", "f1"} in per cent.
    squad_score.py --golden        writes tests/golden/spans/scores.json: made answers with odd punctuation, articles, Unicode, repeated words.
"""
import collections
import json
import os
import random
import re
import string
import sys

ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalized(text):
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLE.sub(" ", kept).split())


def f1(found, wanted):
    found, wanted = normalized(found).split(), normalized(wanted).split()
    if not found or not wanted:
        return float(found == wanted)
    same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(found), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def score(found, answers):
    counted = [a for a in answers if normalized(a)] or [""]
    return max(int(normalized(a) == normalized(found)) for a in counted), max(f1(found, a) for a in counted)


def questions(path):
    text = open(path, encoding="utf-8").read()
    if path.endswith(".jsonl"):
        for line in filter(None, map(str.strip, text.split("\n"))):
            row = json.loads(line)
            yield row["id"], row["answers"]["text"]
        return
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            for q in paragraph["qas"]:
                yield q["id"], [a["text"] for a in q["answers"]]


PIECES = ["the", "The", "a", "AN", "an", "theme", "athe", "Paris", "PARIS", "paris", "U.S.", "don't", "rock-'n'-roll", "$5,000", "50%", "naïve", "NAÏVE",
          "nai\u0308ve", "İstanbul", "ΟΔΟΣ", "ΣΟΦΟΣ", "Σ", "ΑΣ.", "ΑΣ'Β", "日本", "、", "“the”", "‘a’", "the\u0301", "_the_", "the_", "a1", "–an–",
          "Straße", "STRASSE", "ﬁre", "Ǆ", "x", "x", "x", "\u00a0", "\t", "\n", "\u2003", "\u200b", "(the)", "[a]", "a.", "...", "—", "1", "2nd", "½",
          "the½", "😀", "the😀", "\u3000", "\x1f", "Ⅷ", "ⅷ"]


def golden():
    rng = random.Random(3)
    made = lambda: rng.choice(["", " ", "  "]).join([rng.choice(PIECES) for _ in range(rng.randint(0, 7))]) if rng.random() < 0.3 else \
        " ".join(rng.choice(PIECES) for _ in range(rng.randint(0, 7)))
    cases = []
    for i in range(400):
        answers = [made() for _ in range(rng.randint(0, 3))]
        found = made()
        if answers and i % 2:  # near a right one
            words = rng.choice(answers).split(" ")
            rng.shuffle(words)
            found = " ".join(words[:rng.randint(0, len(words))] + rng.choices(PIECES, k=rng.randint(0, 2)))
        exact, value = score(found, answers)
        cases.append({"found": found, "answers": answers, "normalized": normalized(found), "exact": exact, "f1": value})
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "spans")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "scores.json"), "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")


def main():
    if sys.argv[1:] == ["--golden"]:
        golden()
        return
    answers = json.load(open(sys.argv[2], encoding="utf-8"))
    scores = [score(answers[i], right) for i, right in questions(sys.argv[1])]
    print(json.dumps({"exact": 100 * sum(s[0] for s in scores) / len(scores), "f1": 100 * sum(s[1] for s in scores) / len(scores)}))


if __name__ == "__main__":
    main()
