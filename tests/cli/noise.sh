#!/usr/bin/env bash
# Noise in the inputs of a language model: the same bytes at any number of threads, other ones than without; with a teacher and with its answers on disk;
# refused where it is not for the model or leaves nothing.
. "$(dirname "$0")/helpers.inc"
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model teacher --dtype f32
make_model student --dtype f32 --layers 1
make_text text.txt 200
cat > r.json <<'JSON'
{"model": "student", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 100},
 "stages": [{"distill": {"teacher": "teacher", "steps": 8, "batch": 2, "hide_tokens": 0.1, "replace_tokens": 0.1, "features": [{"loss": "hidden_mse"}]}}]}
JSON
run() { # OUT OPTIONS...
    "$PDQ" run r.json -o "$@" > /dev/null 2> err.txt || fail "$1: $(cat err.txt)"
}
run one
run two --threads 2
run clean --set distill.hide_tokens=0 --set distill.replace_tokens=0
run cached --set distill.teacher_cache=auto --set distill.features=null
cmp one/01-distill/model.safetensors two/01-distill/model.safetensors || fail "two threads give another model"
cmp one/01-distill/run.jsonl two/01-distill/run.jsonl || fail "two threads give another log"
cmp -s one/01-distill/run.jsonl clean/01-distill/run.jsonl && fail "noise changes nothing"
refused 1 'leave nothing of the text; expected a sum below 1' "$PDQ" run r.json -o bad --set distill.hide_tokens=0.9
refused 1 '"hide_tokens": .*0 to 0.99' "$PDQ" run r.json -o bad --set distill.hide_tokens=1.5
make_classifier small 1 16 4
make_table train.tsv 1
cat > classes.json <<'JSON'
{"model": "small", "data": {"train": ["train.tsv"], "eval": ["train.tsv"], "seq_len": 24}, "stages": [{"train": {"init": true, "steps": 1, "hide_tokens": 0.1}}]}
JSON
refused 1 '"hide_tokens" and "replace_tokens" change the text that a language model reads; this is a bert model' "$PDQ" run classes.json -o bad
absent bad
exit $failed
