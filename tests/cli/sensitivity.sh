#!/usr/bin/env bash
# What a unit is worth: the same loss as a checkpoint in which that unit's tensors are zero; table, JSON, page, errors.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 60
quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }
quiet "$PDQ" sensitivity m --data text.txt --seq-len 32 --tokens 300 --slices 4 --json -o map.html
mv out.txt s.json
# channels 32 to 63 of layer 1 without their way out, by hand
cp -r m zeroed
python3 - << 'END' || fail "cannot zero a slice"
import json, struct
name = "zeroed/model.safetensors"
data = bytearray(open(name, "rb").read())
n = struct.unpack("<Q", data[:8])[0]
t = json.loads(data[8:8 + n])["model.layers.1.mlp.down_proj.weight"]
rows, columns = t["shape"]
for r in range(rows):
    at = 8 + n + t["data_offsets"][0] + 4 * (r * columns + 32)
    data[at:at + 4 * 32] = bytes(4 * 32)
open(name, "wb").write(data)
END
quiet "$PDQ" eval m --data text.txt --seq-len 32 --tokens 300 --json && mv out.txt whole.json
quiet "$PDQ" eval zeroed --data text.txt --seq-len 32 --tokens 300 --json && mv out.txt zeroed.json
python3 - << 'END' || fail "sensitivity's figures"
import json
s, whole, zeroed = (json.load(open(f + ".json")) for f in ("s", "whole", "zeroed"))
assert len(s["units"]) == 2 * (4 + 2 + 4 + 2), len(s["units"])
assert s["tokens"] == 300 and abs(s["nll"] - whole["nll"]) < 1e-9
u = [u for u in s["units"] if (u["kind"], u["layer"], u["index"]) == ("slice", 1, 1)][0]
assert (u["first"], u["count"]) == (32, 32)
rise = zeroed["nll"] - whole["nll"]
assert abs(u["rise"] - rise) < 1e-6 and u["low"] <= u["rise"] <= u["high"], (u, rise)
assert abs(rise) > 1e-5
END
[ "$(grep -o '<td ' map.html | wc -l)" = 24 ] || fail "the page"
quiet "$PDQ" sensitivity m --data text.txt --seq-len 32 --tokens 100 --slices 2
grep -q '^head ' out.txt && grep -q '^slice ' out.txt || fail "the table"
refused 2 'data is missing' "$PDQ" sensitivity m
refused 1 'there already' "$PDQ" sensitivity m --data text.txt -o map.html
refused 1 'context' "$PDQ" sensitivity m --data text.txt --seq-len 1000
exit $failed
