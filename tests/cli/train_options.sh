#!/usr/bin/env bash
# Options of trainings from the command line: averages, frozen tensors, low-rank factors and adversarial moves in train and distill, of a causal
# model and of an encoder; the same bytes with 1 and 2 threads; what the dry run says of them; zeros that stay zero.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 200
make_classifier bert 1 32 2
make_table table.tsv 40

text='"data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 200}'
table='"data": {"train": ["table.tsv"], "eval": ["table.tsv"], "seq_len": 24, "validation": 10}'
all='"ema": 0.9, "fgm": 0.01' # fresh embeddings are that small
cat > causal.json <<JSON
{"model": "m", $text, "stages": [{"prune": {"ffn": 0.5, "score": "magnitude"}}, {"distill": {"steps": 6, "batch": 2, $all, "freeze": ["*embed*"], "rates": {"*norm*": 0.1}}},
 {"train": {"steps": 6, "batch": 2, $all, "lora": {"rank": 2}}}]}
JSON
cat > encoder.json <<JSON
{"model": "bert", $table, "stages": [{"train": {"init": true, "steps": 40, "batch": 8, "learning_rate": 1e-2, $all, "freeze": "*position*", "eval_every": 20, "keep_best": true}}]}
JSON
cat > taught.json <<JSON
{"model": "encoder-1/01-train", $table, "stages": [{"prune": {"ffn": 0.5, "score": "magnitude"}},
 {"distill": {"steps": 6, "batch": 4, $all, "lora": {"rank": 2, "targets": ["*query*", "*value*"]}}}]}
JSON
for recipe in causal encoder taught; do
    for threads in 1 2; do
        "$PDQ" run $recipe.json -o $recipe-$threads --threads $threads > /dev/null 2> err.txt || fail "$recipe: $(cat err.txt)"
    done
    for stage in $(cd $recipe-1 && ls -d 0[1-9]*); do
        cmp $recipe-1/$stage/model.safetensors $recipe-2/$stage/model.safetensors || fail "$recipe, $stage: other bytes with 2 threads"
    done
done
for log in causal-1/02-distill causal-1/03-train encoder-1/01-train taught-1/02-distill; do
    grep -q '"fgm":' $log/run.jsonl || fail "$log: no adversarial loss in the log"
done
"$PDQ" eval taught-1/02-distill --task classification --data table.tsv --json 2> err.txt | grep -q '"accuracy":100' || fail "the encoder did not learn"

# Zeros of a sparsify stage stay, also under merged factors.
cat > sparse.json <<JSON
{"model": "m", $text, "stages": [{"sparsify": {"sparsity": 0.5, "score": "magnitude"}}, {"train": {"steps": 6, "batch": 2, "lora": {"rank": 2}, "learning_rate": 1e-2}}]}
JSON
"$PDQ" run sparse.json -o sparse > /dev/null 2> err.txt || fail "sparse: $(cat err.txt)"
python3 - <<'PY' || fail "zeros"
import json, struct
def read(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    head, body = json.loads(data[8:8 + n]), data[8 + n:]
    head.pop("__metadata__", None)
    return {k: struct.unpack(f"<{(v['data_offsets'][1] - v['data_offsets'][0]) // 4}f", body[slice(*v["data_offsets"])]) for k, v in head.items()}
before, after = (read(f"sparse/{d}/model.safetensors") for d in ("01-sparsify", "02-train"))
changed = 0
for name, w in before.items():
    assert all(b == 0 for a, b in zip(w, after[name]) if a == 0), name
    changed += w != after[name]
    assert (w == after[name]) == ("_proj" not in name), name
assert changed > 0
PY

# What is frozen takes neither memory nor time, and the dry run says so.
plain=$("$PDQ" run causal.json --dry-run --json --set 'stages[1].distill.freeze=[]' 2> /dev/null)
frozen=$("$PDQ" run causal.json --dry-run --json --set 'stages[1].distill.freeze=["*embed*","*mlp*"]' 2> /dev/null)
python3 - "$plain" "$frozen" <<'PY' || fail "the dry run of frozen tensors"
import json, sys
a, b = (json.loads(t)["stages"][1] for t in sys.argv[1:])
for key in ("flops", "seconds", "memory_bytes", "scratch_bytes"):
    assert b[key] < a[key], (key, a[key], b[key])
PY
echo "{\"model\": \"$PDQ_SOURCE_DIR/recipes/lenet\", \"stages\": [{\"train\": {\"init\": true, \"steps\": 1, \"fgm\": 0.1}}]}" > images.json
refused 1 'fgm: it moves embeddings of tokens; a lenet model has none' "$PDQ" run images.json --dry-run
exit $failed
