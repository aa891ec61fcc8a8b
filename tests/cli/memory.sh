#!/usr/bin/env bash
# The dry run's memory of a training against the peak that the training had, on the quickstart's model.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_text text.txt 1000
cp -r "$PDQ_SOURCE_DIR/recipes/quickstart/model" m

# WITHIN: of the real peak. Allocators and threads' stacks differ between machines; the promise to users is 0.15.
within=0.2
way() { # NAME TYPE OPTIONS
    local recipe="\"model\": \"m\", \"data\": {\"train\": \"text.txt\", \"eval\": \"text.txt\", \"seq_len\": 256, \"eval_tokens\": 256}, \"stages\": [{\"$2\": {\"steps\": 1, \"batch\": 4, $3}}]"
    echo "{$recipe}" > dry-run.json
    echo "{$recipe, \"variants\": [{\"name\": \"one\"}]}" > run.json # of variants no speeds are measured
    "$PDQ" run dry-run.json --dry-run --json > said.json 2> err.txt || { fail "$1: $(cat err.txt)"; return; }
    "$PDQ" run run.json -o out --force > /dev/null 2> err.txt || { fail "$1: $(cat err.txt)"; return; }
    python3 - "$1" $within <<'PY' || failed=1
import glob, json, sys
name, within = sys.argv[1], float(sys.argv[2])
said = json.load(open("said.json"))["stages"][0]["memory_bytes"]
was = json.load(open(glob.glob("out/stages/*/DONE")[0]))["measured"]["peak_memory_bytes"]
print(f"{name:24} said {said / 1e6:8.1f} MB, was {was / 1e6:8.1f} MB: {said / was - 1:+.3f}")
if abs(said / was - 1) > within:
    sys.exit(f"FAILED: {name}: more than {within} off")
PY
}
kl='"alpha": 1'
way 'cross-entropy' train '"learning_rate": 1e-4'
way 'KL' distill "$kl"
way 'KL and hidden' distill "$kl, \"hidden\": 1"
way 'KL and relations' distill "$kl, \"features\": [{\"loss\": \"query_relation\"}, {\"loss\": \"key_relation\"}, {\"loss\": \"value_relation\"}]"
way 'cached KL, making' distill "$kl, \"teacher_cache\": \"a.cache\""
way 'cached KL' distill "$kl, \"teacher_cache\": \"a.cache\""
way 'average' distill "$kl, \"ema\": 0.9"
way 'frozen' distill "$kl, \"freeze\": [\"*embed*\", \"*mlp*\"]"
way 'factors' distill "$kl, \"lora\": {\"rank\": 8}"
way 'adversarial' distill "$kl, \"fgm\": 0.1"
way 'layers again' distill "$kl, \"checkpoint\": true"
exit $failed
