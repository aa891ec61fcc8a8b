#!/usr/bin/env bash
# The disk is full while a file is written (here: a file may not grow beyond some KiB, so that the forecast of room does not refuse first): one
# message with the file and the reason, nothing under its name, nothing beside it; with room the same command then does its work.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 100
cat > r.json <<'JSON'
{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 16, "eval_tokens": 64},
 "stages": [{"distill": {"teacher": "m", "steps": 4, "batch": 2, "snapshot_every": 2}}]}
JSON

# full KIB OUTPUT COMMAND...: refused with so much room for a file; fine with more
full() {
    local room=$1 output=$2 left
    shift 2
    (trap '' XFSZ; ulimit -f "$room"; "$@") > out.txt 2> err.txt
    [ $? = 1 ] || fail "$room KiB: not refused: $*: $(cat err.txt)"
    [ "$(grep -c 'File too large' err.txt)" = 1 ] && tail -1 err.txt | grep -q 'cannot write.*File too large' || fail "$room KiB: $*: $(cat err.txt)"
    absent "$output"
    left=$(find . -name '*.tmp-*')
    [ -z "$left" ] || fail "$*: left behind: $left"
    "$@" > out.txt 2> err.txt || fail "with room: $*: $(cat err.txt)"
    [ -e "$output" ] || fail "with room: no $output"
}
full 40 q.gguf "$PDQ" quantize m -o q.gguf --type Q8_0
full 40 gptq.gguf "$PDQ" quantize m -o gptq.gguf --type Q4_0 --method gptq --calibration text.txt --calibration-tokens 1000
full 40 ints "$PDQ" quantize m -o ints --type W8A8
full 100 exported "$PDQ" export m -o exported --dtype f16
full 100 exported.gguf "$PDQ" export m -o exported.gguf --dtype f16
full 2 c.imatrix "$PDQ" calibrate m --data text.txt --seq-len 16 --tokens 64 -o c.imatrix
full 2 plan.json "$PDQ" bits m --data text.txt --seq-len 16 --tokens 64 --types Q4_0 --types Q8_0 --target-bits 6 -o plan.json
full 800 out/01-distill/model.safetensors "$PDQ" run r.json -o out # a snapshot: weights and two moments
rm out/report.json out/report.html
full 2 out/report.json "$PDQ" run r.json -o out

# Text that is drawn (in documents of two tokens, so that it is larger than its ids) or chosen: what was written before the disk was full is gone on with, to the same bytes.
make_text long.txt 500
cat > sample.json <<'JSON'
{"model": "m", "data": {"eval": "text.txt", "seq_len": 16, "eval_tokens": 64},
 "stages": [{"sample": {"tokens": 8000, "length": 2, "batch": 500}}, {"distill": {"steps": 1, "batch": 2}}]}
JSON
cat > select.json <<'JSON'
{"model": "m", "data": {"train": "long.txt", "eval": "text.txt", "seq_len": 16, "eval_tokens": 64},
 "stages": [{"select": {"reference": "m", "keep": 0.5}}, {"distill": {"steps": 1, "batch": 2}}]}
JSON
# stage KIB FOLDER FILE: of the run in FOLDER, whose first stage is done again but for the files that come before this one
stage() {
    local folder=$2/01-$2
    if [ -e "$folder" ]; then rm -r "$folder/DONE" "$folder/$3" "$2/02-distill" "$2/report.json"; fi
    full "$1" "$folder/$3" "$PDQ" run "$2.json" -o "$2"
}
for name in sample select; do "$PDQ" run $name.json -o whole-$name > out.txt 2> err.txt || fail "$name: $(cat err.txt)"; done
stage 16 sample tokens
[ "$(stat -c %s sample/01-sample/tokens)" = 32000 ] || fail "tokens: $(ls -l sample/01-sample)"
stage 32 sample text.jsonl
stage 8 select scores
stage 32 select tokens
stage 8 select windows
for file in sample/01-sample/tokens sample/01-sample/text.jsonl select/01-select/scores select/01-select/tokens select/01-select/windows; do
    cmp whole-$file $file || fail "$file differs"
done
exit $failed
