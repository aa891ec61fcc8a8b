#!/usr/bin/env bash
# A sweep: points, controls, csv, what rounds to the same shape, failures, kill -9, errors.
. "$(dirname "$0")/helpers.inc"
command -v python3 > /dev/null || { echo "python3 is needed"; exit 77; }
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 300
echo '{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 300},
 "stages": [{"prune": {"ffn": 0.5, "calibration_tokens": 128}}, {"quantize": {"type": "Q8_0"}}]}' > r.json
quiet() { "$@" > out.txt 2> err.txt || fail "$*: $(cat err.txt)"; }

sweep=("$PDQ" sweep r.json --vary prune.ffn=0.25:0.75:0.25 --vary prune.score=taylor,l2 --seeds 2)
quiet "${sweep[@]}" -o s --dry-run
grep -q '^18 points' out.txt || fail "dry run: $(tail -1 out.txt)" # 12 and 6 controls
absent s
quiet "${sweep[@]}" -o s
python3 - << 'END' || fail "sweep.csv or sweep.json"
import csv, json
rows = list(csv.DictReader(open("s/sweep.csv")))
assert len(rows) == 12, len(rows)
assert list(rows[0]) == ("prune.ffn prune.score seed params flops bytes nll nll_se ppl kld top1 prefill_tps decode_tps").split()
assert [r["prune.ffn"] for r in rows[:5]] == ["0.25"] * 4 + ["0.5"], rows[:5]
assert [r["seed"] for r in rows[:3]] == ["1", "2", "1"]
sizes = {r["prune.ffn"]: int(r["params"]) for r in rows}
assert sizes["0.25"] > sizes["0.5"] > sizes["0.75"], sizes
assert all(float(r["kld"]) > 0 and float(r["decode_tps"]) > 0 for r in rows)
s = json.load(open("s/sweep.json"))
assert len(s["points"]) == 12 and len(s["controls"]) == 6 and not s["failures"]
for p in s["points"]:
    point = json.load(open("s/points/" + p["hash"] + "/point.json"))
    assert point["facts"]["nll"] == p["nll"]
END
grep -q '<svg' s/sweep.html || command -v gnuplot > /dev/null && grep -q 'id=points' s/sweep.html || fail "the page"
[ "$(find s/stages -name 'prune-*' | wc -l)" = 18 ] || fail "stages: $(find s/stages -name 'prune-*' | wc -l)"

# 0.49 and 0.5 round to the same width
quiet "$PDQ" sweep r.json --vary prune.ffn=0.49,0.5 -o same
grep -q 'the same as prune.ffn=0.49' err.txt || fail "the same shape is not said"
[ "$(find same/stages -name 'prune-*' | wc -l)" = 2 ] || fail "the same shape is computed twice" # one and its control

# a point that fails: the others are done, the exit code says so
"$PDQ" sweep r.json --vary prune.align=32,256 -o failing > out.txt 2> err.txt
[ $? = 1 ] || fail "a failed point, exit 0"
grep -q '2 of 4 points failed' err.txt || fail "failures: $(tail -1 err.txt)"
[ "$(wc -l < failing/sweep.csv)" = 2 ] || fail "the other point is not there"

# killed at random moments and run again: the same table but for the speeds
RANDOM=3
for _ in 1 2 3 4; do
    "${sweep[@]}" -o killed > /dev/null 2> err.txt &
    child=$!
    sleep "0.$((RANDOM % 9 + 1))"
    kill -9 $child 2> /dev/null
    wait $child 2> /dev/null
done
quiet "${sweep[@]}" -o killed
cmp <(cut -d, -f1-11 s/sweep.csv) <(cut -d, -f1-11 killed/sweep.csv) || fail "another table after kill -9"
quiet "${sweep[@]}" -o killed
grep -q '\[1/2\] prune$' err.txt && fail "something is computed twice"

# several jobs: the same table; a recipe that is one only with the keys that are varied
quiet "${sweep[@]}" -o jobs --jobs 3
cmp <(cut -d, -f1-11 s/sweep.csv) <(cut -d, -f1-11 jobs/sweep.csv) || fail "another table with jobs"
grep -q 'prune$' jobs/job-1.log || fail "the jobs did nothing: $(cat jobs/job-1.log)"
quiet "$PDQ" sweep r.json --set prune.ffn=0 --vary prune.heads=0.5 --vary prune.score=l2,taylor -o heads
[ "$(wc -l < heads/sweep.csv)" = 3 ] || fail "a sweep over what makes it a recipe"

refused 2 'vary is missing' "$PDQ" sweep r.json -o x
refused 2 'given twice' "$PDQ" sweep r.json --vary prune.ffn=0.5,0.5 -o x
refused 2 'given twice' "$PDQ" sweep r.json --vary prune.ffn=0.5 --vary prune.ffn=0.3 -o x
refused 2 'FIRST <= LAST' "$PDQ" sweep r.json --vary prune.ffn=0.9:0.1:0.1 -o x
refused 1 'did you mean "ffn"' "$PDQ" sweep r.json --vary prune.fn=0.5 -o x
refused 1 'did you mean "taylor"' "$PDQ" sweep r.json --vary prune.score=tailor -o x
refused 1 'give one of the two' "$PDQ" sweep r.json --vary seed=1,2 --seeds 2 -o x
refused 1 'another recipe or other options' "$PDQ" sweep r.json --vary prune.ffn=0.25 -o s
absent x
exit $failed
