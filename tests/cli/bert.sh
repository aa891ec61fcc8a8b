#!/usr/bin/env bash
# The BERT family from the command line: checkpoints as one finds them (tests/ref/make_bert.py) come out with the same tensors, names and
# config, what is pruned (fewer channels, fewer heads as pruned_heads, padded) computes the same, and so does an encoder that was a GGUF file,
# by tests/ref/read_bert.py.
. "$(dirname "$0")/helpers.inc"
python=/usr/bin/python3 # Debian's, which has python3-torch
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
$python -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("numpy")))' ||
    { echo "skipped: $python has no torch (apt-get install python3-torch)"; exit 77; }
run() { "$PDQ" "$@" --log warn > out.txt 2> err.txt || fail "pdq $*: $(cat err.txt)"; }
cd "$work" || exit 1

cat > sources.txt << 'LIST'
bert-classes bert classes --old
bert-tiny bert classes --tiny
bert-masked bert masked --old
bert-untied bert masked --untied
bert-pretraining bert pretraining --old
bert-spans bert spans
bert-base bert none
bert-bare bert none --bare --old
minilm bert none --bare --tiny
bert-nameless bert pretraining --old --nameless
distilbert-classes distilbert classes
distilbert-masked distilbert masked --old
distilbert-untied distilbert masked --untied
distilbert-spans distilbert spans
distilbert-base distilbert none
distilbert-bare distilbert none --bare
roberta-classes roberta classes --old
roberta-masked roberta masked --old
roberta-untied roberta masked --untied
roberta-spans roberta spans
roberta-base roberta none
roberta-bare roberta none --bare
roberta-nameless roberta classes --nameless
LIST
$python "$PDQ_SOURCE_DIR/tests/ref/make_bert.py" < sources.txt || fail "make_bert.py"
$python - << 'PY'
import random
random.seed(1)
words = lambda: " ".join(f"word{random.randrange(32)}" for _ in range(random.randint(1, 7)))
open("one.tsv", "w").write("sentence\tlabel\n" + "".join(f"{words()}\t{random.randrange(3)}\n" for _ in range(40)))
open("two.tsv", "w").write("a\tb\tlabel\n" + "".join(f"{words()}\t{words()}\t{random.randrange(3)}\n" for _ in range(40)))
PY

echo 'Word3, wörd5! unheard-of [MASK] 語 word31' > words.txt

# read_bert.py goes through these lines at the end
agrees() { # folder: pdq's losses on single texts and on pairs
    local table ours options
    for table in one two; do
        options=(); [ $table = two ] && options=(--text a --pair b)
        ours=$("$PDQ" eval "$1" --data $table.tsv "${options[@]}" --json 2> err.txt | sed 's/.*"nll":\([0-9.]*\).*/\1/')
        [ -n "$ours" ] || fail "pdq eval $1: $(cat err.txt)"
        echo "loss $1 $table.tsv ${ours:-0}"
    done >> checks.txt
}
while read -r name _ head _; do
    run export $name -o $name-copy --dtype f32
    run export $name-copy -o $name-again --dtype f32
    run prune $name -o $name-heads --heads 0.34 --ffn 0.5 --score l2 --align 4
    grep -q pruned_heads $name-heads/config.json || fail "$name: no pruned_heads"
    run prune $name -o $name-uneven --heads 0.34 --score l2 --scope global --align 4
    for kind in heads uneven; do
        run export $name-$kind -o $name-$kind-padded --padded --dtype f32
        grep -q pruned_heads $name-$kind-padded/config.json && fail "$name-$kind: padded, and pruned_heads"
        echo "close $name-$kind $name-$kind-padded" >> checks.txt
    done
    case $name in *-nameless) ;; *) echo "same $name $name-copy --spare" >> checks.txt ;; esac
    echo "same $name-copy $name-again" >> checks.txt
    if [ "$head" = none ] && [ -f $name/vocab.txt ]; then # RoBERTa's positions are others there where padding lies inside
        run export $name -o $name.gguf --dtype f32
        run export $name.gguf -o $name-back --dtype f32
        echo "close $name $name-back" >> checks.txt
        "$PDQ" tokenize $name --file words.txt > ids.txt 2> err.txt && "$PDQ" tokenize $name-back --file words.txt > back.txt 2> err.txt &&
            cmp ids.txt back.txt || fail "$name: other tokens after GGUF: $(cat err.txt)"
    fi
    if [ "$head" = classes ] && [ -f $name/vocab.txt ]; then
        for folder in $name $name-heads $name-heads-padded $name-uneven $name-uneven-padded; do
            agrees $folder
        done
    fi
done < sources.txt
"$PDQ" export bert-classes -o classes.gguf --dtype f32 > out.txt 2> err.txt && grep -q "does not get the model's head for classes, nor its pooler" err.txt ||
    fail "GGUF without the head, and no word of it: $(cat err.txt)"
refused 1 'heads of width 8 make 16, and llama.cpp wants the hidden size, 24, for bert' "$PDQ" export bert-base-heads -o bad.gguf
run export bert-base-heads -o padded.gguf --padded --dtype f32
run export padded.gguf -o bert-base-heads-back --dtype f32
echo "close bert-base-heads bert-base-heads-back" >> checks.txt
mkdir cased && cp bert-base/* cased && echo '{"do_lower_case": false}' > cased/tokenizer_config.json
refused 1 "does not clean words as uncased BERT does .*llama.cpp's WordPiece always does" "$PDQ" export cased -o bad.gguf
"$PDQ" inspect bert-classes-heads | grep -q 'transformers 4: yes (pruned_heads)' || fail "inspect does not say where fewer heads load"
grep -q BertForPreTraining bert-nameless-copy/config.json && grep -q RobertaForSequenceClassification roberta-nameless-copy/config.json ||
    fail "the head of a config.json without architectures: $(grep -h For *-nameless-copy/config.json)"
$python "$PDQ_SOURCE_DIR/tests/ref/read_bert.py" < checks.txt > failures.txt 2>&1 || fail "read_bert.py: $(cat failures.txt)"
exit $failed
