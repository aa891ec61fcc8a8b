#!/usr/bin/env bash
# The whole way at a small copy of SmolLM2's shape: grouped heads that no power of two divides, a tied bf16 checkpoint
# in three shards, a byte-level tokenizer. One run of a recipe, then its GGUF file against its folder.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
"$PDQ_MAKE" --output m --layers 4 --hidden 96 --heads 9 --kv-heads 3 --head-dim 32 --ffn 256 --vocab 2000 \
    --context 512 --shards 3 --tokenizer bytelevel --split smollm --dtype bf16 > /dev/null || exit 1
[ "$(ls m/*.safetensors | wc -l)" = 3 ] || fail "three shards were asked for"
"$PDQ" inspect m > inspect.txt || fail "inspect"
grep -q '9 query and 3 key/value heads of 32, FFN 256' inspect.txt || fail "shape: $(cat inspect.txt)"
make_text train.txt 300
make_text eval.txt 60
cat > recipe.json <<'R'
{
  "name": "smol", "model": "m",
  "data": {"train": ["train.txt"], "eval": ["eval.txt"], "seq_len": 64, "eval_tokens": 500},
  "stages": [
    {"prune": {"heads": 0.333, "ffn": 0.5, "calibration_tokens": 256}},
    {"distill": {"steps": 3, "batch": 2}},
    {"quantize": {"type": "Q8_0"}}
  ]
}
R
"$PDQ" run recipe.json -o out > run.txt 2> err.txt || fail "run: $(cat err.txt)"
gguf=out/03-quantize/smol-Q8_0.gguf
"$PDQ" inspect out/02-distill | grep -q '6 query and 2 key/value heads of 32, FFN 128' || fail "pruned shape"

nll() {
    "$PDQ" eval "$1" --data eval.txt --seq-len 64 --tokens 500 --json 2> err.txt |
        sed -n 's/.*"nll": *\([0-9.]*\).*/\1/p'
}
folder_nll=$(nll out/02-distill) file_nll=$(nll "$gguf")
awk -v a="$folder_nll" -v b="$file_nll" 'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 0.005 && d > -0.005) }' ||
    fail "loss of the folder $folder_nll, of the GGUF file $file_nll"
"$PDQ" tokenize m --file eval.txt > ids_folder.txt 2> err.txt || fail "tokenize: $(cat err.txt)"
"$PDQ" tokenize "$gguf" --file eval.txt > ids_file.txt 2> err.txt || fail "tokenize: $(cat err.txt)"
cmp -s ids_folder.txt ids_file.txt || fail "the GGUF file's tokenizer gives other ids"

exit $failed
