#!/usr/bin/env bash
# A BiLSTM classifier from the command line: trained on labels, and distilled from a small BERT that reads the same words; evaluated, inspected,
# exported to a folder; the same bytes with 1 and 2 threads and after kill -9; what works on transformer blocks alone is refused in words.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
mkdir teacher lstm
printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' the film was good bad very not plot long . > teacher/vocab.txt
cp teacher/vocab.txt lstm
cat > teacher/config.json << 'JSON'
{"architectures": ["BertForSequenceClassification"], "model_type": "bert", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2,
 "intermediate_size": 64, "vocab_size": 15, "max_position_embeddings": 24, "id2label": {"0": "no", "1": "yes"}}
JSON
cat > lstm/config.json << 'JSON'
{"model_type": "bilstm", "vocab_size": 15, "embedding_size": 12, "hidden_size": 10, "classifier_size": 8, "id2label": {"0": "no", "1": "yes"}}
JSON
rows() { # SEED N
    awk -v seed="$1" -v n="$2" 'BEGIN {
        srand(seed); split("the film was very plot not long .", fill, " "); print "sentence\tlabel"
        for (i = 0; i < n; i++) {
            good = rand() < 0.5; text = ""; words = 1 + int(rand() * 8); at = int(rand() * (words + 1))
            for (w = 0; w <= words; w++) text = text (w == at ? (good ? "good " : "bad ") : fill[1 + int(rand() * 8)] " ")
            print substr(text, 1, length(text) - 1) "\t" good
        } }'
}
rows 1 1100 > train.tsv
rows 2 100 > test.tsv
data='"data": {"train": ["train.tsv"], "eval": ["test.tsv"], "seq_len": 24, "validation": 100}, "seed": 1'
cat > teacher.json << JSON
{"model": "teacher", $data, "stages": [{"train": {"init": true, "steps": 250, "batch": 16, "learning_rate": 3e-3, "weight_decay": 0.01}}]}
JSON
cat > train.json << JSON
{"model": "lstm", $data, "stages": [{"train": {"init": true, "steps": 250, "batch": 32, "learning_rate": 1e-2, "weight_decay": 0.01, "dropout": 0.05,
 "dropout_input": 0.05, "eval_every": 50, "keep_best": true, "snapshot_every": 40}}]}
JSON
cat > distill.json << JSON
{"model": "one/01-train", $data, "stages": [{"distill": {"shape": "lstm", "steps": 250, "batch": 32, "learning_rate": 1e-2, "alpha": 1,
 "temperature": 2, "weight_decay": 0.01}}]}
JSON
good() { # MODEL: nine of ten answers are right
    "$PDQ" eval "$1" --task classification --data test.tsv --json 2> err.txt | grep -Eq '"accuracy":(9[0-9]|100)' ||
        fail "$1 learned too little: $("$PDQ" eval "$1" --data test.tsv 2>&1)"
}
"$PDQ" run train.json -o alone --threads 1 > out.txt 2> err.txt || fail "training: $(tail -1 err.txt)"
run_killed 1 begun train.json two 1 --threads 2
cmp alone/01-train/model.safetensors two/01-train/model.safetensors || fail "1 and 2 threads, one killed: other weights"
good alone/01-train
"$PDQ" run teacher.json -o one > out.txt 2> err.txt || fail "the teacher: $(tail -1 err.txt)"
"$PDQ" run distill.json -o student > out.txt 2> err.txt || fail "distilling: $(tail -1 err.txt)"
good student/01-distill
"$PDQ" eval student/01-distill --data test.tsv --against one/01-train > out.txt 2> err.txt && grep -q 'McNemar p' out.txt ||
    fail "against the teacher: $(cat err.txt)"

"$PDQ" inspect student/01-distill > out.txt || fail "inspect"
grep -q 'embeddings of 12, 10 cells in each direction, 8 rectified units' out.txt || fail "inspect: $(cat out.txt)"
"$PDQ" export student/01-distill -o half --dtype f16 --log warn > /dev/null 2> err.txt || fail "export: $(cat err.txt)"
good half
python3 - << 'PY' || fail "tensors or config.json are not as torch.nn.LSTM and the source have them"
import json, struct
with open("half/model.safetensors", "rb") as f:
    head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
shapes = {k: v["shape"] for k, v in head.items() if k != "__metadata__"}
wanted = {"embedding.weight": [15, 12], "dense.weight": [8, 20], "dense.bias": [8], "classifier.weight": [2, 8], "classifier.bias": [2]}
for back in ("", "_reverse"):
    wanted.update({"lstm.weight_ih_l0" + back: [40, 12], "lstm.weight_hh_l0" + back: [40, 10], "lstm.bias_ih_l0" + back: [40],
                   "lstm.bias_hh_l0" + back: [40]})
assert shapes == wanted, shapes
source, config = json.load(open("lstm/config.json")), json.load(open("half/config.json"))
assert all(config[k] == v for k, v in source.items()) and config["max_position_embeddings"] == 512 and config["torch_dtype"] == "float16", config
PY

cp -r one/01-train unmasked
sed -i 's/\[MASK\]/[OTHER]/' unmasked/vocab.txt
blocks='works on attention and feed-forward blocks; a bilstm model has none'
refused 1 "$blocks" "$PDQ" prune alone/01-train -o bad --ffn 0.5 --score l2
refused 1 "$blocks" "$PDQ" sparsify alone/01-train -o bad --sparsity 0.5 --score magnitude
refused 1 'GGUF: a bilstm model has no place there' "$PDQ" quantize alone/01-train -o bad.gguf
refused 1 'GGUF: a bilstm model has no place there' "$PDQ" export alone/01-train -o bad.gguf
refused 1 'a model that reads both ways .model_type bilstm.' "$PDQ" generate alone/01-train --prompt good
states='a bilstm model has no blocks whose states could be compared'
refused 1 "distill.hidden: $states" "$PDQ" run distill.json -o bad --set distill.hidden=1
refused 1 "distill.features: $states" "$PDQ" run distill.json -o bad --set 'distill.features=[{"loss": "hidden"}]'
refused 1 "distill.hidden: $states" "$PDQ" run distill.json -o bad --set model=alone/01-train --set distill.shape=teacher --set distill.hidden=1
refused 1 'distill.inherit: a bilstm student has nothing of a bert teacher.s weights' "$PDQ" run distill.json -o bad --set distill.inherit=true
"$PDQ" run distill.json -o hidden --set model=unmasked --set distill.mask_words=0.1 > /dev/null 2> err.txt && fail "words were hidden without a mask"
grep -q 'the tokenizer has no token that hides a word' err.txt || fail "without a mask: $(cat err.txt)"
refused 1 'this is a language model' "$PDQ" run teacher.json -o bad --set train.dropout_input=0.1
sed -i 's/"hidden_size": 10, //' lstm/config.json
refused 1 'hidden_size is missing; expected a whole number from 1' "$PDQ" run train.json -o bad
absent bad bad.gguf
exit $failed
