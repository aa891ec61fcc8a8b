#!/usr/bin/env bash
# Texts mixed by weight, and by weights that follow held-out losses: the same bytes with 1 and 2 threads and after kills, weights by Algorithm 1 of
# Sheared LLaMA, what the dry run and the report say of sources, and what is refused.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model m --dtype f32
make_text a.txt 120
seq 300 | sed 's/^/The king of Israel reigned for so many years: /' > b.txt
seq 40 | sed 's/$/ (noun) a thing with a number/' > c.txt
for s in a b c; do tail -n 8 $s.txt > $s-held.txt; done

sources='"sources": [{"name": "sheep", "train": "a.txt", "eval": "a-held.txt", "weight": 2, "reference": 1},
  {"name": "kings", "train": "b.txt", "eval": "b-held.txt", "weight": 1, "reference": 1.5},
  {"name": "words", "train": ["c.txt"], "eval": ["c-held.txt"], "weight": 1}]'
data="\"data\": {$sources, \"seq_len\": 32, \"eval_tokens\": 300}"
cat > r.json <<JSON
{"model": "m", $data, "stages": [
 {"prune": {"heads": 0.5, "ffn": 0.5, "steps": 2, "calibration_tokens": 128, "recover": {"steps": 12, "batch": 2, "snapshot_every": 3, "reweight_every": 4}}},
 {"distill": {"steps": 40, "batch": 2, "accumulate": 2, "learning_rate": 3e-3, "snapshot_every": 5, "eval_every": 10, "keep_best": true, "reweight_every": 4}},
 {"train": {"steps": 20, "batch": 2, "snapshot_every": 3, "ema": 0.9, "mixture": {"kings": 1, "words": 3}, "reweight_every": 3}},
 {"distill": {"steps": 12, "batch": 2, "alpha": 0.5, "snapshot_every": 3, "students": [{"shape": "m", "seed": 9}], "reweight_every": 4}},
 {"quantize": {"type": "Q8_0"}}]}
JSON
"$PDQ" run r.json -o alone > out.txt 2> err.txt || { cat err.txt; exit 1; }
"$PDQ" run r.json -o two --threads 2 > /dev/null 2> err.txt || fail "2 threads: $(cat err.txt)"
run_killed 11 anytime r.json killed 14
for other in two killed; do
    (cd alone && find . \( -name '*.safetensors' -o -name '*.gguf' -o -name run.jsonl -o -name '*.f64' \)) | while read -r file; do
        cmp "alone/$file" "$other/$file" || echo "$other/$file" >> differs
    done
done
[ ! -e differs ] || fail "files differ: $(cat differs)"

# Weights by another program than pdq, from the losses in the log; the last source's reference is the parent's loss.
python3 "$PDQ_SOURCE_DIR/tests/ref/reweight.py" alone || fail "weights"

# One source is the text alone, and a run of it does not differ from data.train's.
for text in '"train": "a.txt"' '"sources": [{"train": "a.txt"}]'; do
    echo "{\"model\": \"m\", \"data\": {$text, \"seq_len\": 32}, \"stages\": [{\"train\": {\"steps\": 6, \"batch\": 2}}]}" > one.json
    rm -rf one
    "$PDQ" run one.json -o one > /dev/null 2> err.txt || fail "one source: $(cat err.txt)"
    cat one/01-train/run.jsonl >> one.jsonl
done
cmp <(head -6 one.jsonl) <(tail -6 one.jsonl) || fail "one source trains otherwise than data.train"

# Weights decide what is learned: the loss on what a training sees alone falls below that of a training without it.
for name in sheep kings; do
    "$PDQ" run r.json -o only-$name --set "stages[2].train.mixture={\"$name\": 1}" --set 'stages[2].train.reweight_every=0' \
        --set 'stages[2].train.learning_rate=3e-3' > /dev/null 2> err.txt || fail "only $name: $(cat err.txt)"
done
python3 - <<'PY' || fail "losses by source"
import json
def losses(run):
    rows = json.load(open(run + "/report.json"))["rows"]
    return {s["name"]: s["nll"] for s in [r for r in rows if r["name"] == "trained"][0]["sources"]}
a, b = losses("only-sheep"), losses("only-kings")
assert set(a) == {"sheep", "kings", "words"}
assert a["sheep"] < b["sheep"] and b["kings"] < a["kings"], (a, b)
inputs = json.load(open("alone/report.json"))["inputs"]["train"]["sources"]
assert [round(s["weight"], 6) for s in inputs] == [0.5, 0.25, 0.25] and all(s["tokens"] > 100 for s in inputs)
PY
grep -q 'kings' out.txt || fail "the report does not show sources: $(cat out.txt)"

# The dry run: tokens, shares and passes; weights that are not given are as the texts are long.
"$PDQ" run r.json --dry-run > dry.txt 2> /dev/null || fail "dry run"
grep -q 'sources: sheep .* 50.0 %, .* passes; kings .*; weighed anew every 4 steps' dry.txt || fail "dry run: $(cat dry.txt)"
sed 's/, "weight": [0-9]//' r.json > natural.json
"$PDQ" run natural.json --dry-run --json 2> /dev/null > dry.json
python3 - <<'PY' || fail "shares and passes"
import json
one = json.load(open("dry.json"))["stages"][1]["sources"]
assert abs(sum(s["share"] for s in one) - 1) < 1e-12
for s in one: # each as often as it has windows; 160 windows are drawn
    assert abs(s["passes"] - 160 / sum((t["tokens"] - 1 + 31) // 32 for t in one)) < 1 / ((s["tokens"] - 1 + 31) // 32), one
PY

# A file of the teacher's answers: one for all weights, and not with weights that change.
"$PDQ" run r.json -o cached --set 'stages[0].prune.steps=1' --set 'stages[0].prune.recover=null' --set 'stages[1].distill.teacher_cache=t.cache' \
    --set 'stages[1].distill.reweight_every=0' > /dev/null 2> err.txt || fail "teacher_cache: $(cat err.txt)"
"$PDQ" run r.json -o cached-2 --set 'stages[0].prune.steps=1' --set 'stages[0].prune.recover=null' --set 'stages[1].distill.teacher_cache=t.cache' \
    --set 'stages[1].distill.reweight_every=0' --set 'stages[1].distill.mixture={"words": 1}' > /dev/null 2> err.txt || fail "teacher_cache: $(cat err.txt)"
refused 1 'reweight_every.*teacher cache' "$PDQ" run r.json --dry-run --set 'stages[1].distill.teacher_cache=t.cache'

# A source of weight 0 is not measured: its loss would be compared with that of a model which has no weights.
cat > fresh.json <<'JSON'
{"model": "m", "data": {"sources": [{"name": "a", "train": "a.txt", "eval": "a-held.txt", "reference": 1}, {"name": "b", "train": "b.txt", "eval": "b-held.txt"}], "seq_len": 32},
 "stages": [{"train": {"init": true, "steps": 4, "batch": 2, "mixture": {"a": 1}, "reweight_every": 2}}]}
JSON
mv m/model.safetensors aside
"$PDQ" run fresh.json -o fresh > /dev/null 2> err.txt || fail "a source of weight 0: $(cat err.txt)"
mv aside m/model.safetensors

# From the command line.
"$PDQ" train m --data a.txt --data b.txt --weights 0.3,0.7 --seq-len 32 --steps 4 --batch 2 -o t1 > /dev/null 2> err.txt || fail "train: $(cat err.txt)"
"$PDQ" distill m --teacher m --data a.txt --data b.txt --eval a-held.txt --eval b-held.txt --reweight-every 2 --seq-len 32 --steps 4 --batch 2 -o t2 > /dev/null 2> err.txt \
    || fail "distill: $(cat err.txt)"
"$PDQ" prune m --data a.txt --data b.txt --weights 1,0 --seq-len 32 --ffn 0.5 --calibration-tokens 1024 -o t3 > /dev/null 2> err.txt || fail "prune: $(cat err.txt)"
"$PDQ" prune m --data a.txt --seq-len 32 --ffn 0.5 --calibration-tokens 1024 -o t4 > /dev/null 2> err.txt || fail "prune: $(cat err.txt)"
python3 - <<'PY' || fail "calibration reads a text of weight 0"
def weights(path): # behind the header, which says where they come from
    data = open(path, "rb").read()
    return data[8 + int.from_bytes(data[:8], "little"):]
assert weights("t3/model.safetensors") == weights("t4/model.safetensors")
PY
# Without weights texts are laid end to end, as a recipe's "train" is.
"$PDQ" train m --data a.txt --data b.txt --seq-len 32 --steps 4 --batch 2 -o t5 > /dev/null 2> err.txt || fail "train: $(cat err.txt)"
echo '{"model": "m", "data": {"train": ["a.txt", "b.txt"], "seq_len": 32}, "stages": [{"train": {"steps": 4, "batch": 2}}]}' > laid.json
"$PDQ" run laid.json -o laid > /dev/null 2> err.txt || fail "laid end to end: $(cat err.txt)"
cmp t5/run.jsonl laid/01-train/run.jsonl || fail "texts without weights are not laid end to end"
rm -r t5
for weights in 0.3 0.3,0.7,1 0.3,x -1,2 nan,1 1,1, ''; do
    refused 1 "--weights: found \"$weights\", expected 2 numbers from 0" "$PDQ" train m --data a.txt --data b.txt --weights "$weights" --steps 1 -o t5
done
refused 1 'all zero' "$PDQ" train m --data a.txt --data b.txt --weights 0,0 --steps 1 -o t5
refused 1 'has no held-out text' "$PDQ" train m --data a.txt --data b.txt --eval a-held.txt --reweight-every 2 --steps 4 -o t5
absent t5 t5.run

# What is refused, each with its one message.
bad() { # PATTERN SOURCES [STAGE]
    echo "{\"model\": \"m\", \"data\": {$2, \"seq_len\": 32}, \"stages\": [${3-{\"train\": {\"steps\": 4, \"batch\": 2\}\}}]}" > bad.json
    refused 1 "$1" "$PDQ" run bad.json -o bad
}
every='{"train": {"steps": 4, "batch": 2, "reweight_every": 2}}'
both='{"train": "a.txt"}, {"train": "b.txt"}'
bad 'found both "train" and "sources"' "\"train\": \"a.txt\", \"sources\": [$both]"
bad 'found both "sample" and "sources"' "\"sample\": {}, \"sources\": [$both]"
bad 'sources: expected a list' '"sources": {}'
bad 'sources: expected a list' '"sources": []'
bad 'sources\[0\]: "train" is missing' '"sources": [{"weight": 1}]'
bad 'sources\[1\].*unknown.*"wieght".*"weight"' '"sources": [{"train": "a.txt"}, {"train": "b.txt", "wieght": 1}]'
bad 'sources\[1\]: "weight": found -1, expected a number from 0' '"sources": [{"train": "a.txt", "weight": 1}, {"train": "b.txt", "weight": -1}]'
bad 'all zero' '"sources": [{"train": "a.txt", "weight": 0}, {"train": "b.txt", "weight": 0}]'
bad '"a" has a "weight" and "b" has none' '"sources": [{"train": "a.txt", "weight": 1}, {"train": "b.txt"}]'
bad 'named "x"' '"sources": [{"name": "x", "train": "a.txt"}, {"name": "x", "train": "b.txt"}]'
bad 'named "a"' '"sources": [{"train": "a.txt"}, {"train": "a.txt"}]'
bad '"reference": found "low"' '"sources": [{"train": "a.txt", "reference": "low"}]'
bad 'sources\[0\].train: .*absent.txt' '"sources": [{"train": "absent.txt"}]'
: > empty.txt
bad 'sources\[1\].train: .*empty.txt: found [01] tokens?, need at least 2' '"sources": [{"train": "a.txt"}, {"train": "empty.txt"}]'
bad 'evaluation text: .*empty.txt: found [01] tokens?, need at least 2' '"sources": [{"train": "a.txt", "eval": "empty.txt"}]' "$every"
bad 'source "a" has no held-out text' "\"eval\": \"a.txt\", \"sources\": [$both]" "$every"
bad 'reweight_every: the text has no sources' '"train": "a.txt", "eval": "a.txt"' "$every"
bad 'no source is named "c"' "\"sources\": [$both]" '{"train": {"steps": 1, "mixture": {"c": 1}}}'
bad 'all zero' "\"sources\": [$both]" '{"train": {"steps": 1, "mixture": {"a": 0}}}'
bad 'mixture.a: found a string' "\"sources\": [$both]" '{"train": {"steps": 1, "mixture": {"a": "1"}}}'
bad 'mixture: the text has no sources' '"train": "a.txt"' '{"train": {"steps": 1, "mixture": {"a": 1}}}'
bad 'has no "reference"' '"sources": [{"train": "a.txt", "eval": "a.txt"}]' '{"train": {"init": true, "steps": 4, "reweight_every": 2}}'
bad 'data.sources are several' "\"sources\": [$both]" '{"select": {"reference": "m"}}'
bad 'learns from the text of a stage before it' "\"eval\": \"a.txt\", \"sources\": [$both]" "{\"sample\": {\"tokens\": 256, \"length\": 64}}, $every"
bad '"mixture" is for train and distill' "\"eval\": \"a.txt\", \"sources\": [$both]" '{"lottery": {"steps": 4, "eval_every": 2, "mixture": {"a": 1}}}'
absent bad
exit $failed
