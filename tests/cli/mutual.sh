#!/usr/bin/env bash
# Students that teach each other, from the command line: all are saved, one goes on; what cannot be is refused. Killed and gone on with: resume_schemes.sh.
. "$(dirname "$0")/helpers.inc"
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model parent --dtype f32 --seed 2
make_model small --dtype f32 --layers 1 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16
make_model other --dtype f32 --layers 1 --seed 3
make_model words --dtype f32 --vocab 310
make_text text.txt 200
cat > r.json <<'JSON'
{"model": "parent", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 100},
 "stages": [{"prune": {"ffn": 0.5, "score": "magnitude"}},
            {"distill": {"steps": 24, "batch": 2, "eval_every": 12, "students": [{"shape": "small"}, {"model": "other"}]}},
            {"export": {"format": "hf"}}]}
JSON
"$PDQ" run r.json -o out > /dev/null 2> err.txt || fail "three students: $(cat err.txt)"
for name in ce_1 kl_1 ce_3 kl_3 held_out held_out_2 held_out_3; do
    grep -q "\"$name\":[0-9]" out/02-distill/run.jsonl || fail "no $name in the log"
done
for part in . student-2 student-3; do [ -s out/02-distill/$part/model.safetensors ] || fail "student $part is not there"; done
grep -q '"name": *"student-3"' out/report.json || fail "no row of student 3"

# Fresh students of one shape begin differently, and the best of them goes on: its held-out loss is the least.
cat > fresh.json <<'JSON'
{"model": "parent", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 24, "eval_tokens": 200},
 "stages": [{"distill": {"shape": "small", "steps": 12, "batch": 2, "eval_every": 12, "go_on": "best", "students": [{"shape": "small"}, {"shape": "small"}]}}]}
JSON
"$PDQ" run fresh.json -o fresh > /dev/null 2> err.txt || fail "fresh: $(cat err.txt)"
best=$(grep -o '"goes_on": *[0-9]' fresh/01-distill/DONE | grep -o '[0-9]')
least=$(grep '"held_out"' fresh/01-distill/run.jsonl | tail -1 | grep -o '"held_out[_0-9]*":[0-9.]*' | tr ':' ' ' | sort -g -k2 | head -1 | grep -o '_[0-9]' | tr -d _)
[ "${best:-none}" = "${least:-1}" ] || fail "student ${best:-none} goes on, ${least:-1} is the best"

# One that learns alone is the first of two with alpha 0: what others say does not reach it.
set0=(--set distill.alpha=0 --set distill.go_on=first)
"$PDQ" run fresh.json -o two "${set0[@]}" > /dev/null 2> err.txt || fail "two: $(cat err.txt)"
"$PDQ" run fresh.json -o alone "${set0[@]}" --set distill.students=null > /dev/null 2> err.txt || fail "alone: $(cat err.txt)"
cmp two/01-distill/losses-distilled.f64 alone/01-distill/losses-distilled.f64 || fail "with alpha 0 another student changes the first"

bad() { refused 1 "$1" "$PDQ" run r.json -o bad "${@:2}"; }
bad 'students: expected a list of 1 to 7 students' --set distill.students='[]'
bad 'students\[0\]: found both, expected one of "shape"' --set distill.students='[{"shape":"small","model":"other"}]'
bad 'students\[0\]: found neither' --set distill.students='[{}]'
bad 'students\[0\]: unknown key "shpe"' --set distill.students='[{"shpe":"small"}]'
bad 'distill.teacher: does not go with "students"' --set distill.teacher=other
bad 'distill.keep_best: does not go with "students"' --set distill.keep_best=true
bad 'vocabulary has 310 entries|vocabulary has 300 entries' --set distill.students='[{"model":"words"}]'
bad 'student 2 has another than student 1' --set distill.go_on=best
bad 'absent' --set distill.students='[{"model":"absent"}]'
bad '"go_on" chooses among several students' --set distill.go_on=best --set distill.students=null
absent bad
"$PDQ" run fresh.json -o same --set distill.students='[{"shape":"small","seed":1}]' > /dev/null 2> err.txt && fail "two students that begin alike"
grep -q 'students 1 and 2 begin with the same weights' err.txt || fail "two students that begin alike: $(cat err.txt)"
exit $failed
