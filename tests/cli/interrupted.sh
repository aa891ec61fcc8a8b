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

caught='^pdq [0-9]' # from this line on a command catches ^C; before it a shell's child ignores it
# strike SIGNAL LINE WAIT COMMAND...: the signal, so many seconds after the command has written such a line, on however slow a machine; $code: how it ended
strike() {
    local signal=$1 line=$2 wait=$3 child
    shift 3
    : > err.txt # here: the child may be late to do so, and the line of the command before would be found
    "$@" > out.txt 2> err.txt &
    child=$!
    while kill -0 $child 2> /dev/null && ! grep -q "$line" err.txt; do sleep 0.01; done
    sleep "$wait"
    kill -"$signal" $child 2> /dev/null
    wait $child 2> /dev/null
    code=$?
}
# struck SIGNAL LINE OUTPUT COMMAND...: at work. A command that was ready before (exit 0) has its output removed and gets the signal sooner.
struck() {
    local signal=$1 line=$2 output=$3 wait
    shift 3
    for wait in "0.$((RANDOM % 5))" 0.1 0; do
        strike "$signal" "$line" "$wait" "$@"
        [ $code = 0 ] || return 0
        rm -rf "${output%/report.json}"
    done
    fail "too quick for SIG$signal: $*"
    return 1
}
# stopped OUTPUT COMMAND...
stopped() {
    local output=$1 left
    shift
    struck INT "$caught" "$output" "$@" || return
    [ $code = 1 ] && [ "$(grep -c 'interrupted.*run the same command again' err.txt)" = 1 ] || fail "^C: exit $code of $*: $(cat err.txt)"
    absent "$output"
    struck KILL "$caught" "$output" "$@" || return
    [ $code = 137 ] || fail "kill -9: exit $code of $*: $(cat err.txt)"
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
    struck INT '^\[1/1\]' "$1/report.json" "$PDQ" run "$1.json" -o "$1" || return
    [ $code = 1 ] && grep -q 'interrupted; what was going on is not kept; run the same command again' err.txt || fail "^C: exit $code of $1: $(cat err.txt)"
    absent "$1/report.json"
}
calibration='"calibration_tokens": 10000000'
for score in taylor wanda slimming; do passes $score "{\"prune\": {\"ffn\": 0.5, \"score\": \"$score\", \"guards\": false, $calibration}}"; done
passes gradient "{\"sparsify\": {\"sparsity\": 0.5, \"score\": \"gradient\", $calibration}}"
exit $failed
