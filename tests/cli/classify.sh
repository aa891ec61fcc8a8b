#!/usr/bin/env bash
# Classifiers of texts from the command line: a small BERT learns from a table which of two words is there, is evaluated (accuracy, F1,
# Matthews, against its parent), pruned, distilled into a smaller one, exported; the same bytes with 1 and 2 threads and after kill -9;
# .tsv, .csv and .jsonl say the same; bad tables are refused.
. "$(dirname "$0")/helpers.inc"
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_classifier shape 2 32 2
make_classifier small 1 16 2
python3 - << 'PY'
import random
random.seed(1)
fill = ["the", "film", "was", "very", "not", ",", "."]
def rows(n):
    for _ in range(n):
        label = random.randrange(2)
        words = [random.choice(fill) for _ in range(random.randint(2, 9))]
        words.insert(random.randrange(len(words)), ("good" if label else "bad") + random.choice(["", "", "ish"]))
        yield " ".join(words), label
train, test = list(rows(900)), list(rows(100))
for name, part in (("train", train), ("test", test)):
    open(name + ".tsv", "w").write("sentence\tlabel\n" + "".join(f"{t}\t{l}\n" for t, l in part))
names = ["no", "yes"]
quote = lambda t: '"' + t.replace("very", '""very""') + '"'  # quotes are [UNK]s, commas stay inside
open("test.csv", "w").write("id,label,review\n" + "".join(f"{i},{names[l]},{quote(t.replace('very', 'x'))}\n" for i, (t, l) in enumerate(test)))
open("test-x.tsv", "w").write("sentence\tlabel\n" + "".join(f"{t.replace('very', 'x')}\t{l}\n" for t, l in test))
open("test.jsonl", "w").write("".join('{"label": %d, "sentence": "%s"}\n' % (l, t) for t, l in test))
open("pairs.tsv", "w").write("a\tb\tlabel\n" + "".join(f"the film\t{t}\t{l}\n" for t, l in test))
PY
gzip -k test.jsonl
cat > train.json << 'JSON'
{"model": "shape", "data": {"train": ["train.tsv"], "eval": ["test.tsv"], "seq_len": 24, "validation": 100}, "seed": 1, "stages": [
 {"train": {"init": true, "steps": 250, "batch": 16, "learning_rate": 3e-3, "weight_decay": 0.01, "dropout": 0.05, "eval_every": 50, "keep_best": true,
  "snapshot_every": 40}}]}
JSON
"$PDQ" run train.json -o one --threads 1 > out.txt 2> err.txt || fail "training: $(tail -1 err.txt)"
run_killed 1 begun train.json two 1 --threads 2
cmp one/01-train/model.safetensors two/01-train/model.safetensors || fail "1 and 2 threads, one killed: other weights"
python3 - << 'PY' || fail "the report of a classifier"
import json
row = json.load(open("one/report.json"))["rows"][-1]
assert row["examples"] == 100 and row["accuracy"] >= 95 and row["errors"] == 100 - row["accuracy"], row
assert row["accuracy_low"] < row["accuracy"] <= row["accuracy_high"] <= 100 and row["f1"] > 90 and row["matthews"] > 0.9, row
PY
same() { "$PDQ" eval one/01-train --json --data "$@" 2> err.txt || echo "failed: $(cat err.txt)"; }
[ "$(same test.tsv)" = "$(same test.jsonl)" ] && [ "$(same test.tsv)" = "$(same test.jsonl.gz)" ] || fail "tsv and jsonl differ"
[ "$(same test-x.tsv)" = "$(same test.csv --text review)" ] || fail "csv with names of classes: $(same test.csv --text review)"
same pairs.tsv --text a --pair b | grep -q '"examples":100' || fail "pairs: $(same pairs.tsv --text a --pair b)"
"$PDQ" eval one/01-train --task classification --data test.tsv > out.txt 2> err.txt && grep -q 'F1 .*of class 1' out.txt || fail "eval --task: $(cat err.txt)"

"$PDQ" prune one/01-train -o pruned --heads 0.5 --ffn 0.5 --score l2 --align 8 --log warn 2> err.txt || fail "prune: $(cat err.txt)"
"$PDQ" eval pruned --data test.tsv --against one/01-train > out.txt 2> err.txt && grep -q 'McNemar p' out.txt || fail "against the parent: $(cat err.txt)"
"$PDQ" export pruned -o padded --padded --dtype f32 --log warn > /dev/null 2> err.txt || fail "padded: $(cat err.txt)"
python3 - "$("$PDQ" eval pruned --data test.tsv --json 2> /dev/null)" "$("$PDQ" eval padded --data test.tsv --json 2> /dev/null)" << 'PY' || fail "padded differs"
import json, sys
a, b = (json.loads(x) for x in sys.argv[1:])
assert abs(a["nll"] - b["nll"]) < 1e-5 and a["errors"] == b["errors"], (a, b)
PY
cat > distill.json << 'JSON'
{"model": "one/01-train", "data": {"train": ["train.tsv"], "eval": ["test.tsv"], "seq_len": 24, "validation": 100}, "seed": 1, "stages": [
 {"distill": {"shape": "small", "steps": 250, "batch": 16, "learning_rate": 5e-3, "alpha": 0.9, "temperature": 2}}]}
JSON
"$PDQ" run distill.json -o student > out.txt 2> err.txt || fail "distilling: $(tail -1 err.txt)"
grep -q 'Knowledge kept: distilled' student/report.html || fail "no similarity in the report"
grep -Eq '^distilled .* (9[0-9]|100)\.[0-9]+$' out.txt || fail "the student learned too little: $(cat out.txt)"
# with inherit the first loss is the teacher's doing
make_classifier small 1 32 2
"$PDQ" run distill.json -o heir --set distill.inherit=true --set distill.steps=1 > out.txt 2> err.txt || fail "inherit: $(tail -1 err.txt)"
grep -q 'begins with' err.txt && grep -Eq '^distilled .* (8[0-9]|9[0-9]|100)\.[0-9]+$' out.txt || fail "inherit: $(cat out.txt err.txt)"
sed 's/"shape": "small", //' distill.json > same.json
refused 1 '"inherit" is for a student of another shape' "$PDQ" run same.json -o bad --set distill.inherit=true

# masked words first, then the labels: the words become easier to tell, the labels are learned in fewer steps
mkdir words
sed 's/ForSequenceClassification/ForMaskedLM/; s/, "id2label".*}}/}/' shape/config.json > words/config.json
cp shape/vocab.txt words
cat > words.json << 'JSON'
{"model": "shape", "data": {"train": ["train.tsv"], "eval": ["test.tsv"], "seq_len": 24, "validation": 100, "unlabelled": ["train.tsv"]}, "seed": 1,
 "stages": [{"train": {"init": true, "shape": "words", "steps": 200, "batch": 16, "learning_rate": 3e-3, "eval_every": 100, "snapshot_every": 60}},
  {"train": {"shape": "shape", "inherit": true, "steps": 60, "batch": 16, "learning_rate": 2e-3}}]}
JSON
"$PDQ" run words.json -o warm --threads 1 > out.txt 2> err.txt || fail "masked words: $(tail -1 err.txt)"
grep -q 'begins with .* of .* weights from' err.txt || fail "masked words: $(cat err.txt)"
run_killed 1 begun words.json warm2 1 --threads 2
cmp warm/02-train/model.safetensors warm2/02-train/model.safetensors || fail "masked words, 1 and 2 threads, one killed: other weights"
"$PDQ" run words.json -o untold --set 'stages=[{"train": {"init": true, "shape": "words", "steps": 1}}]' > /dev/null 2> err.txt || fail "one step: $(tail -1 err.txt)"
"$PDQ" eval warm/01-train --data test.tsv --against untold/01-train --json > out.txt 2> err.txt || fail "eval of masked words: $(cat err.txt)"
python3 - "$(cat out.txt)" << 'PY' || fail "masked words: $(cat out.txt)"
import json, sys
r = json.loads(sys.argv[1])
assert r["nll"] < r["against_nll"] - 0.5 and 100 < r["words"] < 200 and r["accuracy_low"] < r["accuracy"] < r["accuracy_high"], r
PY
"$PDQ" run words.json -o mlm --set model=words --set 'stages=[{"train": {"init": true, "steps": 20, "batch": 4}}]' > out.txt 2> err.txt || fail "a masked-word recipe: $(tail -1 err.txt)"
grep -Eq '^trained ' out.txt || fail "a masked-word recipe: $(cat out.txt)"
refused 1 'its model learns masked words, but "data" has no text for it: give "unlabelled"' "$PDQ" run words.json -o bad --set data.unlabelled=[]
refused 1 'no head for masked words' "$PDQ" eval one/01-train --task masked --data test.tsv
refused 1 'no head for classes' "$PDQ" eval warm/01-train --task classification --data test.tsv

refused 1 'no column "review"; the first line names: sentence, label' "$PDQ" eval one/01-train --data test.tsv --text review
printf 'sentence\tlabel\ngood\t2\n' > bad.tsv
refused 1 'row 2: label "2"; expected a number from 0 to 1, or a name' "$PDQ" eval one/01-train --data bad.tsv
printf 'sentence\tlabel\ngood\n' > bad.tsv
refused 1 'row 2: 1 fields; the first line names 2 columns' "$PDQ" eval one/01-train --data bad.tsv
printf 'sentence,label\n"good,1\n' > bad.csv
refused 1 'row 2: a quote is not closed' "$PDQ" eval one/01-train --data bad.csv
echo '{"sentence": "good"}' > bad.jsonl
refused 1 'line 1: "label" is missing; expected a string, a number' "$PDQ" eval one/01-train --data bad.jsonl
: > bad.tsv
refused 1 'the file is empty; expected a first line' "$PDQ" eval one/01-train --data bad.tsv
refused 1 'ends in .tsv, .csv or .jsonl' "$PDQ" eval one/01-train --data shape/vocab.txt
refused 1 'predicts the next token; expected one for --task text' "$PDQ" eval one/01-train --task text --data test.tsv
refused 1 'a model that reads both ways .model_type bert.' "$PDQ" generate one/01-train --prompt good
for score in taylor fisher loss_change activation; do
    "$PDQ" prune one/01-train -o $score --ffn 0.5 --score $score --align 8 --data train.tsv --seq-len 24 --calibration-tokens 4096 --log warn 2> err.txt ||
        fail "prune by $score: $(cat err.txt)"
    "$PDQ" eval $score --data test.tsv --json 2> err.txt | grep -Eq '"accuracy":(9[0-9]|100)' || fail "$score: $("$PDQ" eval $score --data test.tsv)"
done
refused 1 'learns from text by predicting the next token; a bert model does not' "$PDQ" sparsify one/01-train -o bad --sparsity 0.5 --score wanda --data train.tsv
refused 1 'of which 900 are wanted for validation; expected fewer' "$PDQ" run train.json -o bad --set data.validation=900
refused 1 '"tokens" counts text; give "steps" for an encoder' "$PDQ" run train.json -o bad --set train.tokens=100 --set train.steps=0
exit $failed
