#!/usr/bin/env bash
# Every kind of pruning through the program: budgets, rankings over all layers, layers, blocks, hidden width, masks, single weights;
# what is written reads back and computes the same; keys that contradict each other; what a budget cannot reach.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_model m --dtype f32 --layers 4 --heads 8 --kv-heads 4
make_text text.txt 200
quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }
loss() { "$PDQ" eval "$1" --data text.txt --seq-len 32 --tokens 500 --json 2> /dev/null | sed 's/.*"nll":\([0-9.]*\).*/\1/'; }
close_to() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; exit !(d < 1e-5 && d > -1e-5) }' || fail "$3: $1 and $2"; }
text=(--data text.txt --seq-len 32 --calibration-tokens 256)

quiet "$PDQ" prune m -o uneven --ffn 0.4 --heads 0.4 --scope global --floor 0.2 --score fisher "${text[@]}" --no-guards
grep -q per_layer_config uneven/config.json || fail "the layers do not differ"
"$PDQ" inspect uneven | grep -q 'its layers differ' || fail "where it loads"
quiet "$PDQ" prune m -o kv --ffn 0.4 --scope global --score l2
quiet "$PDQ" prune m -o blocks --attention-blocks 0.25 --ffn-blocks 0.25 "${text[@]}"
for source in uneven kv blocks; do
    want=$(loss $source)
    quiet "$PDQ" export $source -o $source-padded --padded --dtype f32
    grep -q 'per_layer_config\|block_configs' $source-padded/config.json && fail "$source: padded layers differ"
    close_to "$(loss $source-padded)" "$want" "$source padded"
    quiet "$PDQ" export $source -o $source.gguf --dtype f32
    close_to "$(loss $source.gguf)" "$want" "$source GGUF"
    "$PDQ" inspect $source.gguf | grep -q 'llama.cpp: yes (architecture deci)' || fail "$source: not deci"
done
quiet "$PDQ" export kv -o kv-blocks --dtype f32
grep -q '"DeciLMForCausalLM"' kv-blocks/config.json || fail "no block_configs"
"$PDQ" inspect kv-blocks | grep -q 'vLLM: yes (nemotron-nas)' || fail "where block_configs load"
close_to "$(loss kv-blocks)" "$(loss kv)" "block_configs"
refused 1 'differ in query heads' "$PDQ" export uneven -o x --dtype f32
absent x

quiet "$PDQ" prune m -o shallow --layers 0.5 --depth-score loss "${text[@]}"
"$PDQ" inspect shallow | grep -q '  2 layers' || fail "layers"
quiet "$PDQ" prune m -o narrow --hidden 0.5 "${text[@]}"
"$PDQ" inspect narrow | grep -q 'hidden 32' || fail "hidden width"
quiet "$PDQ" prune m -o masked --heads 0.4 --heads-by query --align 1 --mask --scope global "${text[@]}" --no-guards
"$PDQ" inspect masked | grep -q '8 query and 4 key/value heads' || fail "a mask changed the shape"
[ "$(cat m/model.safetensors | wc -c)" -ge 0 ] && cmp -s m/model.safetensors masked/model.safetensors && fail "a mask changed nothing"

quiet "$PDQ" sparsify m -o sparse --pattern 2:4 --score sparsegpt "${text[@]}"
quiet "$PDQ" distill sparse --teacher m -o sparse-on --data text.txt --seq-len 32 --steps 3 --batch 2 --keep-zeros
python3 - << 'END' || fail "zeros"
import json, struct
def zeros(path):
    f = open(path + "/model.safetensors", "rb").read()
    n = struct.unpack("<Q", f[:8])[0]
    head = json.loads(f[8:8 + n])
    found = {}
    for name, t in head.items():
        if name != "__metadata__" and "layers" in name and len(t["shape"]) == 2:
            a, b = t["data_offsets"]
            v = memoryview(f[8 + n + a:8 + n + b]).cast("f")
            found[name] = [i for i in range(len(v)) if v[i] == 0]
            assert all(sum(v[i + k] == 0 for k in range(4)) >= 2 for i in range(0, len(v), 4)), name
    return found
assert zeros("sparse") == zeros("sparse-on")
END

# a budget in bytes of the file that is written: never exceeded, missed by less than a step of one layer
echo '{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 300},
 "stages": [{"prune": {"budget": {"bytes": 1}, "scope": "global", "calibration_tokens": 256, "guards": false}}, {"quantize": {"type": "Q8_0"}}]}' > b.json
for bytes in 160000 200000; do
    quiet "$PDQ" run b.json -o b --force --set "prune.budget={\"bytes\":$bytes}"
    got=$(wc -c < b/02-quantize/b-Q8_0.gguf)
    [ "$got" -le $bytes ] || fail "$got bytes, $bytes allowed"
    [ "$got" -ge $((bytes - 14000)) ] || fail "$got bytes of $bytes: more than a step below" # a group of two heads of 32, all four matrices
done
rm -rf b
refused 1 'cannot be reached.*the smallest' "$PDQ" run b.json -o b
refused 1 'are more than the parent' "$PDQ" run b.json -o b --set 'prune.budget={"bytes":1e9}'
refused 1 'contradict|both given' "$PDQ" run b.json -o b --set prune.ffn=0.5
refused 1 'did you mean bytes' "$PDQ" run b.json -o b --set 'prune.budget={"byte":1e5}'
refused 1 'expected an object with one of' "$PDQ" run b.json -o b --set 'prune.budget={"bytes":1e5,"params":0.5}'
refused 1 'expected a positive number' "$PDQ" run b.json -o b --set 'prune.budget={"params":-1}'
absent b
echo '{"model": "m", "stages": [{"prune": {"budget": {"bytes": 1e5}, "score": "l2"}}]}' > c.json
refused 1 'later quantize stage' "$PDQ" run c.json -o c
refused 1 '"mask" keeps the shape' "$PDQ" prune m -o x --ffn 0.5 --mask --hidden 0.5
"$PDQ" prune m -o x --ffn 0.999 --scope global --floor 0 --score l2 > out.txt 2> err.txt && fail "a layer was emptied"
grep -q 'would lose all its.*"floor"' err.txt || fail "an empty layer: $(cat err.txt)"
rm -rf x.run
refused 1 'learns from text, but' "$PDQ" prune m -o x --layers 0.5
refused 2 'did you mean "block_influence"' "$PDQ" prune m -o x --layers 0.5 --depth-score block_influenc
refused 1 'contradict each other' "$PDQ" sparsify m -o x --pattern 2:4 --sparsity 0.7 --score magnitude
refused 1 'N < M' "$PDQ" sparsify m -o x --pattern 4:2 --score magnitude
absent x x.run

quiet "$PDQ" speed m shallow --runs 3 --tokens 32
grep -q 'share' out.txt || fail "speed: $(cat out.txt)"
quiet "$PDQ" speed m --runs 2 --tokens 32 --decode 8
grep -q 'decode, tokens/s' out.txt || fail "speed --decode: $(cat out.txt)"
refused 1 'the context of m is' "$PDQ" speed m --decode 100000

# by weights alone, from the file to the file: the same bytes as in memory (where the parent is measured, it is read)
quiet "$PDQ" prune m -o streamed --ffn 0.5 --heads 0.5 --score magnitude
echo '{"model": "m", "data": {"eval": "text.txt", "seq_len": 32, "eval_tokens": 300}, "stages": [{"prune": {"ffn": 0.5, "heads": 0.5, "score": "magnitude"}}]}' > s.json
quiet "$PDQ" run s.json -o s
python3 - << 'END' || fail "streamed and in memory differ"
def data(path):
    f = open(path + "/model.safetensors", "rb").read()
    return f[8 + int.from_bytes(f[:8], "little"):]
assert data("streamed") == data("s/01-prune")
END
exit $failed
