#!/bin/sh
# How far quantized files are from their parent, pdq's beside llama-quantize's at the same bytes: KL divergence on held-out text, paired.
# Both learn from the same beginnings of the training texts: llama-quantize's importance matrix from all of it, pdq from CALIBRATION tokens.
#
# usage: LLAMA_BIN=folder bench/peers/llama_quality.sh FOLDER [TYPE ...]    FOLDER: for the files, replaced; types: Q2_K Q3_K Q4_0 Q4_K
# In the environment: PDQ (build/release/pdq), MODEL and TEXT (the quickstart's), TOKENS (50400), CALIBRATION (16384).
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -gt 0 ] || { sed -n '2,6s/^# *//p' "$0" >&2; exit 2; }
say() { echo "llama_quality.sh: $*" >&2; exit 1; }
whole() { readlink -f "$1" || say "$1 is not there"; } # the way from anywhere
pdq=$(whole "${PDQ:-$here/build/release/pdq}")
model=$(whole "${MODEL:-$here/recipes/quickstart/model}")
text=$(whole "${TEXT:-$here/recipes/quickstart/text}")
llama=$(whole "${LLAMA_BIN:-.}")
tokens=${TOKENS:-50400} calibration=${CALIBRATION:-16384}
[ -x "$pdq" ] || say "no $pdq; run ./bootstrap build, or name it in PDQ"
[ -x "$llama/llama-quantize" ] && [ -x "$llama/llama-imatrix" ] || say "LLAMA_BIN must name the folder of llama-quantize and llama-imatrix"
ls "$text"/*-train.txt "$text"/*-heldout.txt > /dev/null || say "recipes/quickstart/fetch gets the texts"
csv=$here/build/bench/llama-quality.csv
mkdir -p "$1" "$(dirname "$csv")"
cd "$1"
shift
[ $# -gt 0 ] || set -- Q2_K Q3_K Q4_0 Q4_K
quietly() { "$@" >> log.txt 2>&1 || { tail -3 log.txt >&2; say "this failed: $*"; }; }
: > log.txt
for f in "$text"/*-train.txt; do head -c 37000 "$f"; done > calibration.txt
for f in "$text"/*-heldout.txt; do head -c 59000 "$f"; done > heldout.txt
quietly "$pdq" quantize "$model" -o parent.gguf --type F32 --force
quietly "$llama/llama-imatrix" -m parent.gguf -f calibration.txt -o llama.imatrix -c 256

of() { sed -n "s/$1/\\1/p" eval.json; } # the number that the pattern marks; nothing where there is none
compare() { # TYPE METHOD OTHER: how much nearer TYPE-METHOD.gguf is than TYPE-OTHER.gguf
    quietly "$pdq" eval "$1-$2.gguf" --against "$model" --versus "$1-$3.gguf" --data heldout.txt --tokens "$tokens" --json
    tail -1 log.txt > eval.json
    kl=$(of '.*"kld":\([-0-9.e]*\),"top1".*') other=$(of '.*"versus":.*"kld":\([-0-9.e]*\).*')
    low=$(of '.*"difference_low":\([-0-9.e]*\).*') high=$(of '.*"difference_high":\([-0-9.e]*\).*')
    [ -n "$kl" ] && [ -n "$other" ] && [ -n "$low" ] && [ -n "$high" ] || say "no such numbers in what pdq eval wrote: $(cat eval.json)"
    printf '%s,%s,%s,%.5f,%.5f,%.5f,%.5f,%d,%d\n' "$1" "$2" "$3" "$kl" "$other" "$low" "$high" "$(wc -c < "$1-$2.gguf")" "$(wc -c < "$1-$3.gguf")" > row.csv
    cat row.csv >> "$csv"
    awk -F, '{ printf "%-6s %-10s %-10s %9s %9s   %9s to %9s %10d %10d\n", $1, $2, $3, $4, $5, $6, $7, $8, $9 }' row.csv
}

echo "type,method,against,KL,KL of the other,difference low,difference high,bytes,bytes of the other" > "$csv"
printf '%-6s %-10s %-10s %9s %9s   %-22s %10s %10s\n' type method against KL "the other" "difference, 95 %" bytes "the other"
for type in "$@"; do
    quietly "$llama/llama-quantize" --imatrix llama.imatrix parent.gguf "$type-llama.gguf" "$type"
    other=llama
    for method in gptq autoround; do
        quietly "$pdq" quantize "$model" -o "$type-$method.gguf" --type "$type" --method $method --calibration calibration.txt \
            --calibration-tokens "$calibration" --force
        compare "$type" $method $other
        other=$method
    done
done
echo "CSV: $csv"
