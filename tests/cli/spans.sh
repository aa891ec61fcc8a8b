#!/usr/bin/env bash
# Answers in texts from the command line: a small BERT learns from a file like SQuAD's to find a word of a kind that the question names, or that
# there is none, over windows of long contexts; exact match and F1 as an independent script counts them; the file and its rows say
# the same; the same bytes with 1 and 2 threads and after kill -9; distilled, pruned, compared, swept; bad files are refused.
. "$(dirname "$0")/helpers.inc"
export OMP_WAIT_POLICY=passive
recipes=$PDQ_SOURCE_DIR/recipes
cd "$work" || exit 1
sh "$recipes/spans/make.sh" made || exit 1
common="--set model=made --set data.train=made/train.json --set data.eval=made/test.json"
first='stages=[{"train": {"init": true, "steps": 600, "batch": 16, "learning_rate": 3e-3, "weight_decay": 0.01, "beta2": 0.99, "eval_every": 150, "keep_best": true, "snapshot_every": 100}}]'
"$PDQ" run "$recipes/spans.json" $common -o one --set "$first" --threads 1 > out.txt 2> err.txt || fail "training: $(tail -1 err.txt)"
grep -Eq '^trained .* (9[0-9]|100)\.[0-9]+ +(9[0-9]|100)\.[0-9]+$' out.txt || fail "the model learned too little: $(cat out.txt)"
run_killed 1 begun "$recipes/spans.json" two 1 --threads 2 $common --set "$first"
cmp one/01-train/model.safetensors two/01-train/model.safetensors || fail "1 and 2 threads, one killed: other weights"

same() { "$PDQ" eval one/01-train --json --seq-len 32 --stride 12 --data "$@" 2> err.txt || echo "failed: $(cat err.txt)"; }
gzip -k made/test.json made/test.jsonl
[ "$(same made/test.json)" = "$(same made/test.jsonl)" ] && [ "$(same made/test.json)" = "$(same made/test.json.gz)" ] &&
    [ "$(same made/test.json)" = "$(same made/test.jsonl.gz)" ] || fail "the file and its rows differ: $(same made/test.jsonl)"
same made/test.json --task spans --answers answers.json > result.json
sed 's/Which animal/Which is/' made/test.json > odd.json # half of the questions do not say what they ask for
for data in made/test.json odd.json; do
    same $data --answers answers.json > result.json
    python3 "$PDQ_SOURCE_DIR/tests/ref/squad_score.py" $data answers.json > wanted.json
    python3 - $data << 'PY' || fail "$data: other than the reference counts: $(cat result.json wanted.json)"
import json, sys
found, wanted, report = json.load(open("result.json")), json.load(open("wanted.json")), json.load(open("one/report.json"))["rows"][-1]
assert found["examples"] == 300 and found["windows"] > 330 and abs(found["accuracy"] - wanted["exact"]) < 1e-9 and abs(found["f1"] - wanted["f1"]) < 1e-9, wanted
assert found["accuracy_low"] < found["accuracy"] <= found["accuracy_high"] and found["f1_low"] < found["f1"] <= found["f1_high"] and found["f1"] >= found["accuracy"]
if sys.argv[1] == "made/test.json":
    assert found["accuracy"] > 90 and all(report[k] == found[k] for k in ("accuracy", "f1", "nll", "errors", "windows")), (found, report)
    answers = json.load(open("answers.json"))
    assert sum(a == "" for a in answers.values()) > 30 and "São Paulo" in answers.values() and any("Zürich" in a for a in answers.values()), answers
else:
    assert found["accuracy"] < 90, found
PY
done

"$PDQ" run "$recipes/spans.json" -o student --set data.train=made/train.json --set data.eval=made/test.json --set model=one/01-train --set \
    'stages=[{"distill": {"shape": "'"$recipes"'/spans-half", "alpha": 0.9, "temperature": 2, "steps": 600, "batch": 16, "learning_rate": 5e-3, "weight_decay": 0.01, "beta2": 0.99}}]' \
    > out.txt 2> err.txt || fail "distilling: $(tail -1 err.txt)"
grep -Eq '^distilled .* [5-9][0-9]\.[0-9]+$' out.txt || fail "the student learned too little: $(cat out.txt)"
"$PDQ" prune one/01-train -o pruned --heads 0.5 --ffn 0.5 --score taylor --align 8 --data made/train.json --seq-len 32 --calibration-tokens 4096 --log warn > out.txt 2> err.txt ||
    fail "prune: $(cat err.txt)"
"$PDQ" eval pruned --data made/test.json --against one/01-train > out.txt 2> err.txt && grep -q '^exact match  .*interval' out.txt &&
    grep -q 'McNemar p.*F1 [-+].*interval' out.txt || fail "against the parent: $(cat out.txt err.txt)"
"$PDQ" sweep "$recipes/spans.json" -o sweep --set data.train=made/train.json --set data.eval=made/test.json --set model=one/01-train --set \
    'stages=[{"prune": {"ffn": 0.5, "heads": 0, "score": "l2", "align": 8}}]' --vary prune.ffn=0.25,0.5 > out.txt 2> err.txt || fail "sweep: $(tail -1 err.txt)"
grep -q 'accuracy .*F1' out.txt && head -1 sweep/sweep.csv | grep -q 'accuracy,f1' || fail "sweep: $(cat out.txt)"

ask() { printf '{"context": "%s", "question": "%s", "answers": {"text": [%s], "answer_start": [%s]}}\n' "$@"; }
eval_bad() { "$PDQ" eval one/01-train --seq-len 32 --data "$@"; }
ask 'one fox' 'which animal' '"fox"' 3 > bad.jsonl
refused 1 'line 1: answer 1, "fox", does not stand at answer_start 3 of its context' eval_bad bad.jsonl
ask ' ' 'which animal' '' '' > bad.jsonl
refused 1 'line 1: its context is empty' eval_bad bad.jsonl
ask 'one fox' "$(printf 'which %.0s' $(seq 60))" '' '' > bad.jsonl
refused 1 'line 1: its question has 60 tokens, and sequences of 32 leave no room' eval_bad bad.jsonl
echo '{"data": 5}' > bad.json
refused 1 "no list \"data\" in it; expected SQuAD's file" eval_bad bad.json
echo '{"data": [{"paragraphs": [{"context": "one fox", "qas": [{"id": "q7", "question": "which"}]}]}]}' > bad.json
refused 1 'question 1 .id q7.: "answers" is missing' eval_bad bad.json
refused 1 'expected a name that ends in .json' eval_bad made/vocab.txt
refused 1 'no head for classes' "$PDQ" eval one/01-train --task classification --data made/test.json
refused 1 'one/01-train has positions for 64 tokens' "$PDQ" eval one/01-train --seq-len 65 --data made/test.json
refused 1 'questions, of which 2000 are wanted for validation' "$PDQ" run "$recipes/spans.json" $common -o bad --set data.validation=2000
exit $failed
