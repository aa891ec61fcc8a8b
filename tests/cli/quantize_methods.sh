#!/usr/bin/env bash
# Quantizing with a text: importance matrices, GPTQ and plans of bits on a tiny model; the same bytes at any number of threads; what is
# refused, with which words.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }
kld() { "$PDQ" eval "$1" --data held.txt --seq-len 32 --tokens 600 --against m --json | grep -o '"kld":[0-9.e-]*' | cut -d: -f2; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }' || fail "$3: $1 is not below $2"; }
size() { stat -c %s "$1"; }
make_model m --dtype f32 --layers 2 --hidden 256 --heads 4 --kv-heads 2 --head-dim 64 --ffn 256 --vocab 300
make_text text.txt 400
seq 1000 1060 | sed 's/$/ goats slept by the river, and none of them spoke./' > held.txt

# every method writes a file of the same size; GPTQ lies nearest to the parent, whatever the number of threads
for type in Q4_0 Q4_K; do
    for method in rtn weighted gptq; do
        text=$([ $method = rtn ] || echo --calibration text.txt --calibration-tokens 4096)
        # shellcheck disable=SC2086
        quiet "$PDQ" quantize m -o $method.gguf --force --type $type --method $method $text
    done
    # names of files and options lie in the file too
    [ $(($(size gptq.gguf) - $(size rtn.gguf))) -lt 600 ] || fail "$type: gptq is larger"
    less "$(kld gptq.gguf)" "$(kld rtn.gguf)" "$type: gptq against rtn"
done
quiet "$PDQ" quantize m -o two.gguf --type Q4_K --method gptq --calibration text.txt --calibration-tokens 4096 --threads 2
tail -c 100000 gptq.gguf > a && tail -c 100000 two.gguf | cmp -s - a || fail "gptq: other bytes with two threads"

# Learned rounding: each layer's error as it says itself falls, the same bytes with two threads, and nearer to the parent than rounding to nearest. Not
# than GPTQ: a made-up model of random weights and forty different words of text teach nothing that holds on another text.
for type in Q4_0 Q3_K; do
    learned="--method autoround --rounding-steps 40 --calibration text.txt --calibration-tokens 1024"
    # shellcheck disable=SC2086
    quiet "$PDQ" quantize m -o learned.gguf --force --type $type $learned
    awk '/^layer [01]: mean squared error/ { sub(/,/, "", $9); n++; bad += !($13 + 0 <= $9 + 0); better += $13 + 0 < $9 + 0 } END { exit !(n == 2 && !bad && better) }' err.txt ||
        fail "$type: nothing was learned: $(cat err.txt)"
    # shellcheck disable=SC2086
    quiet "$PDQ" quantize m -o two.gguf --force --type $type --threads 2 $learned
    cmp -s <(tail -c 100000 learned.gguf) <(tail -c 100000 two.gguf) || fail "$type: autoround: other bytes with two threads"
    quiet "$PDQ" quantize m -o rtn.gguf --force --type $type
    less "$(kld learned.gguf)" "$(kld rtn.gguf)" "$type: autoround against rtn"
done
refused 1 'autoround. chooses between levels of a block, and F16 has none' \
    "$PDQ" quantize m -o x.gguf --type F16 --method autoround --calibration text.txt
refused 1 'autoround needs the text itself' "$PDQ" quantize m -o x.gguf --type Q4_K --method autoround --imatrix m.imatrix
refused 1 'calibration_tokens: 1000000 tokens are asked for' \
    "$PDQ" quantize m -o x.gguf --type Q4_K --method autoround --calibration text.txt --calibration-tokens 1000000
refused 2 'rounding-steps: found 0' "$PDQ" quantize m -o x.gguf --type Q4_K --method autoround --calibration text.txt --rounding-steps 0
quiet "$PDQ" quantize m -o two.gguf --force --type Q4_K --method gptq --calibration text.txt --calibration-tokens 4096 --threads 2
quiet "$PDQ" quantize m -o rtn.gguf --force --type Q4_K

# importance matrices
quiet "$PDQ" calibrate m --data text.txt -o m.imatrix --tokens 4096
quiet "$PDQ" quantize m -o by-file.gguf --type Q4_K --method weighted --imatrix m.imatrix
make_model other --dtype f32 --layers 1 --hidden 256 --heads 4 --kv-heads 2 --head-dim 64 --ffn 256 --vocab 300
make_model wide --dtype f32 --layers 2 --hidden 512 --heads 4 --kv-heads 2 --head-dim 64 --ffn 256 --vocab 300
# the same with ranges, means and Gram matrices: the same mean squares, so the same file; NumPy finds them consistent
quiet "$PDQ" calibrate m --data text.txt -o m.safetensors --gram --tokens 4096
quiet "$PDQ" quantize m -o by-statistics.gguf --type Q4_K --method weighted --imatrix m.safetensors
[ "$(kld by-file.gguf)" = "$(kld by-statistics.gguf)" ] || fail "importance from a safetensors file gives another model"
/usr/bin/python3 - <<'PYTHON' || fail "statistics of inputs"
import json, struct, sys
try:
    import numpy as np
except ImportError:
    sys.exit(0)
raw = open("m.safetensors", "rb").read()
n = struct.unpack("<Q", raw[:8])[0]
head = json.loads(raw[8:8 + n])
assert head.pop("__metadata__")["tokens"] == "4096"
t = {k: np.frombuffer(raw[8 + n:][v["data_offsets"][0]:v["data_offsets"][1]], "<f4").astype(float).reshape(v["shape"])
     for k, v in head.items()}
grams = [k[:-5] for k in t if k.endswith(".gram")]
assert sorted(grams) == sorted(f"blk.{l}.{k}.weight" for l in (0, 1) for k in ("attn_q", "attn_output", "ffn_gate", "ffn_down")), grams
for k in grams:
    gram, square, mean, low, high = (t[f"{k}.{what}"] for what in ("gram", "mean_square", "mean", "low", "high"))
    # one is summed in f32 over a batch of rows, the other in f64
    assert np.allclose(np.diag(gram), square, rtol=1e-5) and (np.linalg.eigvalsh(gram - np.outer(mean, mean)) > -1e-5 * square.max()).all(), k
    assert (low <= mean).all() and (mean <= high).all() and (square <= np.maximum(low**2, high**2) * (1 + 1e-6)).all(), k
assert (t["blk.0.attn_k.weight.mean_square"] == t["blk.0.attn_q.weight.mean_square"]).all()
PYTHON
refused 2 'no room for it' "$PDQ" calibrate m --data text.txt -o g.imatrix --gram
cp m/model.safetensors weights.safetensors
refused 1 'holds no mean squares' "$PDQ" quantize m -o x.gguf --type Q4_K --method weighted --imatrix weights.safetensors
refused 1 'm.imatrix: has an entry for blk.1.*another model' "$PDQ" quantize other -o x.gguf --type Q4_K --method weighted --imatrix m.imatrix
refused 1 'm.imatrix: has 256 values for blk.0.*rows have 512: an importance matrix of another model' \
    "$PDQ" quantize wide -o x.gguf --type Q4_K --method weighted --imatrix m.imatrix
refused 1 'text.txt: .*no importance matrix' "$PDQ" quantize m -o x.gguf --type Q4_K --method weighted --imatrix text.txt
refused 1 'calibration_tokens: 1000000 tokens are asked for, the calibration text has' \
    "$PDQ" quantize m -o x.gguf --type Q4_K --method gptq --calibration text.txt --calibration-tokens 1000000
refused 1 '"calibration" is given and "method" is rtn' "$PDQ" quantize m -o x.gguf --type Q4_K --calibration text.txt
refused 1 'gptq needs the text itself' "$PDQ" quantize m -o x.gguf --type Q4_K --method gptq --imatrix m.imatrix
refused 1 'learns from text|calibration' "$PDQ" quantize m -o x.gguf --type Q4_K --method gptq

# quantized already
refused 1 'two.gguf: quantized already .*--requantize' "$PDQ" quantize two.gguf -o x.gguf --type Q4_0
quiet "$PDQ" quantize two.gguf -o again.gguf --type Q8_0 --requantize

# rows that no super-block fits, for a method as for none
make_model narrow --dtype f32 --layers 1 --hidden 96 --heads 3 --kv-heads 3 --head-dim 32 --ffn 96 --vocab 300
refused 1 'rows of 96 values, no multiple of Q6_K|rows of 96 values, no multiple of Q4_K' \
    "$PDQ" quantize narrow -o x.gguf --type Q4_K --method gptq --calibration text.txt --calibration-tokens 1024
quiet "$PDQ" quantize narrow -o narrow.gguf --type Q4_K --allow-fallback --method gptq --calibration text.txt --calibration-tokens 1024

# plans: nearer to the parent than a uniform type that is larger, readable, editable
quiet "$PDQ" bits m --data text.txt --tokens 600 --seq-len 32 --target-bits 5.5 -o plan.json
grep -q '"blk.0.attn_q.weight"' plan.json || fail "the plan names no matrix"
quiet "$PDQ" quantize m -o planned.gguf --plan plan.json
bytes=$(grep -o '"bytes": *[0-9]*' plan.json | grep -o '[0-9]*')
[ $(($(size planned.gguf) - bytes)) -lt 4000 ] && [ $(($(size planned.gguf) - bytes)) -gt -4000 ] || fail "planned $bytes bytes, got $(size planned.gguf)"
echo '{"tensors": {"blk.0.attn_q.weight": "Q8_0", "blk.1.attn_v.weight": {"type": "Q2_K"}}}' > own.json
quiet "$PDQ" quantize m -o own.gguf --plan own.json --type Q4_K
"$PDQ" inspect own.gguf > out.txt 2>&1 && grep -q 'Q8_0' out.txt && grep -q 'Q2_K' out.txt || fail "own.gguf: $(cat out.txt)"
refused 1 'the target, .* is below the smallest possible size' "$PDQ" bits m --data text.txt --tokens 600 --seq-len 32 --target-bits 1 -o x.json
echo '{"tensors": {"blk.9.attn_q.weight": "Q8_0"}}' > bad.json
refused 1 'blk.9.attn_q.weight is no matrix of this model' "$PDQ" quantize m -o x.gguf --plan bad.json
echo '{"tensors": {"blk.0.attn_q.weight": "Q9"}}' > bad.json
refused 1 'found type "Q9"' "$PDQ" quantize m -o x.gguf --plan bad.json
refused 2 'one of --target-bits and --target-bytes' "$PDQ" bits m --data text.txt -o x.json

# a plan that was edited is another input: a run that is there is not taken for done
echo '{"name": "r", "model": "m", "data": {"eval": "held.txt", "seq_len": 32, "eval_tokens": 600}, "stages": [{"quantize": {"type": "Q4_K", "plan": "own.json"}}]}' > r.json
quiet "$PDQ" run r.json -o r
quiet "$PDQ" run r.json -o r
grep -q 'done before' err.txt || fail "the same run again: $(cat err.txt)"
before=$(cksum r/*/*.gguf)
echo '{"tensors": {"blk.0.attn_q.weight": "Q2_K"}}' > own.json
quiet "$PDQ" run r.json -o r
[ "$before" != "$(cksum r/*/*.gguf)" ] || fail "an edited plan left the file as it was"

# weights that are no numbers, with and without a method
python3 - << 'END' || fail "cannot break a model"
import glob, json, struct
name = glob.glob("other/*.safetensors")[0]
b = bytearray(open(name, "rb").read())
n = struct.unpack("<Q", b[:8])[0]
h = json.loads(b[8:8 + n])
at = 8 + n + h["model.layers.0.mlp.up_proj.weight"]["data_offsets"][0] + 4 * (2 * 256 + 7)
b[at:at + 4] = struct.pack("<f", float("inf"))
open(name, "wb").write(b)
END
broken() { # PATTERN OPTIONS...: found while it runs
    local pattern=$1
    shift
    rm -rf broken.gguf*
    "$PDQ" quantize other -o broken.gguf --type Q4_K "$@" 2> err.txt && fail "a broken model was quantized"
    grep -q "$pattern" err.txt || fail "no \"$pattern\" in: $(cat err.txt)"
    absent broken.gguf
}
broken 'tensor blk.0.ffn_up.weight: the value at row 2, column 7 is inf'
broken 'tensor model.layers.0.mlp.up_proj.weight: the value at row 2, column 7 is inf' --method gptq --calibration text.txt --calibration-tokens 1024
broken 'tensor model.layers.0.mlp.up_proj.weight: the value at row 2, column 7 is inf' --method autoround --calibration text.txt --calibration-tokens 1024
absent x.gguf x.gguf.run x.json

# which of two files is nearer
"$PDQ" eval gptq.gguf --against m --versus rtn.gguf --data held.txt --seq-len 32 --tokens 600 --json 2> /dev/null |
    grep -q '"difference":-[^,]*,"difference_low"' || fail "eval --versus: gptq is not nearer"
refused 2 'nearer to what' "$PDQ" eval m --versus rtn.gguf --data held.txt
exit $failed
