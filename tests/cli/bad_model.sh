#!/usr/bin/env bash
# Models that cannot be read: one message that names file, key or tensor; nothing written.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_model m --no-tied --dtype f32
make_text text.txt 60

bad() { # PATTERN PATH
    refused 1 "$1" "$PDQ" inspect "$2"
    refused 1 "$1" "$PDQ" eval "$2" --data text.txt --seq-len 32
    refused 1 "$1" "$PDQ" export "$2" -o out
    absent out out.run
}
edited() { # NAME PYTHON: a copy of the model whose config (c), safetensors header (h) and data (d) the code changes
    rm -rf "$1"
    cp -r m "$1"
    python3 - "$1" "$2" <<'PY'
import json, struct, sys
folder, code = sys.argv[1:]
c = json.load(open(folder + "/config.json"))
raw = open(folder + "/model.safetensors", "rb").read()
n = struct.unpack("<Q", raw[:8])[0]
h, d, length = json.loads(raw[8:8 + n]), raw[8 + n:], None
exec(code)
json.dump(c, open(folder + "/config.json", "w"))
text = h if isinstance(h, bytes) else json.dumps(h).encode()
with open(folder + "/model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text) if length is None else length) + text + d)
PY
}
up=model.layers.1.mlp.up_proj.weight
bad 'no such file' none
mkdir empty
bad 'no config.json' empty
bad 'does not end in .gguf' text.txt
edited e 'c["model_type"] = "mamba"'; bad 'mamba' e
edited e 'c["hidden_act"] = "relu"'; bad 'relu' e
edited e 'c["num_attention_heads"] = 3'; bad 'num_attention_heads|num_key_value_heads' e
edited e 'c["intermediate_size"] = 96'; bad 'mlp\.(gate|up|down)_proj.*' e
edited e 'c["sliding_window"] = "wide"; c["model_type"] = "mistral"'; bad 'sliding_window' e
edited e 'length = 1 << 60'; bad 'model.safetensors.*header' e
edited e 'h = b"{not json"'; bad 'model.safetensors' e
edited e "h['$up']['data_offsets'][1] += 1 << 40"; bad "$up" e
edited e "h['$up']['dtype'] = 'I64'"; bad "$up.*I64" e
edited e "h['$up']['data_offsets'] = h['model.layers.0.mlp.up_proj.weight']['data_offsets']"; bad 'up_proj.weight' e
edited e "h['$up']['shape'] = [64, 128]"; bad "$up" e
edited e "del h['$up']"; bad 'belong to no tensor' e
edited e 'd = d[:-100]'; bad 'model.safetensors|lm_head|layers' e

make_model shards --shards 3
rm shards/model-00002-of-00003.safetensors
bad 'model-00002-of-00003.safetensors' shards

make_model smaller --vocab 290
cp -r m mixed && cp smaller/tokenizer.json mixed/
bad 'tokenizer has 290 tokens, the embedding 300' mixed
make_model larger --vocab 310
cp larger/tokenizer.json mixed/
bad 'tokenizer has 310 tokens, the embedding 300' mixed
echo '{}' > mixed/tokenizer.json
bad 'tokenizer.json' mixed

# GGUF: lengths that cannot be
"$PDQ" quantize m -o good.gguf --type Q8_0 2> /dev/null > /dev/null || fail "quantize"
wild() { # PATTERN OFFSET BYTES
    cp good.gguf wild.gguf
    printf "$3" | dd of=wild.gguf bs=1 seek="$2" conv=notrunc 2> /dev/null
    refused 1 "$1" "$PDQ" inspect wild.gguf
}
wild 'wild.gguf' 0 'GGUX'
wild 'wild.gguf.*version' 4 '\377\377'
wild 'wild.gguf' 8 '\377\377\377\377\377\377\377\177'
wild 'wild.gguf' 16 '\377\377\377\377\377\377\377\177'
wild 'wild.gguf' 24 '\377\377\377\377\377\377\377\177'
head -c 3000 good.gguf > wild.gguf
refused 1 'wild.gguf' "$PDQ" inspect wild.gguf
head -c "$(($(stat -c %s good.gguf) - 64))" good.gguf > wild.gguf
refused 1 'wild.gguf' "$PDQ" inspect wild.gguf
exit $failed
