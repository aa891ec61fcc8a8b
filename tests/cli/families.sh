#!/usr/bin/env bash
# The relatives of Llama (Qwen3, Gemma 2, MiniCPM, Granite, windows in some layers) through the program: whole, with fewer heads and
# channels, fewer layers, fewer hidden channels, distilled, as GGUF and back; tests/ref/read_hf.py must find the same losses and, with
# cached keys, the same greedy continuation behind the windows' ends. What cannot be written is refused by name.
. "$(dirname "$0")/helpers.inc"
python=/usr/bin/python3 # Debian's, which has python3-torch
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
$python -c 'import torch, numpy' 2> /dev/null || { echo "skipped: $python has no torch (apt-get install python3-torch)"; exit 77; }
ref=$PDQ_SOURCE_DIR/tests/ref
cd "$work" || exit 1
for i in 1 2 3 4 5 6; do echo "$i. The cat and the dog went in; then the rain began, and nothing in the house was dry."; done > text.txt

run() { "$PDQ" "$@" --log warn > out.txt 2> err.txt || fail "pdq $*: $(cat err.txt)"; }
nll() { "$PDQ" eval "$1" --data text.txt --seq-len 48 --json 2> err.txt | sed 's/.*"nll":\([0-9.]*\).*/\1/'; }
near() { awk -v a="$2" -v b="$3" 'BEGIN { exit !(b > 0 && a / b < 1.00001 && a / b > 0.99999) }' || fail "$1: $2 and $3: $(cat err.txt)"; }
agrees() { # name folder: remembers pdq's loss and continuation, to be compared with the reader's
    mv "$2" "$2.kept" && kept+=("$2.kept") && said+=("$1")
    ours+=("$(nll "$2.kept") $("$PDQ" generate "$2.kept" --ids "$(cut -d, -f1-48 ids)" --tokens 8 --json 2> err.txt | tr -d ' ' |
        sed 's/.*"ids":\[\([^]]*\)\].*/\1/')")
    ln -s "$2.kept" "$2"
}
compare() { # all that agrees() remembered, in one start of the reader
    local i theirs
    $python "$ref/read_hf.py" "${kept[@]}" --ids @ids --seq-len 48 --greedy 8 | tr -d ' ' > theirs.txt || fail "the reader refuses one of ${said[*]}"
    for i in "${!kept[@]}"; do
        theirs=$(sed -n "$((i + 1))p" theirs.txt)
        near "${said[i]}, pdq and the reader" "${ours[i]% *}" "$(echo "$theirs" | sed 's/.*"nll":\([0-9.]*\).*/\1/')"
        [ "${ours[i]#* }" = "$(echo "$theirs" | sed 's/.*"greedy":\[\([^]]*\)\].*/\1/')" ] || fail "${said[i]}: generated ${ours[i]#* }, the reader $theirs"
    done
}
data_of() { $python -c 'import sys
f = open(sys.argv[1] + "/model.safetensors", "rb").read()
sys.stdout.buffer.write(f[8 + int.from_bytes(f[:8], "little"):])' "$1"; }

for name in qwen3 windows gemma2 minicpm granite; do
    rm -rf ./*.d ./*.kept m.gguf
    kept=() said=() ours=()
    $python "$ref/make_model.py" $name m.d num_hidden_layers=4 query_pre_attn_scalar=16 attention_bias=false || exit 1
    "$PDQ" tokenize m.d --file text.txt | tr -d ' \n' > ids
    agrees "$name" m.d
    run export m.d -o copy.d --dtype f32
    cmp -s <(data_of m.d) <(data_of copy.d) || fail "$name: the exported tensors differ"
    agrees "$name, exported" copy.d
    run prune m.d -o taylor.d --heads 0.5 --ffn 0.5 --score taylor --align 32 --data text.txt --seq-len 32 --calibration-tokens 128 --no-guards # made-up weights: no score means much
    agrees "$name, half of heads and channels" taylor.d
    "$PDQ" inspect taylor.d | grep -q '2 query and 1 key/value heads of 16, FFN 64' || fail "$name: pruned shape"
    for seed in 1 2 3 4 5 6; do # until a layer within has gone, so that Gemma's windows no longer take turns
        run prune m.d -o layers.d --layers 0.25 --depth-score random --seed $seed --data text.txt --seq-len 32 --calibration-tokens 128 --force
        [ $name = gemma2 ] && ! grep -q layer_types layers.d/config.json || break
    done
    agrees "$name, fewer layers" layers.d
    run distill taylor.d --teacher m.d -o student.d --data text.txt --seq-len 32 --steps 3 --batch 2
    agrees "$name, distilled" student.d
    if [ $name = gemma2 ]; then
        refused 1 'embeddings are multiplied by the root of the hidden size' "$PDQ" prune m.d -o x.d --hidden 0.5 --data text.txt --seq-len 32
        grep -q layer_types layers.d/config.json || fail "the windows no longer take turns, and no layer_types says so"
        "$PDQ" inspect layers.d | grep -q 'transformers 4: from 4.53 on' || fail "inspect: $("$PDQ" inspect layers.d)"
        refused 1 'sliding windows that llama.cpp knows only of gemma2 with all' "$PDQ" export layers.d -o x.gguf
    else
        run prune m.d -o narrow.d --hidden 0.5 --align 16 --data text.txt --seq-len 32 --calibration-tokens 128
        agrees "$name, half of the hidden width" narrow.d
    fi
    run prune m.d -o uneven.d --ffn 0.4 --score l2 --scope global --align 16
    refused 1 'block_configs know no' "$PDQ" export uneven.d -o x.d
    run export uneven.d -o padded.d --padded --dtype f32
    near "$name, padded" "$(nll uneven.d)" "$(nll padded.d)"
    case $name in qwen3 | windows)
        refused 1 'norms of q and k \(qwen3\)' "$PDQ" export m.d -o x.gguf
        compare
        continue ;;
    esac
    for source in m taylor; do
        run export $source.d -o m.gguf --dtype f32 --force
        near "$name, $source as GGUF" "$(nll $source.d)" "$(nll m.gguf)"
        run export m.gguf -o "$source-back.d" --dtype f32
        agrees "$name, $source from GGUF" "$source-back.d"
    done
    compare
    absent x.d x.gguf
done
exit $failed
