#!/bin/sh
# How far quantized files are from their parent, pdq's beside llama-quantize's at the same bytes: KL divergence on held-out text, paired.
# Both learn from the same beginning of each training text (an importance matrix each; pdq's GPTQ and learned rounding).
#
# usage: LLAMA_BIN=folder bench/peers/llama_quality.sh FOLDER [TYPE ...]      FOLDER: for the files; types: Q2_K Q3_K Q4_0 Q4_K
# In the environment: PDQ (build/release/pdq), MODEL and TEXT (the quickstart's), TOKENS (50400), CALIBRATION (16384 tokens).
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -gt 0 ] || { sed -n '2,6s/^# *//p' "$0" >&2; exit 2; }
pdq=${PDQ:-$here/build/release/pdq} model=${MODEL:-$here/recipes/quickstart/model} text=${TEXT:-$here/recipes/quickstart/text}
tokens=${TOKENS:-50400} calibration=${CALIBRATION:-16384}
llama=${LLAMA_BIN:-.}
[ -x "$pdq" ] || { echo "llama_quality.sh: no $pdq; run ./bootstrap build, or name it in PDQ" >&2; exit 1; }
[ -x "$llama/llama-quantize" ] && [ -x "$llama/llama-imatrix" ] ||
    { echo "llama_quality.sh: LLAMA_BIN must name the folder of llama.cpp's llama-quantize and llama-imatrix" >&2; exit 1; }
ls "$text"/*-train.txt "$text"/*-heldout.txt > /dev/null || { echo "llama_quality.sh: recipes/quickstart/fetch gets the texts" >&2; exit 1; }
csv=$here/build/bench/llama-quality.csv
mkdir -p "$1" "$(dirname "$csv")"
cd "$1"
shift
[ $# -gt 0 ] || set -- Q2_K Q3_K Q4_0 Q4_K
for f in "$text"/*-train.txt; do head -c 37000 "$f"; done > calibration.txt
for f in "$text"/*-heldout.txt; do head -c 59000 "$f"; done > heldout.txt
"$pdq" quantize "$model" -o parent.gguf --type F32 --force > log.txt 2>&1
"$llama/llama-imatrix" -m parent.gguf -f calibration.txt -o llama.imatrix -c 256 >> log.txt 2>&1

of() { printf '%s' "$1" | grep -o "\"$2\":[-0-9.e]*" | tail -1 | sed 's/.*://'; } # the last number of that name in one line of JSON

# nearer FILE OTHER: KL of FILE, of OTHER, the interval of FILE - OTHER
nearer() {
    json=$("$pdq" eval "$1" --against "$model" --versus "$2" --data heldout.txt --tokens "$tokens" --json 2>> log.txt)
    kl=$(printf '%s' "$json" | sed 's/.*"kld":\([-0-9.e]*\),"top1".*/\1/')
    awk -v a="$kl" -v b="$(of "$json" kld)" -v l="$(of "$json" difference_low)" -v h="$(of "$json" difference_high)" \
        'BEGIN { printf "%.5f,%.5f,%.5f,%.5f", a, b, l, h }'
}

echo "type,method,against,KL,KL of the other,difference low,difference high,bytes,bytes of the other" > "$csv"
printf '%-6s %-10s %-14s %9s %9s   %-22s %10s %10s\n' type method against KL "the other" "difference, 95 %" bytes "the other"
row() { # type, method, other, file, file of the other
    printf '%s,%s,%s,%s,%d,%d\n' "$1" "$2" "$3" "$(nearer "$4" "$5")" "$(wc -c < "$4")" "$(wc -c < "$5")" | tee -a "$csv" |
        awk -F, '{ printf "%-6s %-10s %-14s %9s %9s   %9s to %9s %10d %10d\n", $1, $2, $3, $4, $5, $6, $7, $8, $9 }'
}
for type in "$@"; do
    "$llama/llama-quantize" --imatrix llama.imatrix parent.gguf "$type-llama.gguf" "$type" >> log.txt 2>&1
    other=llama
    for method in gptq autoround; do
        "$pdq" quantize "$model" -o "$type-$method.gguf" --type "$type" --method $method --calibration calibration.txt \
            --calibration-tokens "$calibration" --force >> log.txt 2>&1
        row "$type" $method "$other" "$type-$method.gguf" "$type-$other.gguf"
        other=$method
    done
done
echo "CSV: $csv"
