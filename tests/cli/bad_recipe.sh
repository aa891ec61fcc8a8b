#!/usr/bin/env bash
# Recipes that cannot be run: one message with place, found, expected; no output folder.
. "$(dirname "$0")/helpers.inc"
make_model "$work/m"
make_text "$work/text.txt" 60
cd "$work" || exit 1

recipe() { printf '%s' "$1" > "$work/r.json"; }
bad() { # PATTERN RECIPE
    recipe "$2"
    refused 1 "$1" "$PDQ" run r.json -o out
    absent out
}
data='"data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 200}'
good="{\"model\": \"m\", $data, \"stages\": [{\"prune\": {\"ffn\": 0.5}}, {\"quantize\": {}}, {\"quantize\": {\"type\": \"Q4_0\"}}]}"

refused 1 'none.json' "$PDQ" run none.json -o out
bad 'line 1, column' '{"model" "m"}'
bad 'expected an object' '[]'
bad '"model" is missing' '{"stages": [{"prune": {"ffn": 0.5}}]}'
bad 'unknown key "stage"; did you mean "stages"' '{"model": "m", "stage": []}'
bad 'unknown key "ffnn"; did you mean "ffn"' '{"model": "m", "stages": [{"prune": {"ffnn": 0.5}}]}'
bad 'unknown stage type "destill"; did you mean "distill"' '{"model": "m", "stages": [{"destill": {}}]}'
bad 'stages\[0\].prune: "ffn": found "half", expected a number' '{"model": "m", "stages": [{"prune": {"ffn": "half"}}]}'
bad '"ffn": found 1.5, expected a number from 0 to' '{"model": "m", "stages": [{"prune": {"ffn": 1.5}}]}'
bad '"stages": expected a list' '{"model": "m", "stages": {}}'
bad 'one key, the stage' '{"model": "m", "stages": [{"prune": {}, "distill": {}}]}'
bad 'nothing to remove' '{"model": "m", "stages": [{"prune": {}}]}'
bad 'data.train: no such file' '{"model": "m", "data": {"train": "none.txt"}, "stages": [{"train": {"tokens": 100}}]}'
bad '"data" has none' '{"model": "m", "stages": [{"train": {"tokens": 100}}]}'
bad 'found "IQ3_S".*expected F32' '{"model": "m", "stages": [{"quantize": {"type": "IQ3_S"}}]}'
bad 'did you mean Q8_0' '{"model": "m", "stages": [{"quantize": {"type": "Q80"}}]}'
bad 'none: no such file or directory' '{"model": "none", "stages": [{"quantize": {}}]}'
bad 'seq_len: found 500, expected 2 to the model.s context, 256' \
    '{"model": "m", "data": {"seq_len": 500, "train": "text.txt"}, "stages": [{"train": {"tokens": 100}}]}'
: > empty.txt
bad 'empty.txt|data.train' '{"model": "m", "data": {"train": "empty.txt", "seq_len": 32}, "stages": [{"train": {"tokens": 100}}]}'
bad 'keep_best' "{\"model\": \"m\", \"data\": {\"train\": \"text.txt\", \"seq_len\": 32}, \"stages\": [{\"train\": {\"tokens\": 100, \"eval_every\": 1, \"keep_best\": true}}]}"
bad 'no multiple of .*block of 256' '{"model": "m", "stages": [{"quantize": {"type": "Q4_K"}}]}'
training() { # PATTERN OPTIONS: of a training
    bad "$1" "{\"model\": \"m\", $data, \"stages\": [{\"train\": {\"steps\": 1, $2}}]}"
    bad "$1" "{\"model\": \"m\", $data, \"stages\": [{\"distill\": {\"steps\": 1, $2}}]}"
}
training 'freeze: "\*embd\*" matches no tensor; .* near: model.embed_tokens.weight' '"freeze": "*embd*"'
training 'match all [0-9]+ tensors, and nothing is left to train' '"freeze": ["*"]'
training 'rates: "layers.7.\*" matches no tensor; .* near: model.layers' '"rates": {"layers.7.*": 0.1}'
training 'rates: "\*norm\*": expected a number above 0' '"rates": {"*norm*": "half"}'
training 'lora: unknown key "rang"; did you mean "rank"' '"lora": {"rang": 2}'
training 'lora: found a number, expected an object' '"lora": 8'
training 'lora.targets: "\*embed\*" matches no tensor that it can be for; .* near: model.layers' '"lora": {"targets": "*embed*"}'
training '"lora" puts factors beside weights .* "quantize" rounds' '"lora": {}, "quantize": "Q8_0"'
bad '"inherit" chooses what a student begins with' \
    '{"model": "m", "data": {"train": "text.txt", "seq_len": 32}, "stages": [{"prune": {"ffn": 0.5, "steps": 2, "recover": {"steps": 1, "inherit": true}}}]}'
training '"lora" freezes all weights .*leave "freeze" out' '"lora": {}, "freeze": "*norm*"'
training '"ema": found 1, expected a number from 0 to' '"ema": 1'
training '"fgm": found -1, expected a number from 0' '"fgm": -1'
bad 'lottery: "ema" is for train and distill' "{\"model\": \"m\", $data, \"stages\": [{\"lottery\": {\"steps\": 2, \"eval_every\": 1, \"ema\": 0.9}}]}"
make_model other --vocab 400
# A distillation inside another stage: messages have the key that is written, and come before anything runs, also from a forecast.
sourced='"data": {"sources": [{"name": "sheep", "train": "text.txt", "eval": "text.txt"}], "seq_len": 32, "eval_tokens": 200}'
recovering() { # OPTIONS: a recipe that recovers with them
    recipe "{\"model\": \"m\", $sourced, \"stages\": [{\"prune\": {\"ffn\": 0.5, \"steps\": 2, \"calibration_tokens\": 128, \"recover\": {\"steps\": 1, $1}}}]}"
}
while IFS='|' read -r message options; do
    recovering "$options"
    refused 1 "r.json: stages\[0\].prune.recover$message" "$PDQ" run r.json -o out
    refused 1 "r.json: stages\[0\].prune.recover$message" "$PDQ" run r.json --dry-run
    absent out
done <<'KEYS'
.mixture: no source is named "goats"|"mixture": {"goats": 1}
.mixture.sheep: found a string, expected a number|"mixture": {"sheep": "all"}
.mixture: found a number, expected an object|"mixture": 3
.freeze: "\*embd\*" matches no tensor|"freeze": "*embd*"
.rates: "layers.7.\*" matches no tensor|"rates": {"layers.7.*": 0.1}
.lora.targets: "\*embed\*" matches no tensor|"lora": {"targets": "*embed*"}
: "alpha": found 3, expected|"alpha": 3
: .*"jitter" and "drop_class" are for classifiers of images|"jitter": 2
: "mask_words" and "ngrams" change the texts of a classifier|"mask_words": 0.1
.layer_map: found "9:9", expected one of|"layer_map": "9:9"
.layer_map\[0\]: expected a teacher layer from 0 to 1|"layer_map": [[0, 7]]
.features\[0\].map: found "9:9", expected one of|"features": [{"loss": "hidden_mse", "map": "9:9"}]
.features\[0\].map\[0\]: expected a student layer from 0 to 1|"features": [{"loss": "hidden_mse", "map": [[2, 0]]}]
.features\[0\].loss: found "hiden_mse"; did you mean "hidden_mse"|"features": [{"loss": "hiden_mse"}]
.features\[0\].weight: is 0 over the whole run|"features": [{"loss": "hidden_mse", "weight": 0}]
.features\[0\]: attention_kl reads what a layer.s attention reads|"features": [{"loss": "attention_kl"}], "checkpoint": true
.divergence: found "nope", expected one of|"divergence": "nope"
.divergence.tv: is 0 over the whole run|"divergence": {"tv": 0}
.teacher_weights: expected a list of 1 numbers|"teacher_weights": [1, 1]
: the teacher.s vocabulary has 400 entries, the student.s 300|"teacher": "other"
: teacher 1 \(from 0\).s vocabulary has 400 entries|"teacher": ["m", "other"]
KEYS
# Each step's student has its own shape: of 2 layers one goes in the first of two steps, and heads in both.
shapes() { # MESSAGE PRUNE RECOVER
    recipe "{\"model\": \"m\", $data, \"stages\": [{\"prune\": {$2, \"steps\": 2, \"calibration_tokens\": 128, \"recover\": {\"steps\": 1, $3}}}]}"
    refused 1 "r.json: stages\[0\].prune.recover$1" "$PDQ" run r.json --dry-run
}
shapes '.layer_map\[0\]: expected a student layer from 0 to 0' '"layers": 0.5, "schedule": "cubic"' '"layer_map": [[1, 1]]'
shapes '.features\[0\]: student layer 0 has 2 heads, teacher layer 0 4' '"heads": 0.5, "schedule": "cubic"' '"features": [{"loss": "attention_kl"}]'
bad 'vocabulary' "{\"model\": \"m\", $data, \"stages\": [{\"distill\": {\"teacher\": \"other\", \"tokens\": 100}}]}"
bad 'memory' "{\"model\": \"m\", \"data\": {\"train\": \"text.txt\", \"seq_len\": 32}, \"stages\": [{\"train\": {\"steps\": 1, \"batch\": 65000}}, {\"train\": {\"steps\": 1, \"batch\": 60000}}]}"

recipe "$good"
set_bad() { refused 1 "$2" "$PDQ" run r.json -o out --set "$1"; absent out; }
set_bad 'prune.fnn=0.1' 'did you mean "ffn"'
set_bad 'prine.ffn=0.1' 'did you mean "prune"'
set_bad 'quantize.type=F16' 'stages\[1\].quantize.type, stages\[2\].quantize.type'
set_bad 'stages[7].prune.ffn=0.1' '3 stages'
set_bad 'stages[0].distill.alpha=1' 'is of type "prune"'
set_bad 'distill.alpha=1' 'no stage of type "distill"'
set_bad 'seed=minus' 'seed'
set_bad 'prune' 'KEY=VALUE'
"$PDQ" run r.json --dry-run --set prune.ffn=0.25 --set 'stages[1].quantize.type=F16' --set data.seq_len=16 2> /dev/null > dry ||
    fail "good --set refused"
grep -q 'FFN 128 -> .*FFN 96' dry || fail "--set prune.ffn=0.25 has no effect"
grep -q 'GGUF F16' dry || fail "--set stages[1]... has no effect"
exit $failed
