#!/usr/bin/env bash
# GPT-2 from the command line: exported folders hold the source's tensors, names and config; what is pruned (fewer channels, fewer heads
# as pruned_heads, padded) computes what tests/ref/read_gpt2.py makes of it; GGUF and back; vocab.json with merges.txt; models driven by
# token ids; questions with exact answers.
. "$(dirname "$0")/helpers.inc"
python=/usr/bin/python3 # Debian's, which has python3-torch
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
$python -c 'import torch, numpy' 2> /dev/null || { echo "skipped: $python has no torch (apt-get install python3-torch)"; exit 77; }
read_gpt2() { $python "$PDQ_SOURCE_DIR/tests/ref/read_gpt2.py" "$@"; }
cd "$work" || exit 1
$python -c 'import random; random.seed(1); print(" ".join(str(random.randrange(37)) for _ in range(200)))' > text.txt
ids=$(tr ' ' , < text.txt)

run() { "$PDQ" "$@" --log warn > out.txt 2> err.txt || fail "pdq $*: $(cat err.txt)"; }
agrees() { # name folder [file]: pdq's loss on the folder (or file) is the reader's on the folder
    ours=$("$PDQ" eval "${3:-$2}" --data text.txt --seq-len 16 --json 2> err.txt | sed 's/.*"nll":\([0-9.]*\).*/\1/')
    theirs=$(read_gpt2 loss "$2" --ids "$ids" --seq-len 16) || fail "$1: the reader refuses it"
    awk -v a="$ours" -v b="$theirs" 'BEGIN { exit !(b > 0 && a / b < 1.00001 && a / b > 0.99999) }' || fail "$1: pdq $ours, reader $theirs: $(cat err.txt)"
}

for name in gpt2 gpt2-bare; do
    source=$PDQ_SOURCE_DIR/tests/golden/model-$name
    run export "$source" -o copy --dtype f32 --force
    read_gpt2 same "$source" copy || fail "$name: the exported folder differs"
    agrees "$name" copy
    run prune "$source" -o ffn --ffn 0.5 --score l2 --align 4 --force
    agrees "$name, fewer channels" ffn
    run prune "$source" -o heads --heads 0.34 --ffn 0.5 --score l2 --align 4 --force
    grep -q pruned_heads heads/config.json || fail "$name: no pruned_heads"
    agrees "$name, fewer heads" heads
    "$PDQ" inspect heads | grep -q 'transformers 4: yes (pruned_heads)' || fail "inspect does not say where fewer heads load"
    run export heads -o padded --padded --dtype f32 --force
    grep -q pruned_heads padded/config.json && fail "$name: padded, and pruned_heads"
    agrees "$name, padded" padded
    run prune "$source" -o uneven --heads 0.34 --score l2 --scope global --align 4 --force
    agrees "$name, heads by one ranking" uneven
    [ $name = gpt2 ] || continue # the other's GELU is not the one that GGUF's gpt2 means
    run export "$source" -o m.gguf --dtype f32 --force
    agrees "$name, GGUF" "$source" m.gguf
    run export m.gguf -o back --dtype f32 --force
    agrees "$name, GGUF and back" back
    run export uneven -o m.gguf --padded --dtype f32 --force
    agrees "$name, uneven as GGUF" uneven m.gguf
done
refused 1 'layer norms subtract the mean' "$PDQ" prune "$PDQ_SOURCE_DIR/tests/golden/model-gpt2" -o bad --hidden 0.5 --align 4 --data text.txt --seq-len 16 --calibration-tokens 64
refused 1 'heads of width 8 make 16, and llama.cpp wants the hidden size, 24, for gpt2' "$PDQ" export heads -o bad.gguf
refused 1 'texts are token ids from 0 to 36' "$PDQ" generate "$PDQ_SOURCE_DIR/tests/golden/model-gpt2" --prompt "3 37"
refused 1 'expected 2 to the model.s context, 16' "$PDQ" eval "$PDQ_SOURCE_DIR/tests/golden/model-gpt2" --data text.txt --seq-len 17

# vocab.json with merges.txt is the same tokenizer as tokenizer.json
make_model model
mkdir split && cp model/*.safetensors model/config.json split/
$python - << 'PY'
import json
t = json.load(open("model/tokenizer.json"))
json.dump(t["model"]["vocab"], open("split/vocab.json", "w"))
json.dump({"bos_token": "<s>", "eos_token": {"content": "</s>"}}, open("split/special_tokens_map.json", "w"))
open("split/merges.txt", "w").write("#version: 0.2\n" + "".join(m + "\n" for m in t["model"]["merges"]))
PY
echo "The cat and the dog's inn; Ärger, 你好 🙂 12345   the	end" > words.txt
"$PDQ" tokenize model --file words.txt > a.txt 2> err.txt && "$PDQ" tokenize split --file words.txt > b.txt 2> err.txt || fail "tokenize: $(cat err.txt)"
tr ' ' '\n' < a.txt | grep -v '^0$' > a.ids; tr ' ' '\n' < b.txt | grep -v '^0$' > b.ids # one of them puts <s> in front
cmp a.ids b.ids || fail "vocab.json with merges.txt gives other ids"

mkdir lone && cp split/config.json split/model.safetensors split/vocab.json lone/
refused 1 'vocab.json without merges.txt' "$PDQ" inspect lone
echo '{"a": 0' > lone/vocab.json; cp split/merges.txt lone/
refused 1 'vocab.json' "$PDQ" inspect lone
cp -r "$PDQ_SOURCE_DIR/tests/golden/model-gpt2" short && chmod -R u+w short && truncate -s 20000 short/model.safetensors
refused 1 'short/model.safetensors' "$PDQ" inspect short

# questions: a model that was trained on them answers; damaged ones are refused
cat > train.json << 'JSON'
{"model": "tiny", "data": {"train": ["q.jsonl"], "eval": ["q.jsonl"], "seq_len": 6}, "seed": 1,
 "stages": [{"train": {"init": true, "steps": 120, "batch": 16, "learning_rate": 5e-3, "weight_decay": 0}}]}
JSON
mkdir tiny && cat > tiny/config.json << 'JSON'
{"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 6, "vocab_size": 4, "tie_word_embeddings": false}
JSON
for a in 0 1 2 3; do for b in 0 1 2 3; do for c in 0 1 2 3; do echo "{\"prompt\": \"$a $b $c\", \"answer\": \"$c $b $a\"}"; done; done; done > q.jsonl
"$PDQ" run train.json -o trained > out.txt 2> err.txt || fail "training on questions: $(tail -1 err.txt)"
trained=$(dirname "$(find trained -name config.json | head -1)")
grep -Eq '^trained .* (6[0-4]|5[5-9]) of 64' out.txt || fail "questions are not learned: $(cat out.txt)"
echo '{"prompt": "1 2"}' > bad.jsonl
refused 1 'found a prompt alone' "$PDQ" eval "$trained" --data bad.jsonl
echo '{"prompt": "1 2 3 0 1 2 3", "answer": "1"}' > bad.jsonl
refused 1 'question 1 has 8 tokens with its answer; a window of seq_len 6 holds 7' "$PDQ" eval "$trained" --data bad.jsonl
(cat q.jsonl; echo '{"text": "1 2 3"}') > bad.jsonl
refused 1 'has questions .*and plain text' "$PDQ" eval "$trained" --data bad.jsonl
exit $failed
