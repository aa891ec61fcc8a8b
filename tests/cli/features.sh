#!/usr/bin/env bash
# Every loss of distillation from the command line, on a small language model and on a small classifier: layers, widths and heads of student
# and teacher differ where a loss allows it; the same bytes with 1 and 2 threads after kill -9; the log has every loss; what cannot be is refused.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model teacher --dtype f32 --layers 3 --seed 2
make_model student --dtype f32 --layers 2 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16
make_text text.txt 200

# All losses on answers and on features at once: widths differ (projections), widths of heads, groups of keys.
cat > text.json <<'JSON'
{"model": "student", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 100},
 "stages": [{"distill": {"teacher": "teacher", "steps": 24, "batch": 2, "accumulate": 2, "snapshot_every": 4, "temperature": 2, "alpha": 0.8, "beta": 0.3,
   "divergence": {"kl": 0.5, "reverse_kl": [0, 1], "js": 0.5, "tv": 0.2, "mse": {"from": 0.1, "to": 0, "start": 0.2, "end": 0.8}},
   "hidden": 0.5, "layer_map": [[0, 1], [1, 2]],
   "features": [
     {"loss": "embedding_mse", "weight": 0.1}, {"loss": "hidden_cosine", "weight": [1, 0]}, {"loss": "hidden_pkd", "map": "last", "weight": 0.1},
     {"loss": "hidden_mse", "map": "final", "weight": 0.1, "tokens": "first"},
     {"loss": "attention_kl", "weight": 0.1}, {"loss": "attention_mse", "weight": 0.1}, {"loss": "attention_score_mse", "weight": 0.1, "map": [[0, 0]]},
     {"loss": "attention_mse_entropy", "weight": 0.1}, {"loss": "query_relation", "weight": 0.1}, {"loss": "key_relation", "weight": 0.1},
     {"loss": "value_relation", "weight": 0.1, "relation_heads": 8}, {"loss": "fsp", "weight": 0.1, "map": "first"}, {"loss": "similarity", "weight": 0.1},
     {"loss": "rkd_distance", "weight": 0.1, "samples": 8}, {"loss": "rkd_angle", "weight": 0.1, "samples": 6},
     {"loss": "cka", "weight": 0.1, "map": "skip"}]}}]}
JSON

# A classifier of padded sentences, which reads both ways.
make_classifier small 2 16 4
make_classifier large 4 32 4
python3 - << 'PY'
import random
random.seed(1)
fill = ["the", "film", "was", "very", "not", ",", "."]
with open("train.tsv", "w") as f:
    f.write("sentence\tlabel\n")
    for _ in range(300):
        label = random.randrange(2)
        words = [random.choice(fill) for _ in range(random.randint(2, 9))]
        words.insert(random.randrange(len(words)), "good" if label else "bad")
        f.write(" ".join(words) + f"\t{label}\n")
PY
cat > head.json <<'JSON'
{"model": "large", "data": {"train": ["train.tsv"], "eval": ["train.tsv"], "seq_len": 24, "validation": 20}, "seed": 1, "stages": [
 {"train": {"init": true, "steps": 120, "batch": 16, "learning_rate": 3e-3}}]}
JSON
"$PDQ" run head.json -o parent > out.txt 2> err.txt || fail "the classifier: $(tail -1 err.txt)"
cat > classes.json <<'JSON'
{"model": "parent/01-train", "data": {"train": ["train.tsv"], "eval": ["train.tsv"], "seq_len": 24, "validation": 20}, "seed": 1, "stages": [
 {"distill": {"shape": "small", "steps": 24, "batch": 8, "snapshot_every": 4, "dropout": 0.1, "learning_rate": 3e-3, "divergence": {"kl": 1, "js": 1, "mse": 0.1},
   "features": [
     {"loss": "embedding_mse"}, {"loss": "hidden_mse", "map": "uniform"}, {"loss": "hidden_cosine"}, {"loss": "hidden_pkd", "map": "skip", "tokens": "first"},
     {"loss": "attention_kl"}, {"loss": "attention_mse"}, {"loss": "attention_score_mse"}, {"loss": "attention_mse_entropy"},
     {"loss": "query_relation"}, {"loss": "key_relation"}, {"loss": "value_relation"}, {"loss": "fsp"}, {"loss": "similarity", "tokens": "first"},
     {"loss": "rkd_distance"}, {"loss": "rkd_angle", "samples": 5}, {"loss": "cka"}]}}]}
JSON

for recipe in text classes; do
    "$PDQ" run $recipe.json -o $recipe-alone --threads 1 > out.txt 2> err.txt || fail "$recipe: $(tail -1 err.txt)"
    run_killed 7 begun $recipe.json $recipe-killed 5 --threads 2
    for file in model.safetensors run.jsonl; do
        cmp $recipe-alone/01-distill/$file $recipe-killed/01-distill/$file || fail "$recipe: another $file after kill -9 with 2 threads"
    done
    left=$(find $recipe-killed -name snapshot)
    [ -z "$left" ] || fail "left behind: $left"
done

# Every loss is logged, the loss is made of its parts, and falls.
cat > check.py <<'PY'
import json, sys
recipe = json.load(open(sys.argv[1] + ".json"))["stages"][0]["distill"]
lines = [json.loads(x) for x in open(sys.argv[1] + "-alone/01-distill/run.jsonl")]
lines = [x for x in lines if "loss" in x]
def weight(w, share):
    if isinstance(w, dict): first, last, start, end = w["from"], w["to"], w["start"], w["end"]
    elif isinstance(w, list): first, last, start, end = *w, 0, 1
    else: return w
    return first if share <= start else last if share >= end else first + (last - first) * (share - start) / (end - start)
T, alpha = recipe.get("temperature", 2), recipe.get("alpha", 0.7)
power = {"kl": T * T, "reverse_kl": T * T, "js": T * T, "tv": T, "mse": 1}
terms = [(alpha * power[d], w, "logit_mse" if d == "mse" else d) for d, w in recipe["divergence"].items()]
terms += [(1 - alpha, 1, "ce"), (recipe.get("hidden", 0), 1, "mse")]
seen = ["hidden_mse"] if recipe.get("hidden") else []
for f in recipe["features"]:
    seen.append(f["loss"])
    n = seen.count(f["loss"])
    terms.append((1, f.get("weight", 1), f["loss"] + (f"_{n}" if n > 1 else "")))
for i, x in enumerate(lines):
    loss = sum(factor * weight(w, i / (len(lines) - 1)) * x[name] for factor, w, name in terms)
    assert abs(loss - x["loss"]) < 2e-6 * loss, (i, loss, x["loss"])
    assert all(x[name] >= -1e-6 for _, _, name in terms), x
mean = lambda part: sum(x["loss"] for x in part) / len(part)
assert mean(lines[-4:]) < mean(lines[:4]), "nothing was learned"
PY
python3 check.py text || fail "the log of text.json"
python3 check.py classes || fail "the log of classes.json"

# With checkpoint: what hidden states need is there, what attention reads is not. Sizes of what is saved are the student's alone.
cat > hidden.json <<'JSON'
{"model": "student", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 100},
 "stages": [{"distill": {"teacher": "teacher", "steps": 6, "batch": 2, "features": [{"loss": "hidden_mse"}, {"loss": "embedding_mse"}, {"loss": "fsp"},
   {"loss": "rkd_distance"}]}}]}
JSON
"$PDQ" run hidden.json -o plain > /dev/null 2> err.txt || fail "hidden states: $(tail -1 err.txt)"
"$PDQ" run hidden.json -o checkpoint --set distill.checkpoint=true > /dev/null 2> err.txt || fail "checkpoint: $(tail -1 err.txt)"
refused 1 'distill.features\[4\]: attention_kl reads what a layer.s attention reads, and with "checkpoint"' "$PDQ" run text.json -o bad --set distill.checkpoint=true
python3 - <<'PY' || fail "what is saved"
import json, struct
def parts(folder): # names of the tensors, their bytes
    file = open(folder + "/model.safetensors", "rb").read()
    end = 8 + struct.unpack("<Q", file[:8])[0]
    return sorted(n for n in json.loads(file[8:end]) if n != "__metadata__"), file[end:]
plain, checkpoint = parts("plain/01-distill"), parts("checkpoint/01-distill")
assert plain[0] == parts("student")[0], "the student has other tensors than before"
assert plain[1] == checkpoint[1], "with checkpoint: other weights"
PY

# As a name; refusals.
"$PDQ" run hidden.json -o js --set distill.divergence='"js"' --set distill.steps=2 > /dev/null 2> err.txt || fail "js by name: $(tail -1 err.txt)"
refused 1 'distill.divergence: found "jss"; did you mean "js"' "$PDQ" run hidden.json -o bad --set distill.divergence='"jss"'
refused 1 'distill.divergence.tv: is 0 over the whole run' "$PDQ" run hidden.json -o bad --set distill.divergence='{"tv": 0}'
refused 1 'distill.layer_map: found "middle", expected one of uniform' "$PDQ" run hidden.json -o bad --set distill.layer_map='"middle"'
refused 1 'distill.layer_map\[0\]: expected a teacher layer from 0 to 2' "$PDQ" run hidden.json -o bad --set distill.layer_map='[[0, 3]]'
sed 's/"attention_kl"/"attention_k"/' text.json > bad.json
refused 1 'features\[4\].loss: found "attention_k"; did you mean "attention_kl"' "$PDQ" run bad.json -o bad
make_model other --dtype f32 --layers 3 --heads 8
sed 's/"teacher": "teacher"/"teacher": "other"/' text.json > bad.json
refused 1 'features\[4\]: student layer 0 has 4 heads, teacher layer 1 8; expected as many' "$PDQ" run bad.json -o bad
absent bad
exit $failed
