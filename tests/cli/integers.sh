#!/usr/bin/env bash
# Folders of integers: what is written is read by tests/ref/read_ints.py (json, struct, numpy), which decodes to the same bits as pdq does; every
# method; the same bytes at any number of threads; factors of channels leave the function as it was; what is refused, with which words.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
python=/usr/bin/python3
$python -c 'import numpy' 2> /dev/null || { echo "skipped: $python has no numpy"; exit 77; }
quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }
kld() { "$PDQ" eval "$1" --data held.txt --seq-len 32 --tokens 600 --against m --json 2> /dev/null | grep -o '"kld":[0-9.e-]*' | cut -d: -f2; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }' || fail "$3: $1 is not below $2"; }
reads() { # FOLDER: the independent reader finds what pdq reads back
    rm -rf back
    quiet "$PDQ" export "$1" -o back --dtype f32
    $python "$PDQ_SOURCE_DIR/tests/ref/read_ints.py" "$1" back > out.txt 2>&1 || fail "$1: $(cat out.txt)"
}
make_model m --dtype f32 --layers 2 --hidden 128 --heads 4 --kv-heads 2 --head-dim 64 --ffn 256 --vocab 300
make_text text.txt 400
seq 1000 1060 | sed 's/$/ goats slept by the river, and none of them spoke./' > held.txt

text="--calibration text.txt --calibration-tokens 2048"
write() { # TYPE METHOD [TEXT]
    # shellcheck disable=SC2086
    quiet "$PDQ" quantize m -o "$1-$2" --type "$1" --method "$2" --group-size 64 ${3-}
    reads "$1-$2"
}
for type in W8A8 W8A16 W4A16 W4A16_ASYM GPTQ-4 GPTQ-4_ASYM GPTQ-8; do
    write $type rtn
    write $type gptq "$text"
done
for type in W4A16 GPTQ-4; do
    write $type autoround "--calibration text.txt --calibration-tokens 1024 --rounding-steps 60"
    less "$(kld $type-autoround)" "$(kld $type-rtn)" "$type: autoround against rtn"
done
write W8A8_STATIC rtn "$text"
write W4A16 mse
write W4A16_ASYM weighted "$text"
for type in W4A16 W4A16_ASYM GPTQ-4 GPTQ-4_ASYM; do
    less "$(kld $type-gptq)" "$(kld $type-rtn)" "$type: gptq against rtn"
done
less "$(kld W8A16-rtn)" "$(kld W8A8-rtn)" "W8A16 against W8A8: rounded inputs cost nothing"
less "$(kld W8A8-rtn)" "$(kld W8A8_STATIC-rtn)" "scales by token against one for all"
# shellcheck disable=SC2086
quiet "$PDQ" quantize m -o two --type GPTQ-4 --method gptq --group-size 64 $text --threads 2
cmp -s <(tail -c 60000 two/model.safetensors) <(tail -c 60000 GPTQ-4-gptq/model.safetensors) || fail "gptq: other bytes with two threads"
quiet "$PDQ" quantize m -o rows --type GPTQ-4 --group-size 0
reads rows
quiet "$PDQ" inspect W4A16-rtn
grep -q 'vLLM: as compressed-tensors (layout checked, not run there)' out.txt || fail "inspect: $(cat out.txt)"
for observer in percentile entropy; do
    # shellcheck disable=SC2086
    quiet "$PDQ" quantize m -o s-$observer --type W8A8_STATIC --observer $observer $text
    reads s-$observer
done

# factors of channels: before anything is rounded the model computes what it did
# shellcheck disable=SC2086
quiet "$PDQ" quantize m -o smooth.gguf --type F32 --rescale smooth $text
less "$(kld smooth.gguf)" 1e-9 "smooth changed the model"
for kind in smooth awq; do
    # shellcheck disable=SC2086
    quiet "$PDQ" quantize m -o $kind --type W4A16 --rescale $kind --group-size 64 $text
    reads $kind
done

# ... in double, too, by a reader that is not pdq's
if $python -c 'import torch' 2> /dev/null; then
    "$PDQ" tokenize m --file held.txt 2> /dev/null | tr -d ' \n' > ids
    quiet "$PDQ" export smooth.gguf -o smooth-f32 --dtype f32
    $python "$PDQ_SOURCE_DIR/tests/ref/read_hf.py" m smooth-f32 --ids @ids --seq-len 32 --tokens 300 --float64 > lines.txt 2>&1 || fail "$(cat lines.txt)"
    $python - << 'END' || fail "factors changed the function: $(cat lines.txt)"
import json
nll = [json.loads(line)["nll"] for line in open("lines.txt")]
assert len(nll) == 2 and all(abs(n - nll[0]) < 1e-7 * nll[0] for n in nll), nll # factors leave weights of f32
END
fi

# biases
$python "$PDQ_SOURCE_DIR/tests/ref/make_model.py" qwen2 q > /dev/null 2>&1 || { echo "qwen2 not made: no torch"; cp -r m q; }
if grep -q qwen2 q/config.json; then
    # shellcheck disable=SC2086
    quiet "$PDQ" quantize q -o corrected --type W4A16 --group-size 0 --bias-correction $text --force
    reads corrected
fi
# shellcheck disable=SC2086
"$PDQ" quantize m -o x --type W4A16 --group-size 0 --bias-correction $text 2> err.txt && fail "biases that are not there were corrected"
grep -q '"bias_correction": no matrix of this llama model has a bias' err.txt || fail "bias_correction: $(cat err.txt)"
rm -rf x.run

# refused
refused 1 'W4A16-rtn: quantized already .*--requantize' "$PDQ" quantize W4A16-rtn -o x --type W8A8
quiet "$PDQ" quantize W4A16-rtn -o again.gguf --type Q8_0 --requantize
refused 2 'expected the name of a folder' "$PDQ" quantize m -o x.gguf --type W8A8
refused 2 'expected a name that ends in .gguf' "$PDQ" quantize m -o x --type Q8_0
refused 1 'down_proj.*rows of 256 values are no multiple of groups of 96|rows of 128 values are no multiple of groups of 96' "$PDQ" quantize m -o x --type W4A16 --group-size 96
refused 1 '"pure" is for GGUF files' "$PDQ" quantize m -o x --type W4A16 --pure
refused 1 'learns from text' "$PDQ" quantize m -o x --type W8A8_STATIC
refused 1 '"imatrix" is of the model as it is' "$PDQ" quantize m -o x --type W4A16 --method weighted --imatrix text.txt --rescale awq
refused 1 '"type": found "W3A16"' "$PDQ" quantize m -o x.gguf --type W3A16
broken() { # FOLDER KIND PATTERN: a copy with one thing wrong
    rm -rf bad x.run
    cp -r "$1" bad
    $python - "$2" << 'END' || fail "cannot break a model"
import json, struct, sys
path = "bad/model.safetensors"
b = bytearray(open(path, "rb").read())
n = struct.unpack("<Q", b[:8])[0]
h = json.loads(b[8:8 + n])
def put(name, element, data):
    at = 8 + n + h[name]["data_offsets"][0] + element * len(data)
    b[at:at + len(data)] = data
kind = sys.argv[1]
if kind == "nan":
    put("model.layers.1.mlp.up_proj.weight", 2 * 128 + 7, struct.pack("<f", float("nan")))
elif kind == "order":
    put("model.layers.0.self_attn.o_proj.g_idx", 5, struct.pack("<i", -1))
elif kind == "scale":
    put("model.layers.0.self_attn.o_proj.weight_scale", 3, struct.pack("<H", 0x7fc0))
elif kind == "missing":
    b[8:8 + n] = b[8:8 + n].replace(b"weight_shape", b"weight_shope")
open(path, "wb").write(b)
END
    "$PDQ" quantize bad -o x --type W8A8 --requantize > out.txt 2> err.txt && fail "a broken model was quantized"
    grep -Eq -- "$3" err.txt || fail "no \"$3\" in: $(cat err.txt)"
}
broken m nan 'tensor model.layers.1.mlp.up_proj.weight: the value at row 2, column 7 is'
broken GPTQ-4-gptq order 'o_proj.g_idx names group 4294967295 at column 5'
broken W4A16-rtn scale 'o_proj.weight_scale holds .*nan'
broken W4A16-rtn missing 'weight_shape is missing'
rm -rf bad
cp -r W4A16-rtn bad
sed -i 's/"pack-quantized"/"float-quantized"/' bad/config.json
refused 1 'quantization_config: format is float-quantized' "$PDQ" eval bad --data held.txt
sed -i 's/"compressed-tensors"/"fbgemm_fp8"/' bad/config.json
refused 1 'quantization_config: quant_method is fbgemm_fp8' "$PDQ" eval bad --data held.txt
absent x x.gguf
exit $failed
