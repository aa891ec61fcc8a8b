#!/usr/bin/env bash
# A GGUF file as the MODEL of every command: pruned, trained, exported to a folder with a tokenizer that gives the same
# ids, quantized again; padding id and chat template go both ways.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_text text.txt 60
quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }
loss() { "$PDQ" eval "$1" --data text.txt --seq-len 32 --tokens 200 --json | grep -o '"nll":[0-9.]\{10\}'; } # eight decimals: a file keeps rms_norm_eps as f32

add_template() {
    python3 - << 'END' || fail "cannot add a chat template"
import json, os
name = "m/tokenizer_config.json"
c = json.load(open(name)) if os.path.exists(name) else {}
c["chat_template"] = "{{ bos_token }}{% for m in messages %}\"{{ m }}\"{% endfor %}"
json.dump(c, open(name, "w"))
c = json.load(open("m/config.json"))
c["pad_token_id"] = 2
json.dump(c, open("m/config.json", "w"))
END
}

for kind in spm-like "bytelevel --split smollm" "bytelevel --split llama-bpe"; do
    rm -rf m m.gguf back p d again.gguf direct.gguf out
    # shellcheck disable=SC2086
    make_model m --dtype f32 --vocab 400 --tokenizer $kind
    add_template
    quiet "$PDQ" export m -o m.gguf --dtype f32
    grep -aq 'tokenizer.chat_template' m.gguf || fail "$kind: no chat template in the file"
    grep -aq 'tokenizer.ggml.padding_token_id' m.gguf || fail "$kind: no padding id in the file"
    quiet "$PDQ" export m.gguf -o back --dtype f32
    [ "$(loss back)" = "$(loss m.gguf)" ] || fail "$kind: the folder's loss $(loss back) is not the file's $(loss m.gguf)"
    [ "$(loss back)" = "$(loss m)" ] || fail "$kind: the loss after both ways $(loss back) is not the first $(loss m)"
    grep -q 'for m in messages' back/tokenizer_config.json || fail "$kind: the chat template is lost"
    for text in "3 sheep  were, 'counted'. It's 1234567 o'clock" "  x" "$(printf 'a\n\n b')" "é ü 漢字 😀"; do
        [ "$("$PDQ" tokenize m --text "$text")" = "$("$PDQ" tokenize back --text "$text")" ] ||
            fail "$kind: other ids for '$text'"
    done
    quiet "$PDQ" prune m.gguf -o p --ffn 0.5 --heads 0.5 --data text.txt --seq-len 32 --calibration-tokens 64
    "$PDQ" inspect p | grep -q '2 query and 1 key/value heads of 32, FFN 64' || fail "$kind: pruned shape"
    quiet "$PDQ" distill p --teacher m.gguf -o d --data text.txt --seq-len 32 --steps 2 --batch 2
    quiet "$PDQ" quantize m.gguf -o again.gguf --type Q8_0
    quiet "$PDQ" quantize m -o direct.gguf --type Q8_0
    [ "$(loss again.gguf)" = "$(loss direct.gguf)" ] || fail "$kind: quantized from the file is not quantized from the folder"
    echo '{"model": "m.gguf", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 100},
     "stages": [{"prune": {"ffn": 0.5, "calibration_tokens": 64}}, {"train": {"steps": 2, "batch": 2}}, {"quantize": {}}]}' > r.json
    quiet "$PDQ" run r.json -o out
    grep -q '^parent ' out.txt && grep -q '^Q8_0 ' out.txt || fail "$kind: rows are missing"
done
exit $failed
