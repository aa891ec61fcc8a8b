#!/usr/bin/env bash
# llama.cpp itself as the judge: it loads our GGUF files of the embedded model, whole and pruned, in every type, and its
# llama-perplexity agrees with `pdq eval --protocol llama.cpp` on the same file within 0.2 %. Skipped where llama-perplexity
# is neither on PATH nor in $LLAMA_CPP_BIN, or where the held-out text (recipes/quickstart/fetch) is absent.
. "$(dirname "$0")/helpers.inc"
model=$PDQ_SOURCE_DIR/recipes/quickstart/model
text=${PDQ_LLAMA_TEXT:-$PDQ_SOURCE_DIR/recipes/quickstart/text/kjv-heldout.txt}
PATH=$PATH:${LLAMA_CPP_BIN:-}
command -v llama-perplexity > /dev/null || { echo "skipped: no llama-perplexity on PATH"; exit 77; }
[ -f "$text" ] || { echo "skipped: no $text; recipes/quickstart/fetch gets it"; exit 77; }
cd "$work" || exit 1
head -c 60000 "$text" > part.txt

"$PDQ" prune "$model" -o half --heads 0.5 --ffn 0.5 --score l2 --align 256 2> err.txt || fail "prune: $(cat err.txt)"
for source in "$model" half; do
    for type in F16 Q8_0 Q4_0 Q4_K Q6_K; do
        "$PDQ" quantize "$source" -o m.gguf --type $type --force 2> err.txt > out.txt || fail "quantize $type: $(cat err.txt)"
        ours=$("$PDQ" eval m.gguf --data part.txt --protocol llama.cpp --seq-len 256 --json 2> /dev/null |
            sed 's/.*"ppl":\([0-9.]*\).*/\1/')
        llama-perplexity -m m.gguf -f part.txt -c 256 -b 256 -ub 8 -t 1 > theirs.txt 2>&1 || fail "llama-perplexity on $type"
        theirs=$(sed -n 's/.*Final estimate: PPL = \([0-9.]*\).*/\1/p' theirs.txt)
        echo "$(basename "$source") $type: pdq $ours, llama.cpp $theirs"
        awk -v a="$ours" -v b="$theirs" 'BEGIN { exit !(b > 0 && a / b < 1.002 && a / b > 0.998) }' ||
            fail "$source $type: pdq $ours, llama.cpp $theirs: more than 0.2 % apart"
    done
done
exit $failed
