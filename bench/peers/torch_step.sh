#!/bin/sh
# Our distillation step and PyTorch's beside each other, one after the other in one run: tokens/s, peak memory, and
# the ratios. Run it on an otherwise idle machine.
#
# usage: bench/peers/torch_step.sh [THREADS]        (default 2; PYTHON names a python3 with torch)
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
threads=${1:-2}
python=${PYTHON:-/usr/bin/python3}
bench=${PDQ_BENCH:-$here/build/release/bench/pdq-bench}
[ -x "$bench" ] || { echo "torch_step.sh: no $bench; run ./bootstrap build, or name it in PDQ_BENCH" >&2; exit 1; }
"$python" -c 'import torch' 2> /dev/null ||
    { echo "torch_step.sh: $python has no torch (Debian: python3-torch)" >&2; exit 1; }
# Debian's torch takes whatever BLAS the system points to; OpenBLAS is the fastest for it (package libopenblas0-pthread).
openblas=$(echo /usr/lib/*/openblas-pthread/libblas.so.3)
[ -f "$openblas" ] || { openblas=; echo "torch_step.sh: no OpenBLAS: torch runs with the system's BLAS" >&2; }
# The peer at its best: OpenBLAS 0.3.21 does not know CPUs made after it, and glibc gives the large tensors of every step back to
# the system and takes them again, which is slow on virtual machines. It is then faster and holds more memory than by itself.
if [ -z "${OPENBLAS_CORETYPE:-}" ] && grep -qw avx512f /proc/cpuinfo; then export OPENBLAS_CORETYPE=SkylakeX; fi
keep="MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=1000000000"
csv=$here/build/bench
mkdir -p "$csv"
own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT
columns="shape,precision,threads,pdq tokens/s,torch tokens/s,times torch,pdq peak MB,torch peak MB,share %"
echo "$columns" > "$csv/torch.csv"
printf '%-6s %-9s %7s %12s %14s %11s %12s %13s %9s\n' shape precision threads 'pdq tokens/s' 'torch tokens/s' \
    'times torch' 'pdq peak MB' 'torch peak MB' 'share %'
for shape in d288 d256; do
    for precision in f32 bf16; do
        rm -f "$own/step.csv"
        "$bench" step --threads "$threads" --shape $shape --precision $precision --csv "$own" > /dev/null 2>&1
        [ -f "$own/step.csv" ] || { echo "$shape  $precision: this machine does not multiply bf16"; continue; }
        ours=$(awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
                        NR == 2 { print $at["tokens/s"], $at["process peak MB"] }' "$own/step.csv")
        # shellcheck disable=SC2086 # three words
        theirs=$(env $keep LD_PRELOAD="$openblas" "$python" "$here/bench/peers/torch_step.py" $shape $precision "$threads" 2> /dev/null)
        # shellcheck disable=SC2086 # two and three words
        set -- $ours $theirs
        awk -v what="$shape $precision $threads" -v o="$1" -v om="$2" -v t="$3" -v tm="$4" \
            -v csv="$csv/torch.csv" 'BEGIN {
            split(what, w, " ")
            share = 100 * om / tm
            printf "%-6s %-9s %7d %12.0f %14.0f %11.2f %12.0f %13.0f %9.1f\n",
                w[1], w[2], w[3], o, t, o / t, om, tm, share
            printf "%s,%s,%d,%g,%g,%g,%g,%g,%g\n", w[1], w[2], w[3], o, t, o / t, om, tm, share >> csv }'
    done
done
