#!/usr/bin/env bash
# ^C and kill -9 while commands and stages work: ^C is answered soon, with one message and exit code 1; nothing half done lies under a final name;
# the same command then does its work and leaves nothing else behind.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_model m --dtype f32
make_model small --dtype f32 --layers 1 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16
make_text text.txt 4000
make_text some.txt 600
stages() { # NAME STAGES: NAME.json
    printf '{"model": "m", "data": {"train": "some.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 64}, "stages": [%s]}' "$2" > "$1.json"
}
stages select '{"select": {"reference": "small", "batch": 4}}'
stages sample '{"sample": {"tokens": 40000, "batch": 8}}'
stages prune '{"prune": {"ffn": 0.5, "steps": 2, "calibration_tokens": 20000, "recover": {"steps": 200, "batch": 4, "snapshot_every": 5}}}'

caught='^pdq [0-9]' # from this line on a command catches ^C
begun() { # LINE COMMAND...: at work, and has written such a line; its number in $child
    local line=$1
    shift
    "$@" > out.txt 2> err.txt &
    child=$!
    for _ in $(seq 200); do grep -q "$line" err.txt && break; sleep 0.02; done
    sleep "0.$((RANDOM % 5))"
}
# stopped OUTPUT COMMAND...
stopped() {
    local output=$1 code left
    shift
    begun "$caught" "$@"
    kill -INT $child 2> /dev/null || fail "too quick to be stopped: $*"
    wait $child
    code=$?
    [ $code = 1 ] && [ "$(grep -c 'interrupted.*run the same command again' err.txt)" = 1 ] || fail "^C: exit $code of $*: $(cat err.txt)"
    absent "$output"
    begun "$caught" "$@"
    kill -9 $child 2> /dev/null || fail "too quick to be killed: $*"
    wait $child 2> /dev/null
    absent "$output"
    "$@" > out.txt 2> err.txt || fail "again: $*: $(cat err.txt)"
    [ -e "$output" ] || fail "again: no $output"
    left=$(find . -name '*.tmp-*' -o -name '*.part' -o -name snapshot -o -name '*.run')
    [ -z "$left" ] || fail "$*: left behind: $left"
}
RANDOM=3
text=(--data text.txt --seq-len 32)
stopped q.gguf "$PDQ" quantize m -o q.gguf --type Q4_0 --method gptq --calibration text.txt --calibration-tokens 60000
stopped ints "$PDQ" quantize m -o ints --type W4A16 --group-size 32 --method gptq --calibration text.txt --calibration-tokens 60000
stopped c.imatrix "$PDQ" calibrate m "${text[@]}" --tokens 60000 -o c.imatrix
stopped plan.json "$PDQ" bits m "${text[@]}" --tokens 8000 --types Q4_0 --types Q8_0 --target-bits 6 -o plan.json
for stage in select sample prune; do stopped $stage/report.json "$PDQ" run $stage.json -o $stage; done

# Passes over a calibration text, of minutes: the answer comes between two batches, not when the stage has ended (which says other words).
passes() { # NAME STAGE
    stages "$1" "$2"
    begun '^\[1/1\]' "$PDQ" run "$1.json" -o "$1"
    kill -INT $child 2> /dev/null || fail "too quick to be stopped: $1: $(cat err.txt)"
    wait $child
    [ $? = 1 ] && grep -q 'interrupted; what was going on is not kept; run the same command again' err.txt || fail "^C: $1: $(cat err.txt)"
    absent "$1/report.json"
}
calibration='"calibration_tokens": 10000000'
for score in taylor wanda slimming; do passes $score "{\"prune\": {\"ffn\": 0.5, \"score\": \"$score\", \"guards\": false, $calibration}}"; done
passes gradient "{\"sparsify\": {\"sparsity\": 0.5, \"score\": \"gradient\", $calibration}}"
exit $failed
