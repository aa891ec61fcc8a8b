#!/usr/bin/env bash
# Killed at random moments and run again, a run ends with the same bytes as one that was left alone, at another number of threads.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 300
cat > r.json <<'JSON'
{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 200},
 "stages": [
   {"prune": {"heads": 0.5, "ffn": 0.5, "steps": 2, "calibration_tokens": 128, "recover": {"steps": 20, "batch": 2, "snapshot_every": 3}}},
   {"distill": {"steps": 40, "batch": 2, "snapshot_every": 5, "eval_every": 10, "keep_best": true}},
   {"distill": {"steps": 20, "batch": 2, "snapshot_every": 3, "ema": 0.9, "fgm": 0.1, "freeze": ["*embed*", "layers.0.*"], "rates": {"*norm*": 0.1}}},
   {"train": {"steps": 20, "batch": 2, "snapshot_every": 3, "ema": 0.9, "lora": {"rank": 2, "targets": "*proj*"}}},
   {"quantize": {"type": "Q8_0"}}, {"export": {}}]}
JSON
"$PDQ" run r.json -o alone > /dev/null 2> err.txt || { cat err.txt; exit 1; }
run_killed 7 anytime r.json killed 16
(cd alone && find . \( -name '*.safetensors' -o -name '*.gguf' -o -name run.jsonl -o -name config.json -o -name '*.f64' \)) | while read -r file; do
    cmp "alone/$file" "killed/$file" || echo differs >> differs
done
[ ! -e differs ] || fail "files differ"
python3 - <<'PY' || fail "report.json differs outside measured"
import json
a, b = (json.load(open(d + "/report.json")) for d in ("alone", "killed"))
for r in (a, b):
    del r["measured"]
assert a == b
PY
left=$(find killed -name 'snapshot' -o -name '*.tmp-*')
[ -z "$left" ] || fail "left behind: $left"

# ^C leaves a snapshot, says how to go on, and exits with 1
: > err.txt # before the child does: the line below is in the last run's, too
"$PDQ" run r.json -o stopped --set 'stages[1].distill.steps=100000' > /dev/null 2> err.txt &
child=$!
while kill -0 $child 2> /dev/null && ! grep -q '\[2/6\]' err.txt; do sleep 0.05; done
refused 1 'another pdq works in this folder' "$PDQ" run r.json -o stopped --set 'stages[1].distill.steps=100000'
kill -0 $child 2> /dev/null || fail "the folder's lock does not leave the first run alone: $(tail -1 err.txt)"
sleep 0.5
kill -INT $child
wait $child
code=$?
[ $code = 1 ] || fail "interrupted: exit $code"
grep -q 'run the same command again' err.txt || fail "interrupted: $(tail -1 err.txt)"

# Two that begin at once in a folder which neither has found: one gets the lock, and the other one removes nothing.
for _ in 1 2 3 4 5; do
    for k in 1 2; do "$PDQ" prune m -o both --ffn 0.5 --score l2 --threads 1 > /dev/null 2> "err$k.txt" & done
    wait
    [ -e both/config.json ] && [ -e both/model.safetensors ] || fail "two at once: $(cat err1.txt err2.txt)"
    rm -rf both both.run
done
exit $failed
