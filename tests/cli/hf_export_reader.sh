#!/bin/bash
# What pdq exports and prunes is read by tests/ref/read_hf.py, which was written without sight of pdq's own reader and
# writer, builds the model from config.json, and must find the same losses and the same greedy continuation as pdq does.
set -eu
python=/usr/bin/python3 # Debian's, which has python3-torch; another may come first on PATH
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
if ! $python -c 'import torch, numpy' 2>/dev/null; then
    echo "skipped: $python has no torch (apt-get install python3-torch)"
    exit 77
fi
reference=$PDQ_SOURCE_DIR/tests/ref
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for i in 1 2 3 4; do
    echo "$i. The cat and the dog went in; then the rain began, and nothing in the house was dry. Ärger, café, \$$i."
done > text.txt

# Prints pdq's numbers for a folder as one line of JSON: the loss and a greedy continuation of the first ids.
pdq_numbers() {
    "$PDQ" eval "$1" --data text.txt --seq-len 64 --json > eval.json
    "$PDQ" generate "$1" --ids "$(cut -d, -f1-64 ids)" --tokens 8 --json > generate.json
    $python -c 'import json; e = json.load(open("eval.json")); g = json.load(open("generate.json"))
print(json.dumps({"tokens": e["tokens"], "nll": e["nll"], "greedy": g["ids"]}))'
}

for name in llama biases mistral qwen2 qwen3 gemma2 minicpm granite windows; do
    rm -rf ./*.d
    $python "$reference/make_model.py" $name source.d
    "$PDQ" export source.d -o f32.d --dtype f32 --log warn > exported
    "$PDQ" export source.d -o shards.d --dtype bf16 --shard-bytes 20000 --log warn > exported
    "$PDQ" export source.d -o f16.d --dtype f16 --log warn > exported
    "$PDQ" prune source.d -o pruned.d --heads 0.5 --ffn 0.5 --score magnitude --log warn > exported
    "$PDQ" prune source.d -o uneven.d --heads 0.4 --ffn 0.3 --score l2 --scope global --align 16 --log warn > exported
    "$PDQ" export uneven.d -o padded.d --padded --dtype f32 --log warn > exported
    folders="source f32 shards f16 pruned padded"
    if [ $name = llama ]; then # the layers' own widths, as nemotron-nas says them
        "$PDQ" prune source.d -o narrow.d --ffn 0.3 --score l2 --scope global --align 16 --log warn > exported
        "$PDQ" export narrow.d -o blocks.d --dtype f32 --log warn > exported
        grep -q block_configs blocks.d/config.json || { echo "no block_configs"; exit 1; }
        folders="$folders blocks"
    fi
    test -e shards.d/model.safetensors.index.json || { echo "$name: --shard-bytes 20000 made no shards"; exit 1; }
    "$PDQ" tokenize source.d --file text.txt | tr -d ' \n' > ids
    : > pdq.jsonl
    for folder in $folders; do
        pdq_numbers $folder.d >> pdq.jsonl
    done
    $python "$reference/read_hf.py" $(printf "%s.d " $folders) --ids @ids --seq-len 64 --greedy 8 > reader.jsonl
    # Both compute in float32: 1e-5 of the mean loss, as for the reference checkpoints.
    $python - $name $folders <<'PYTHON'
import json
import sys
pdq, reader = ([json.loads(line) for line in open(file)] for file in ("pdq.jsonl", "reader.jsonl"))
for what, a, b in zip(sys.argv[2:], pdq, reader, strict=True):
    print(sys.argv[1], what, a["nll"], b["nll"])
    if a["tokens"] != b["tokens"] or abs(a["nll"] / b["nll"] - 1) > 1e-5 or a["greedy"] != b["greedy"]:
        sys.exit(f"{sys.argv[1]}, {what}: pdq has {a}, the independent reader {b}")
if pdq[0]["nll"] != pdq[1]["nll"]:
    sys.exit(f"{sys.argv[1]}: an f32 export changes the loss from {pdq[0]['nll']} to {pdq[1]['nll']}")
if abs(pdq[4]["nll"] - pdq[0]["nll"]) < 1e-3:
    sys.exit(f"{sys.argv[1]}: pruning half of everything left the loss at {pdq[4]['nll']}")
config = json.load(open("pruned.d/config.json"))
found = [config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")]
if found != [2, 1, 16, 64]:
    sys.exit(f"{sys.argv[1]}: pruned shape {found}, wanted [2, 1, 16, 64]")
PYTHON
done
