#!/usr/bin/env bash
# GPTQ holds one layer: a process that quantizes a model of many layers holds less than the model's weights as f32.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_text text.txt 400
"$PDQ_MAKE" --output m --layers 16 --hidden 256 --heads 4 --kv-heads 2 --head-dim 64 --ffn 512 --vocab 400 --context 128 \
    --tokenizer bytelevel --split smollm --dtype bf16 > /dev/null || exit 1
python3 - "$PDQ" <<'PY' || failed=1
import os, sys
def peak(arguments):  # bytes, and of a process that does nothing
    pid = os.fork()
    if pid == 0:
        null = os.open("err.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(null, 1), os.dup2(null, 2)
        os.execv(arguments[0], arguments)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"FAILED: {arguments}: " + open("err.txt").read())
    return 1024 * usage.ru_maxrss
nothing = peak([sys.argv[1], "--version"])
was = peak([sys.argv[1], "quantize", "m", "--type", "Q4_K", "--method", "gptq", "--calibration", "text.txt", "--calibration-tokens", "256",
            "--threads", "2", "-o", "m.gguf"]) - nothing
f32 = 2 * os.path.getsize("m/model.safetensors")
print(f"{was / 1e6:.1f} MB beside the program's {nothing / 1e6:.1f}, weights as f32 {f32 / 1e6:.1f}")
# A layer is a sixteenth of them; hidden states, moments and buffers are the rest. Seen are 0.69 of all weights; with the model held it was 1.7.
if was > 0.8 * f32:
    sys.exit("FAILED: more than 0.8 of all weights as f32")
PY
exit $failed
