#!/usr/bin/env bash
# What is written and where: outputs in the way, --force, thin commands, evaluation's own limits.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 60

quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }
quiet "$PDQ" prune m -o p --ffn 0.5 --heads 0.5 --data text.txt --seq-len 32 --calibration-tokens 64
grep -qx p out.txt || fail "prune does not print its output"
absent p.run p/INPUTS
"$PDQ" inspect p | grep -q '2 query and 1 key/value heads of 32, FFN 64' || fail "pruned shape"
refused 1 'is there already; --force replaces' "$PDQ" prune m -o p --ffn 0.25 --score magnitude
quiet "$PDQ" prune m -o p --ffn 0.25 --score magnitude --force
"$PDQ" inspect p | grep -q 'FFN 96' || fail "--force did not replace"
mkdir mine && touch mine/thesis.txt
refused 1 'holds no model' "$PDQ" prune m -o mine --ffn 0.5 --score l1 --force
[ -e mine/thesis.txt ] || fail "--force removed what was not ours"
quiet "$PDQ" distill p --teacher m -o d --data text.txt --seq-len 32 --steps 2 --batch 2
quiet "$PDQ" train p -o t --data text.txt --seq-len 32 --steps 2 --batch 2
cat > t.json <<'JSON'
{"name": "t", "model": "p", "data": {"train": ["text.txt"], "eval": ["text.txt"], "seq_len": 32, "eval_tokens": 200},
 "stages": [{"train": {"steps": 2, "batch": 2}}, {"quantize": {"type": "Q8_0"}}, {"quantize": {"type": "Q4_0", "pure": true}}]}
JSON
quiet "$PDQ" run t.json -o t-run
[ "$(grep -o '"loss":[^,]*' t/run.jsonl)" = "$(grep -o '"loss":[^,]*' t-run/01-train/run.jsonl)" ] || fail "pdq train is not the stage train"
/usr/bin/python3 - <<'PYTHON' || fail "the report's rows of quantized files"
import json
rows = {r["name"]: r for r in json.load(open("t-run/report.json"))["rows"]}
error = {n: sum(t["relative_error"] for t in rows[n]["weight_errors"]) for n in ("Q8_0", "Q4_0")}
assert 0 < error["Q8_0"] < error["Q4_0"] and "weight_errors" not in rows["trained"], (error, list(rows))
for r in rows.values():
    assert r["bits_per_weight"] == 8 * r["bytes"] / r["parameters"] and ("gzip_bytes" in r) == (r["name"] != "trained"), r
assert abs(rows["Q4_0"]["ppl_ratio"] - rows["Q4_0"]["ppl"] / rows["parent"]["ppl"]) < 1e-9
PYTHON
grep -q '<h2>Weights in the file: Q4_0' t-run/report.html || fail "no weight errors on the page"
quiet "$PDQ" distill p --teacher m --alpha 0 -o alone --data text.txt --seq-len 32 --steps 2 --batch 2
"$PDQ" inspect alone --against t --json | grep '"relative_error"' | grep -vq '"relative_error": *0,*$' && fail "alpha 0 is not training on the text alone"
quiet "$PDQ" train p -o fresh --shape m --data text.txt --seq-len 32 --steps 2 --batch 2
"$PDQ" inspect fresh | grep -q 'FFN 128' || fail "train --shape"
refused 1 'recipes are for pdq run' "$PDQ" train t.json -o u --data text.txt --steps 2
quiet "$PDQ" quantize d -o d.gguf --type Q8_0
quiet "$PDQ" export d -o d-f16 --dtype f16
quiet "$PDQ" export d -o d-f16.gguf --dtype f16
refused 1 'no multiple of' "$PDQ" quantize m -o k.gguf --type Q4_K
absent k.gguf k.gguf.run
quiet "$PDQ" quantize m -o k.gguf --type Q4_K --allow-fallback
grep -q 'written as Q5_0' err.txt || fail "a fallback is not said"
for model in d d.gguf d-f16 d-f16.gguf k.gguf; do
    quiet "$PDQ" eval "$model" --data text.txt --seq-len 32 --tokens 40
    quiet "$PDQ" generate "$model" --prompt "1 sheep" --tokens 3
    quiet "$PDQ" inspect "$model"
done

# how far a file's weights lie from the model's, beside the same computed by NumPy in float64
quiet "$PDQ" export d.gguf -o d-f32 --dtype f32
"$PDQ" inspect d.gguf --against d --json > errors.json
/usr/bin/python3 - <<'PYTHON' || fail "weight errors"
import json, struct, sys
try:
    import numpy as np
except ImportError:
    sys.exit(0)

def read(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    return {name: np.frombuffer(raw[8 + n:][t["data_offsets"][0]:t["data_offsets"][1]], "<f4").astype(float)
            for name, t in json.loads(raw[8:8 + n]).items() if name != "__metadata__"}

w, q = read("d/model.safetensors"), read("d-f32/model.safetensors")
errors = json.load(open("errors.json"))["weight_errors"]
assert len(errors) == 15, len(errors) # 7 matrices in each of 2 layers, and the tied embedding
for e in errors:
    lost = w[e["name"]] - q[e["name"]]
    relative = np.linalg.norm(lost) / np.linalg.norm(w[e["name"]])
    # sums of float64 in another order
    assert abs(e["relative_error"] / relative - 1) < 1e-12 and e["largest_error"] == abs(lost).max() and e["bits"] == 8.5, e
PYTHON
refused 1 'of another shape than in' "$PDQ" inspect d.gguf --against m

: > empty.txt
printf 'a few words' > few.txt
refused 1 'tokens' "$PDQ" eval m --data empty.txt --seq-len 32
refused 1 'no such file|cannot' "$PDQ" eval m --data none.txt --seq-len 32
refused 1 '2 windows|two windows' "$PDQ" eval m --data few.txt --seq-len 64 --protocol llama.cpp
refused 1 'context' "$PDQ" eval m --data text.txt --seq-len 257
make_model other --vocab 400
refused 1 'vocabular' "$PDQ" eval m --data text.txt --seq-len 32 --against other
refused 1 'ids 0 to 299' "$PDQ" generate m --ids 5,300
refused 1 'separated by commas' "$PDQ" generate m --ids 5,x

# a disk that is too small (a made-up one, where the system lets us mount it)
mkdir small
if unshare -rm mount -t tmpfs -o size=64k none small 2> /dev/null; then
    refused 1 'writes about .* are free there' unshare -rm sh -c "mount -t tmpfs -o size=64k none small &&
        '$PDQ' export m -o small/x --dtype f32; code=\$?; [ -z \"\$(ls -A small)\" ] || echo 'left behind'; exit \$code"
fi

# a run's folder: this very run goes on, another needs --force, foreign folders are left alone
echo '{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 100},
 "stages": [{"prune": {"ffn": 0.5, "calibration_tokens": 64}}, {"quantize": {}}]} // a comment' > r.json
quiet "$PDQ" run r.json -o out
grep -q '^report: ' out.txt || fail "no report's path"
grep -q '^Q8_0 ' out.txt || fail "no row for Q8_0"
[ -s out/report.html ] && [ -s out/report.json ] || fail "no report"
quiet "$PDQ" run r.json -o out
grep -c 'done before' err.txt | grep -qx 2 || fail "finished stages are not skipped"
cp -r out before
refused 1 'another recipe or other options' "$PDQ" run r.json -o out --set seed=2
diff -r before out > /dev/null || fail "a refused run changed the folder"
quiet "$PDQ" run r.json -o out --set seed=2 --force
refused 1 'holds other things' "$PDQ" run r.json -o mine --force
refused 1 'a file is there' "$PDQ" run r.json -o text.txt
refused 1 'folder of a run, not a model' "$PDQ" inspect out
(flock 9; "$PDQ" run r.json -o out --set seed=2 > /dev/null 2> err.txt && fail "two runs in one folder"; exit $failed) 9>> out/.lock || failed=1
grep -q 'another pdq' err.txt || fail "no word of the other run: $(cat err.txt)"
exit $failed
