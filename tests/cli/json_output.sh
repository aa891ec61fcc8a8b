#!/usr/bin/env bash
# With --json, stdout holds one object and nothing else.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
make_model "$work/m"
make_text "$work/text.txt" 40

one_object() { # KEYS COMMAND...
    local keys=$1
    shift
    "$@" 2> "$work/err" > "$work/out" || fail "$*: $(cat "$work/err")"
    python3 - "$work/out" "$keys" <<'PY' || fail "not one object with $keys: $*"
import json, sys
o = json.load(open(sys.argv[1]))
missing = [k for k in sys.argv[2].split(",") if k not in o]
sys.exit(f"missing {missing}" if missing else 0)
PY
}
one_object tokens,nll,nll_se,ppl,bits_per_byte,kld,top1 "$PDQ" eval "$work/m" --data "$work/text.txt" --seq-len 32 --tokens 100 --json
grep -q '"tokens":100,' "$work/out" || fail "--tokens 100 predicted another number"
grep -q '"kld":null,"top1":null' "$work/out" || fail "kld and top1 are not null without --against"
grep -Eq '"nll":[0-9]+\.[0-9]{8}' "$work/out" || fail "too few digits"
one_object kld "$PDQ" eval "$work/m" --data "$work/text.txt" --seq-len 32 --tokens 64 --against "$work/m" --json
grep -q '"top1":1,' "$work/out" || fail "a model does not agree with itself"
one_object ids,count,invalid_bytes "$PDQ" tokenize "$work/m" --text "one two" --json
one_object prompt,ids,text "$PDQ" generate "$work/m" --ids 5,6,7 --tokens 4 --json
one_object parameters,shape,types,loads "$PDQ" inspect "$work/m" --json
echo '{"model": "m", "data": {"train": "text.txt", "seq_len": 32}, "stages": [{"prune": {"ffn": 0.5}}]}' > "$work/r.json"
one_object stages,memory_bytes,disk_bytes,seconds "$PDQ" run "$work/r.json" --dry-run --json

ids=$("$PDQ" generate "$work/m" --ids 5,6,7 --tokens 4 2> /dev/null)
echo "$ids" | grep -Eqx '[0-9]+(,[0-9]+){3}' || fail "generate --ids printed \"$ids\""
[ "$ids" = "$("$PDQ" generate "$work/m" --ids 5,6,7 --tokens 4 --threads 2 2> /dev/null)" ] || fail "ids depend on the threads"
exit $failed
