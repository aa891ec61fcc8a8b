#!/usr/bin/env bash
# Several teachers from the command line: the mean of their answers, features of each; what cannot be is refused. Killed and gone on with: resume_schemes.sh.
. "$(dirname "$0")/helpers.inc"
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model one --dtype f32 --seed 2
make_model two --dtype f32 --layers 3 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16 --seed 3
make_model student --dtype f32 --layers 1
make_model words --dtype f32 --vocab 310
make_text text.txt 200
cat > r.json <<'JSON'
{"model": "student", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 100},
 "stages": [{"distill": {"teacher": ["one", "two"], "teacher_weights": [3, 1], "steps": 24, "batch": 2, "divergence": {"kl": 1, "js": 0.5},
   "features": [{"loss": "hidden_mse", "weight": 0.1}, {"loss": "hidden_mse", "weight": 0.1, "teacher": 1}, {"loss": "cka", "teacher": 1}]}}]}
JSON
"$PDQ" run r.json -o out > /dev/null 2> err.txt || fail "two teachers: $(cat err.txt)"
grep -q '"hidden_mse_2":[0-9.e-]*,"cka":' out/01-distill/run.jsonl || fail "not both teachers' features: $(head -1 out/01-distill/run.jsonl)"

# The order of paths and weights together does not matter to the mean; what the weights are does.
first_kl() { head -1 "$1/01-distill/run.jsonl" | grep -o '"kl":[0-9.]\{6\}'; }
plain=(--set distill.features=[] --set distill.divergence=kl --set distill.steps=4)
"$PDQ" run r.json -o a "${plain[@]}" > /dev/null 2> err.txt || fail "a: $(cat err.txt)"
"$PDQ" run r.json -o b "${plain[@]}" --set distill.teacher='["two","one"]' --set distill.teacher_weights='[0.25,0.75]' > /dev/null 2> err.txt || fail "b: $(cat err.txt)"
"$PDQ" run r.json -o c "${plain[@]}" --set distill.teacher_weights='[1,3]' > /dev/null 2> err.txt || fail "c: $(cat err.txt)"
[ "$(first_kl a)" = "$(first_kl b)" ] || fail "the order matters: $(first_kl a) $(first_kl b)"
[ "$(first_kl a)" != "$(first_kl c)" ] || fail "the weights do not matter: $(first_kl a)"

# from the command's flags
"$PDQ" distill student --teacher one --teacher two --data text.txt --seq-len 24 --steps 4 --batch 2 -o flags > /dev/null 2> err.txt || fail "flags: $(cat err.txt)"

# A chain through an assistant: with "shape" a stage's teacher is its input.
make_model half --dtype f32 --layers 2 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16
cat > chain.json <<'JSON'
{"model": "two", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 100},
 "stages": [{"distill": {"shape": "half", "steps": 8, "batch": 2, "alpha": 1, "temperature": 1}},
            {"distill": {"shape": "student", "steps": 8, "batch": 2, "alpha": 1, "temperature": 1}}]}
JSON
"$PDQ" run chain.json -o chain > /dev/null 2> err.txt || fail "the chain: $(cat err.txt)"
"$PDQ" run chain.json -o alone --set model=chain/01-distill --set stages='[{"distill":{"shape":"student","steps":8,"batch":2,"alpha":1,"temperature":1}}]' \
    > /dev/null 2> err.txt || fail "the second stage alone: $(cat err.txt)"
cmp chain/02-distill/run.jsonl alone/01-distill/run.jsonl || fail "the second stage of a chain is not taught by the first one's model"

bad() { refused 1 "$1" "$PDQ" run r.json -o bad "${@:2}"; }
bad 'teacher_weights: expected a list of 2 numbers' --set distill.teacher_weights='[1]'
bad 'teacher_weights\[1\]: expected a number above 0' --set distill.teacher_weights='[1,0]'
bad 'teacher 1 \(from 0\).*vocabulary has 310 entries' --set distill.teacher='["one","words"]'
bad 'of several teachers "mse" takes the mean of the logits and "kl" that of the probabilities' --set distill.divergence='{"kl":1,"mse":1}'
bad 'features\[1\].teacher: found 1, expected 0' --set distill.teacher=one --set distill.teacher_weights=null
bad 'names 2 models, and a teacher cache holds the answers of one' --set distill.teacher_cache=auto --set distill.features=null --set distill.divergence=null
bad 'absent' --set distill.teacher='["one","absent"]'
absent bad
exit $failed
