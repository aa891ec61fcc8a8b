#!/usr/bin/env bash
# Windows where a large model is ahead of a small one: chosen from the command line, learned from, killed and gone on with; what cannot be is refused.
. "$(dirname "$0")/helpers.inc"
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model parent --dtype f32 --seed 2
make_model small --dtype f32 --layers 1 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16
make_model words --dtype f32 --vocab 310
make_text text.txt 200
cat > r.json <<'JSON'
{"model": "parent", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 100},
 "stages": [{"select": {"reference": "small", "keep": 0.25, "batch": 4}}, {"distill": {"shape": "small", "steps": 6, "batch": 2}}]}
JSON
"$PDQ" run r.json -o out > /dev/null 2> err.txt || fail "select: $(cat err.txt)"
fact() { grep -o "\"$2\": *[-0-9.e]*" "$1/01-select/DONE" | grep -o '[-0-9.e]*$'; }
windows=$(fact out windows) kept=$(fact out kept)
[ "$kept" = $(((windows + 2) / 4)) ] || fail "$kept of $windows windows"
[ "$(stat -c %s out/01-select/windows)" = $((8 * (2 * kept + 1))) ] || fail "the places of windows"
awk "BEGIN {exit !($(fact out difference_of_kept) > $(fact out difference))}" || fail "not the best windows are kept"

# begun scores are gone on with, whatever was on its way when it was killed; other threads, the same bytes
mkdir -p killed
cp -r out/. killed
rm -r killed/01-select/DONE killed/02-distill
head -c 44 out/01-select/scores > killed/01-select/scores.part
rm killed/01-select/scores
"$PDQ" run r.json -o killed --threads 2 > /dev/null 2> err.txt || fail "killed: $(cat err.txt)"
for file in 01-select/scores 01-select/tokens 01-select/windows 02-distill/model.safetensors; do cmp out/$file killed/$file || fail "killed: another $file"; done

# What is learned from is what was kept: with all of it kept, the order of the text's windows.
"$PDQ" run r.json -o all --set select.keep=1 > /dev/null 2> err.txt || fail "all: $(cat err.txt)"
"$PDQ" run r.json -o plain --set stages='[{"distill": {"shape": "small", "steps": 6, "batch": 2}}]' > /dev/null 2> err.txt || fail "plain: $(cat err.txt)"
cmp all/02-distill/run.jsonl plain/01-distill/run.jsonl || fail "all windows are not the text"
cmp -s out/02-distill/run.jsonl plain/01-distill/run.jsonl && fail "nothing was chosen"

bad() { refused 1 "$1" "$PDQ" run r.json -o bad "${@:2}"; }
bad '"reference" is missing' --set stages='[{"select": {}}]'
bad 'select.reference: a llama model with 310 vocabulary entries' --set select.reference=words
bad '"keep": found 0, expected a number' --set select.keep=0
bad 'absent' --set select.reference=absent
absent bad
head -c 12 out/01-select/windows > short && mv short out/01-select/windows && rm out/02-distill/DONE
refused 1 'windows: damaged' "$PDQ" run r.json -o out --log warn
exit $failed
