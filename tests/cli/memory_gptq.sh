#!/usr/bin/env bash
# GPTQ holds one layer, into a GGUF file as into integers, with factors of channels before it or not: a process that quantizes a model of many layers
# holds less than the model's weights as f32, and what the dry run says of it does not depend on how many layers there are.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_text text.txt 400
for layers in 16 32; do
    "$PDQ_MAKE" --output m$layers --layers $layers --hidden 256 --heads 4 --kv-heads 2 --head-dim 64 --ffn 512 --vocab 400 --context 128 \
        --tokenizer bytelevel --split smollm --dtype bf16 > /dev/null || exit 1
done
python3 - "$PDQ" <<'PY' || failed=1
import json, os, subprocess, sys
failed = False
def peak(arguments):  # bytes, and of a process that does nothing
    pid = os.fork()
    if pid == 0:
        null = os.open("err.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(null, 1), os.dup2(null, 2)
        os.execv(arguments[0], arguments)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"FAILED: {arguments}: " + open("err.txt").read())
    return 1024 * usage.ru_maxrss
def said(model, options):  # beside the parent's weights as f32, which the report of a run measures
    recipe = {"model": model, "data": {"seq_len": 128}, "stages": [{"quantize": {"calibration": ["text.txt"], "calibration_tokens": 256, **options}}]}
    json.dump(recipe, open("r.json", "w"))
    plan = json.loads(subprocess.run([sys.argv[1], "run", "r.json", "--dry-run", "--json"], check=True, capture_output=True).stdout)
    return plan["stages"][0]["memory_bytes"] - 4 * plan["parent"]["parameters"]
nothing = peak([sys.argv[1], "--version"])
f32 = 2 * os.path.getsize("m16/model.safetensors")
# A layer is a sixteenth of the weights; hidden states, moments and buffers are the rest. Seen are 0.53 to 0.69 of all weights; with the model held it
# was 1.7.
most = 0.9
for options in ({"type": "Q4_K", "method": "gptq"}, {"type": "W4A16", "method": "gptq"}, {"type": "GPTQ-8", "rescale": "awq"}):
    flags = [word for key, value in options.items() for word in ("--" + key, value)]
    output = "q.gguf" if options["type"] == "Q4_K" else "q"
    was = peak([sys.argv[1], "quantize", "m16", *flags, "--calibration", "text.txt", "--calibration-tokens", "256", "--threads", "2", "-o", output, "--force"])
    forecast, twice = said("m16", options), said("m32", options)
    print(f"{' '.join(options.values())}: {(was - nothing) / 1e6:.1f} MB beside the program's {nothing / 1e6:.1f}, weights as f32 {f32 / 1e6:.1f}; "
          f"said {forecast / 1e6:.1f}, of twice the layers {twice / 1e6:.1f}")
    if was - nothing > most * f32:
        failed = print(f"FAILED: more than {most} of all weights as f32") or True
    if twice != forecast:
        failed = print("FAILED: what is said depends on the number of layers") or True
    if not was <= forecast <= 2 * was: # of the 36 MB for the program and what streams such a small model takes some 20
        failed = print("FAILED: what is said is not what was") or True
sys.exit(failed)
PY
exit $failed
