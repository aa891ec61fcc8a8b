#!/usr/bin/env bash
# A distillation from a file of the teacher's answers: made once, grown, used again, killed and gone on with; refused where it belongs to
# something else or is damaged.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_model teacher --dtype f32
make_model other --dtype f32 --seed 7
make_model student --dtype f32 --layers 1
make_text text.txt 300
make_text text2.txt 310
cat > r.json <<'JSON'
{"model": "student", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 200},
 "stages": [{"distill": {"teacher": "teacher", "steps": 40, "batch": 2, "teacher_cache": "t.cache"}}]}
JSON
run() { # OUT [OPTIONS]
    local out=$1
    shift
    "$PDQ" run r.json -o "$out" "$@" > /dev/null 2> err.txt || { fail "$out: $(cat err.txt)"; return 1; }
}
same_weights() { # the file's end: its beginning says from which options it came
    cmp <(tail -c 200000 "$1/01-distill/model.safetensors") <(tail -c 200000 "$2/01-distill/model.safetensors") &&
        cmp "$1/01-distill/run.jsonl" "$2/01-distill/run.jsonl"
}
asked() { grep -o 'asked about [0-9]* windows' err.txt; }

run made && [ "$(asked)" = "asked about 80 windows" ] || fail "made: $(cat err.txt)"
grep -q 'bytes_per_token' made/report.json || fail "no bytes a token in the report"
zcat t.cache | head -1 | grep -q '"pdq_teacher_cache":2,.*"top_k":32,"tail_draws":64' || fail "zcat does not show what it belongs to"
cp t.cache first.cache
run again --set distill.alpha=1 && [ -z "$(asked)" ] || fail "asked again: $(cat err.txt)"
cmp t.cache first.cache || fail "changed without need"
run seed2 --set seed=2 && [[ $(asked) =~ about\ [1-7][0-9]\ windows ]] || fail "seed 2: $(cat err.txt)"
run seed2b --set seed=2 --threads 2 && [ -z "$(asked)" ] || fail "seed 2 again: $(cat err.txt)"
same_weights seed2 seed2b || fail "two threads give another model"
run made2 && [ -z "$(asked)" ] || fail "grown, it lacks: $(cat err.txt)"
same_weights made made2 || fail "grown, it teaches something else"
run auto --set distill.teacher_cache=auto && cmp auto/teacher-*.cache first.cache || fail "auto: $(ls auto) $(cat err.txt)"
same_weights made auto || fail "in another place it teaches something else"

# killed at random moments while it is made and used; also before its folder had a recipe
mkdir killed && touch killed/.lock killed/recipe.json.tmp-999999
cached=(--set distill.teacher_cache=killed.cache --set distill.snapshot_every=4)
run_killed 5 anytime r.json killed 10 "${cached[@]}"
rm -r killed/01-distill # and while it learns from what is there
run_killed 6 begun r.json killed 3 "${cached[@]}"
cmp killed.cache first.cache || fail "killed: another file"
same_weights made killed || fail "killed: another model"
absent killed.cache.part

# no PATTERN OPTIONS...: the run fails with one message that matches, and leaves no model
no() {
    local pattern=$1
    shift
    "$PDQ" run r.json -o refused --force "$@" > /dev/null 2> err.txt
    [ $? = 1 ] || fail "not refused: $*: $(cat err.txt)"
    grep -v '^pdq [0-9]\|^\[1/1\]\|^eval \|^parent\|replaced (--force)\|asked about' err.txt > messages.txt
    [ "$(wc -l < messages.txt)" = 1 ] || fail "not one message: $(cat err.txt)"
    grep -Eq -- "$pattern" messages.txt || fail "no \"$pattern\" in: $(cat messages.txt)"
    absent refused/01-distill/model.safetensors
}
no 't.cache: this teacher cache is of another teacher: found "[0-9a-f]*", expected' --set distill.teacher=other
no 'of another text \(data.train\)' --set data.train=text2.txt
no 'of another order of windows \(data.seq_len\): found 32, expected 16' --set data.seq_len=16
no 'number of entries \(top_k\): found 32, expected 8' --set distill.top_k=8
no 'number of draws \(tail_draws\): found 64, expected 8' --set distill.tail_draws=8
no 'of another temperature: found 2, expected 1' --set distill.temperature=1
head -c 4000 first.cache > t.cache
no 't.cache: this teacher cache is damaged or cut off'
printf 'nothing of the kind' > t.cache
no 't.cache: found no teacher cache'
cp first.cache t.cache
printf 'XXXX' | dd of=t.cache bs=1 seek=3000 conv=notrunc 2> /dev/null
no 't.cache: this teacher cache is damaged in window [0-9]*, at byte [0-9]*'
cp first.cache t.cache
no '"hidden" needs more of the teacher than its answers' --set distill.hidden=1
no 'divergence "js" needs the teacher.s probability of every token' --set distill.divergence=js
no '"temperature_rule" changes the temperature' --set distill.temperature_rule=falling
no 'top_k.*from 1' --set distill.top_k=0
# the disk is full: here, a file may not grow beyond 80 KiB
(trap '' XFSZ; ulimit -f 80; no 'full.cache: cannot write .*File too large' --set distill.teacher_cache=full.cache; exit $failed) || failed=1
absent full.cache
# the same tokens from another tokenizer: its name of a token differs
python3 - <<'PY' || exit 77
import json
t = json.load(open("student/tokenizer.json"))
unused = [k for k in t["model"]["vocab"] if len(k) > 2][-1]
text = open("student/tokenizer.json").read()
open("student/tokenizer.json", "w").write(text.replace(json.dumps(unused), json.dumps(unused + unused)))
PY
no 'of another tokenizer: found "[0-9a-f]*", expected'

# the command, too
"$PDQ" distill student --teacher teacher --data text.txt --seq-len 32 --steps 40 --batch 2 --teacher-cache cmd.cache -o out > /dev/null 2> err.txt || fail "pdq distill: $(cat err.txt)"
[ -s cmd.cache ] || fail "pdq distill made no file"
exit $failed
