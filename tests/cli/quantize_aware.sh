#!/usr/bin/env bash
# Quantization-aware training on a tiny model: the file written afterwards has the loss that the training measured last; the same bytes at
# any number of threads and after kill -9; what is refused, with which words.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }
make_model m --dtype f32 --layers 2 --hidden 256 --heads 4 --kv-heads 2 --head-dim 64 --ffn 256 --vocab 300
make_text text.txt 300
seq 1000 1060 | sed 's/$/ goats slept by the river, and none of them spoke./' > held.txt
recipe() { # FILE TYPE STAGE [OPTIONS]: learn with the weights as TYPE, then write that type
    local more=${4-', "keep_best": true'}
    cat > "$1" << JSON
{"name": "r", "model": "m", "data": {"train": "text.txt", "eval": "held.txt", "seq_len": 32, "eval_tokens": 600},
 "stages": [{"$3": {"quantize": "$2", "steps": 12, "batch": 2, "learning_rate": 1e-3, "snapshot_every": 2, "eval_every": 4$more}},
            {"quantize": {"type": "$2"}}]}
JSON
}

nll() { "$PDQ" eval "$1" --data held.txt --seq-len 32 --tokens 600 --json 2> err.txt | grep -o '"nll":[0-9.]*' | head -1 | cut -d: -f2; }
# Of some 6 nats the products' other order of sums changes 1e-8; rounding itself 1e-4 and more.
same_loss() { # RUN: what was measured in training is what the file has
    seen=$(grep -o '"held_out":[0-9.]*' "$1"/*-distill/run.jsonl | cut -d: -f2 | $2 | head -1) file=$(nll "$(echo "$1"/*-quantize/*.gguf)")
    awk -v a="$seen" -v b="$file" 'BEGIN { exit !(a > 0 && a - b < 1e-6 && b - a < 1e-6) }' || fail "$1: $seen in training, $file of the file"
}

for type in Q4_0 Q4_K_M Q3_K_M Q2_K; do
    recipe r.json $type distill
    quiet "$PDQ" run r.json -o $type
    same_loss $type 'sort -g' # keep_best
    [ "$(nll $type/*-distill)" != "$file" ] || fail "$type: rounding changes nothing"
done
recipe r.json Q4_0 distill ', "quantize_scales": "learned"'
quiet "$PDQ" run r.json -o learned
same_loss learned tac # the last
recipe r.json Q3_K_M distill ', "quantize_start": "gptq"'
quiet "$PDQ" run r.json -o started
same_loss started tac
absent started/*/start.gguf

# killed and run again, at another number of threads; the stage train as well
killed() { # NAME: r.json, killed and run again
    quiet "$PDQ" run r.json -o "alone-$1"
    run_killed 5 begun r.json "killed-$1" 4
    for file in alone-"$1"/*/*.gguf alone-"$1"/*/model.safetensors alone-"$1"/*-train/run.jsonl; do
        cmp "$file" "killed${file#alone}" || fail "$file differs"
    done
}
recipe r.json Q4_K_M train ', "quantize_start": "gptq"'
killed encoder
recipe r.json Q4_0 train ', "quantize_scales": "learned"'
killed learned

# as commands, one after the other
quiet "$PDQ" distill m --teacher m --data text.txt --seq-len 32 --steps 3 --batch 2 --quantize Q4_0 --quantize-pure -o d
quiet "$PDQ" quantize d -o d.gguf --type Q4_0 --pure
"$PDQ" run r.json --dry-run > out.txt 2> err.txt && grep -q 'with the weights as Q4_0 of learned scales' out.txt || fail "dry run: $(cat out.txt err.txt)"

# refused before any work
recipe r.json Q4_9 distill
refused 1 'stages\[0\].distill: "quantize": found "Q4_9", expected F32, .*did you mean' "$PDQ" run r.json -o x
recipe r.json F32 distill
refused 1 '"quantize": F32 leaves the weights as they are' "$PDQ" run r.json -o x
make_model narrow --dtype f32
recipe r.json Q4_K distill
refused 1 'stages\[0\].distill: GGUF type Q4_K: .* rows of 64 values' "$PDQ" run r.json -o x --set model=narrow
refused 1 '"quantize" trains float weights, and .*d.gguf holds blocks' "$PDQ" run r.json -o x --set model=d.gguf
refused 1 '"keep_best" keeps weights and no scales' "$PDQ" run r.json -o x --set distill.quantize_scales=learned --set distill.quantize=Q4_0
recipe r.json Q4_K distill ''
refused 1 'learned scales need blocks with one scale .Q8_0, Q5_0, Q4_0., and Q4_K has none' "$PDQ" run r.json -o x --set distill.quantize_scales=learned
refused 1 '"quantize_pure" says how to round and "quantize" is not given' "$PDQ" distill m --teacher m --data text.txt --steps 3 --quantize-pure -o x
refused 1 '"quantize" is for what is written next' "$PDQ" run r.json -o x \
    --set 'stages=[{"prune": {"heads": 0.5, "steps": 2, "recover": {"steps": 2, "quantize": "Q4_0"}}}]'
absent x x.run
exit $failed
