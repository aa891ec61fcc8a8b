#!/usr/bin/env bash
# Every way to teach, killed at moments that a seed chooses and gone on with at another number of threads: the same bytes as a run left alone.
# To add one: a row, its name and its recipe's stages. Killing while a stage prunes, quantizes or saves: resume.sh.
. "$(dirname "$0")/helpers.inc"
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model parent --dtype f32 --layers 3 --seed 2
make_model other --dtype f32 --layers 1 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16 --seed 3
make_model half --dtype f32 --layers 2 --hidden 48 --heads 4 --kv-heads 4 --head-dim 16
make_model small --dtype f32 --layers 1 --hidden 32 --heads 2 --kv-heads 2 --head-dim 16 --ffn 64
make_text text.txt 60

often='"steps": 10, "batch": 2, "snapshot_every": 2'
student="\"shape\": \"small\", $often"
rows=(
    "one teacher|{\"distill\": {$student}}"
    "several teachers|{\"distill\": {$student, \"teacher\": [\"parent\", \"other\"], \"teacher_weights\": [3, 1], \"divergence\": {\"kl\": 1, \"js\": 0.5},
        \"features\": [{\"loss\": \"hidden_mse\", \"weight\": 0.1}, {\"loss\": \"cka\", \"teacher\": 1}]}}"
    "teacher assistant|{\"distill\": {\"shape\": \"half\", $often}}, {\"distill\": {$student}}"
    "born again|{\"distill\": {\"shape\": \"parent\", $often}}, {\"distill\": {\"shape\": \"parent\", $often}}"
    "deeper layers teach shallower ones|{\"distill\": {$often, \"teacher\": \"parent\", \"alpha\": 0, \"features\": [{\"loss\": \"hidden_cosine\", \"map\": [[0, 2], [1, 2]]}]}}"
    "mutual learning|{\"distill\": {$student, \"students\": [{\"shape\": \"half\"}, {\"model\": \"other\"}]}}"
    "hard, then soft|{\"distill\": {$student, \"order\": \"hard_first\", \"temperature_rule\": \"falling\"}}"
    "TinyBERT's two stages|{\"distill\": {$student, \"alpha\": 0, \"features\": [{\"loss\": \"embedding_mse\"}, {\"loss\": \"hidden_mse\", \"weight\": 0.1}]}},
        {\"distill\": {$often, \"teacher\": \"parent\", \"alpha\": 1}}"
    "from a cache|{\"distill\": {$student, \"teacher_cache\": \"auto\"}}"
    "on sampled text|{\"sample\": {\"tokens\": 400, \"batch\": 4}}, {\"distill\": {$student}}"
    "difference sampling|{\"select\": {\"reference\": \"other\", \"batch\": 4}}, {\"distill\": {$student}}"
    "adversarial|{\"distill\": {$student, \"fgm\": 0.1, \"hide_tokens\": 0.1}}"
    "moving average|{\"distill\": {$student, \"ema\": 0.9, \"eval_every\": 4, \"keep_best\": true, \"freeze\": [\"*embed*\"], \"rates\": {\"*norm*\": 0.1}}}"
    "low-rank factors|{\"prune\": {\"ffn\": 0.5, \"score\": \"l1\"}}, {\"distill\": {$often, \"lora\": {\"rank\": 2}}}"
    "learned projections|{\"distill\": {$student, \"features\": [{\"loss\": \"hidden_mse\"}, {\"loss\": \"fsp\"}, {\"loss\": \"value_relation\"}]}}"
    "the encoder's scales|{\"distill\": {$often, \"quantize\": \"Q4_0\"}}"
    "learned scales|{\"distill\": {$often, \"quantize\": \"Q4_0\", \"quantize_scales\": \"learned\"}}"
)

RANDOM=11
total=0
for row in "${rows[@]}"; do
    name=${row%%|*}
    printf '{"model": "parent", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 16, "eval_tokens": 64}, "stages": [%s]}' "${row#*|}" > r.json
    rm -rf alone killed
    "$PDQ" run r.json -o alone > /dev/null 2> err.txt || { fail "$name: $(cat err.txt)"; continue; }
    kill_runs begun r.json killed 2
    (cd alone && find . \( -name '*.safetensors' -o -name run.jsonl -o -name '*.f64' -o -name '*.cache' -o -name tokens -o -name scores -o -name windows \)) > files
    [ "$(grep -c safetensors files)" -gt 0 ] || fail "$name: no model"
    while read -r file; do cmp "alone/$file" "killed/$file" || fail "$name: $file differs"; done < files
    left=$(find killed -name snapshot -o -name '*.part' -o -name '*.tmp-*')
    [ -z "$left" ] || fail "$name: left behind: $left"
    total=$((total + kills))
done
echo "$total kills"
[ $total -ge ${#rows[@]} ] || fail "$total kills of ${#rows[@]} ways to teach"
exit $failed
