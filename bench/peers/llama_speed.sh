#!/bin/sh
# GGUF files by pdq and by llama.cpp's llama-bench, in turns on the same machine: tokens/s of taking in a text at once (prefill)
# and of going on token by token (decode), medians, and the medians of the turns' ratios. Run it on an otherwise idle machine.
#
# usage: LLAMA_BENCH=path/to/llama-bench bench/peers/llama_speed.sh FILE.gguf ...
# In the environment: PDQ (build/release/pdq), THREADS (2), PREFILL and DECODE tokens (128, 32), TURNS (5).
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -gt 0 ] || { sed -n '2,6s/^# *//p' "$0" >&2; exit 2; }
pdq=${PDQ:-$here/build/release/pdq}
[ -x "$pdq" ] || { echo "llama_speed.sh: no $pdq; run ./bootstrap build, or name it in PDQ" >&2; exit 1; }
[ -x "${LLAMA_BENCH:-}" ] || { echo "llama_speed.sh: LLAMA_BENCH must name llama.cpp's llama-bench" >&2; exit 1; }
threads=${THREADS:-2} prefill=${PREFILL:-128} decode=${DECODE:-32} turns=${TURNS:-5}
csv=$here/build/bench
mkdir -p "$csv"
own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT

# "prefill decode" tokens/s of one run after one that warms up.
ours() {
    "$pdq" speed "$1" --threads "$threads" --tokens "$prefill" --decode "$decode" --runs 1 --json 2> /dev/null |
        awk -F'[:,]' '/"tokens_per_second"/ { p = $2 } /"decode_tokens_per_second"/ { d = $2 } END { print p + 0, d + 0 }'
}
theirs() {
    "$LLAMA_BENCH" -m "$1" -t "$threads" -p "$prefill" -n "$decode" -r 1 -o jsonl 2> /dev/null |
        awk '{ n = $0; sub(/.*"n_gen": */, "", n); t = $0; sub(/.*"avg_ts": */, "", t); v[n + 0 > 0] = t + 0 } END { print v[0] + 0, v[1] + 0 }'
}

echo "file,threads,prefill tokens/s,llama.cpp prefill tokens/s,times llama.cpp (prefill),decode tokens/s,llama.cpp decode tokens/s,times llama.cpp (decode)" > "$csv/llama.csv"
printf '%-28s %9s %9s %6s   %9s %9s %6s\n' "" "prefill" "llama.cpp" "times" "decode" "llama.cpp" "times"
for file in "$@"; do
    : > "$own/turns"
    for turn in $(seq "$turns"); do
        echo "$(theirs "$file") $(ours "$file")" >> "$own/turns"
    done
    awk -v file="$(basename "$file")" -v threads="$threads" -v csv="$csv/llama.csv" '
        function median(a, n,   i, j, x) {
            for (i = 2; i <= n; i++)
                for (j = i; j > 1 && a[j] < a[j - 1]; j--) { x = a[j]; a[j] = a[j - 1]; a[j - 1] = x }
            return a[int((n + 1) / 2)]
        }
        $1 > 0 && $2 > 0 && $3 > 0 && $4 > 0 { n++; lp[n] = $1; ld[n] = $2; p[n] = $3; d[n] = $4; rp[n] = $3 / $1; rd[n] = $4 / $2 }
        END {
            if (!n) { printf "%-28s one of the two does not run it\n", file; exit }
            a = median(p, n); b = median(lp, n); c = median(rp, n); e = median(d, n); f = median(ld, n); g = median(rd, n)
            printf "%-28s %9.1f %9.1f %6.2f   %9.1f %9.1f %6.2f\n", file, a, b, c, e, f, g
            printf "%s,%d,%g,%g,%g,%g,%g,%g\n", file, threads, a, b, c, e, f, g >> csv
        }' "$own/turns"
done
