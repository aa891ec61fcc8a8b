#!/usr/bin/env bash
# Variants share what they begin with, are compared on the same tokens, and are not run twice; text that is not there is
# drawn from the model.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 100
cat > v.json <<'JSON'
{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 200}, "seeds": [1, 2],
 "stages": [{"prune": {"ffn": 0.5, "calibration_tokens": 64}}, {"distill": {"steps": 3, "batch": 2}}],
 "variants": [
   {"name": "ce", "set": {"distill.alpha": 0}},
   {"name": "kl", "set": {"distill.alpha": 1}, "versus": ["ce", "scratch"]},
   {"name": "scratch", "stages": [{"prune": {"ffn": 0.5, "calibration_tokens": 64}}, {"train": {"init": true, "steps": 3, "batch": 2}}]},
   {"name": "random", "seeds": [5], "stages": [{"prune": {"ffn": 0.5, "score": "random"}}]},
   {"name": "file", "seeds": [1], "versus": ["kl"], "stages": [{"quantize": {"type": "Q8_0"}}]}]}
JSON
"$PDQ" run v.json -o out > table 2> err || fail "$(cat err)"
grep -q '^kl - ce: ' table || fail "no comparison in: $(cat table)"
# 2 seeds x (prune, distill ce, distill kl, train) + 1 random + 1 file
[ "$(find out/stages -mindepth 1 -maxdepth 1 | wc -l)" = 10 ] || fail "stages: $(ls out/stages)"
python3 - <<'PY' || fail "the report's figures"
import array, json
report = json.load(open("out/report.json"))
variants = {v["name"]: v for v in report["variants"]}
def losses(name):
    sums = None
    for run in variants[name]["runs"]:
        stage = run["stages"][-1]["folder"]
        kind = run["rows"][-1]["name"].replace("_", "-")
        a = array.array("d", open(f"out/{stage}/losses-{kind}.f64", "rb").read())
        sums = [x + y for x, y in zip(sums, a)] if sums else list(a)
    return [x / len(variants[name]["runs"]) for x in sums]
for c in report["comparisons"]:
    a, b = losses(c["variant"]), losses(c["versus"])
    mean = sum(x - y for x, y in zip(a, b)) / len(a)
    assert abs(mean - c["difference"]) < 1e-9, c
    assert c["difference_low"] < mean < c["difference_high"], c
assert len(report["comparisons"]) == 3
assert abs(variants["ce"]["nll"] - sum(variants["ce"]["nll_by_seed"]) / 2) < 1e-9
PY
"$PDQ" run v.json -o out > table 2> err || fail "$(cat err)"
grep -Eq '^(train|distill|score) ' err && fail "a finished stage ran again"
sed 's/"scratch"\]/"nobody"]/' v.json > bad.json
refused 1 'no variant is named "nobody"' "$PDQ" run bad.json -o bad
cat > s.json <<'JSON'
{"model": "m", "data": {"train": "none.txt", "sample": {"documents": 16, "length": 24}, "seq_len": 24},
 "stages": [{"prune": {"ffn": 0.5, "calibration_tokens": 64}}, {"distill": {"steps": 2, "batch": 2}}]}
JSON
# What all variants share is no variant's own, and no sweep's: it would be ignored. The reason and the advice are the key's own.
shared() { # KEY VALUE PATTERN
    sed "s|\"distill.alpha\": 0}|\"$1\": $2}|" v.json > bad.json
    refused 1 "variant \"ce\": \"$1\" cannot be varied: $3" "$PDQ" run bad.json -o bad
    refused 2 "vary: \"$1\" cannot be varied: $3" "$PDQ" sweep s.json --vary "$1=$2" -o bad
}
shared data.seq_len 16 '.* the same texts; run the recipe once for each value, given by --set'
shared data.train '"v.json"' '.* the same texts; run'
shared data.sample.length 8 '.* the same texts; run'
shared data '"images"' '.* the same texts; run'
shared model '"m2"' '.* the same model; run the recipe once for each value, given by --set'
shared name '"other"' 'it names the whole run; a variant has a "name" beside its "set", .*: leave it out'
shared output '"other"' '.* in one output folder, which -o names: leave it out'
shared seeds '[5]' '.*a variant may have a list of its own beside its "set", a sweep takes --seeds N or --vary seed=1,2,3'
shared variants '[]' '.*add to the recipe.s list what is to be compared'
sed 's|"distill.alpha": 0}|"seed": 3}|' v.json > bad.json
refused 1 'variant "ce": "seed": .*give it "seeds": \[N\]' "$PDQ" run bad.json -o bad
# Seeds that are none, a variant's and the recipe's: refused once, also where only a forecast is wanted.
for seeds in '[-1]' '[1, 0.5]' '["one"]' '[]' '3'; do
    sed "s|\"seeds\": \[5\]|\"seeds\": $seeds|" v.json > bad.json
    refused 1 '"seeds": expected .*whole numbers' "$PDQ" run bad.json --dry-run
    sed "s|\"seeds\": \[1, 2\]|\"seeds\": $seeds|" v.json > bad.json
    refused 1 '"seeds": expected .*whole numbers' "$PDQ" run bad.json -o bad
done
for set in '["distill.alpha=0"]' 5; do
    sed "s|{\"distill.alpha\": 0}|$set|" v.json > bad.json
    refused 1 '"set": expected an object of keys and values' "$PDQ" run bad.json -o bad
done
absent bad

"$PDQ" run s.json -o drawn > table 2> err || fail "$(cat err)"
grep -q '"drawn_from_parent": *true' drawn/report.json || fail "the report does not say that the text was drawn"
cp drawn/report.json first.json
rm -rf drawn
"$PDQ" run s.json -o drawn --threads 2 > table 2> err || fail "$(cat err)"
python3 -c 'import json; a, b = (json.load(open(p)) for p in ("first.json", "drawn/report.json")); del a["measured"], b["measured"]; assert a == b' ||
    fail "drawing again gives another run"
exit $failed
