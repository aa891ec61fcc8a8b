#!/usr/bin/python3
"""Reads the run of tests/cli/sources.sh and computes its weights of sources again, by Algorithm 1 of Xia et al. 2023 (Sheared LLaMA):

    delta = max(loss - reference, 0);  alpha = w * exp(delta);  w = alpha / sum(alpha)

from the losses in each run.jsonl, with the parent's losses of report.json where the recipe gives no reference.
"""
import json
import math
import sys

run = sys.argv[1]
report = json.load(open(f"{run}/report.json"))
recipe = json.load(open(f"{run}/recipe.json"))
sources = recipe["data"]["sources"]
parent = {s["name"]: s["nll"] for s in report["rows"][0]["sources"]}
reference = [s.get("reference", parent[s["name"]]) for s in sources]
checked = 0


def check(path, w, every, steps):
    global checked
    total = sum(w)
    w = [x / total for x in w]
    lines = [json.loads(line) for line in open(f"{run}/{path}/run.jsonl")]
    changes = [line for line in lines if "source_weights" in line]
    assert [c["step"] for c in changes] == list(range(every, steps, every)), (path, changes)
    moved = 0
    for c in changes:
        alpha = []
        for k, loss in enumerate(c["source_losses"]):
            assert (loss is None) == (w[k] == 0), (path, c)
            alpha.append(0 if loss is None else w[k] * math.exp(max(loss - reference[k], 0)))
        w = [a / sum(alpha) for a in alpha]
        for mine, found in zip(w, c["source_weights"]):
            # losses are logged with nine digits, so a factor exp(delta) of this chain is off by some 1e-9 at each change
            assert abs(mine - found) < 1e-7, (path, c, w)
            checked += 1
        moved += any(loss is not None and loss > reference[k] for k, loss in enumerate(c["source_losses"]))
    assert moved, f"{path}: no source is behind its reference, so nothing was tested"


stages = recipe["stages"]
names = [s["name"] for s in sources]
own = [s["weight"] for s in sources]
check("01-prune/step-1", own, 4, 12)
check("02-distill", own, 4, 40)
check("03-train", [stages[2]["train"]["mixture"].get(n, 0) for n in names], 3, 20)
check("04-distill", own, 4, 12)
print(f"{checked} weights as Algorithm 1 has them")
