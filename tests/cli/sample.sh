#!/usr/bin/env bash
# Text drawn from the teacher and learned from: no text at all; the same bytes after kills and at two threads; what does not fit is refused.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_model m --dtype f32
make_text text.txt 100
cat > r.json <<'JSON'
{"model": "m", "data": {"eval": "text.txt", "seq_len": 32, "eval_tokens": 200},
 "stages": [{"sample": {"tokens": 4000, "batch": 8, "top_k": 50, "top_p": 0.9}},
            {"prune": {"heads": 0.5, "ffn": 0.5, "score": "taylor", "calibration_tokens": 128, "guards": false}},
            {"distill": {"steps": 20, "batch": 2}}]}
JSON
"$PDQ" run r.json -o alone > /dev/null 2> err.txt || { cat err.txt; exit 1; }
[ "$(stat -c %s alone/01-sample/tokens)" = $((4000 * 4)) ] || fail "tokens: $(ls -l alone/01-sample)"
[ "$(wc -l < alone/01-sample/text.jsonl)" = 125 ] || fail "text.jsonl has $(wc -l < alone/01-sample/text.jsonl) documents"
run_killed 3 anytime r.json killed 8 --threads 2
for file in 01-sample/tokens 01-sample/text.jsonl 03-distill/model.safetensors 03-distill/run.jsonl; do
    cmp alone/$file killed/$file || fail "$file differs"
done
absent killed/01-sample/tokens.part
# a damaged file of tokens is one message, not an index past the embedding
cp -r alone damaged
rm -rf damaged/02-prune damaged/03-distill
printf '\377\377\377\177' | dd of=damaged/01-sample/tokens bs=4 seek=7 conv=notrunc status=none
"$PDQ" run r.json -o damaged > /dev/null 2> err.txt
[ $? = 1 ] && grep -q "damaged; remove the stage's folder to draw again.*token 7 " err.txt || fail "damaged tokens: $(cat err.txt)"
# other text, another model; text of a file and drawn text in one run
"$PDQ" run r.json -o other --set seed=2 > /dev/null 2> err.txt || fail "seed 2: $(cat err.txt)"
cmp -s alone/01-sample/tokens other/01-sample/tokens && fail "seed 2 draws the same"
cat > v.json <<'JSON'
{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 32, "eval_tokens": 200},
 "stages": [{"train": {"steps": 10, "batch": 2}}],
 "variants": [{"name": "real"}, {"name": "drawn", "stages": [{"sample": {"tokens": 1000}}, {"train": {"steps": 10, "batch": 2}}], "versus": ["real"]}]}
JSON
"$PDQ" run v.json -o v > out.txt 2> err.txt || fail "variants: $(cat err.txt)"
grep -q '^drawn' out.txt || fail "variants: $(cat out.txt)"
[ "$(find v/stages -name run.jsonl | wc -l)" = 2 ] || fail "variants share a training"
# what drew the recipe's own text still does, and drawn text is learned from through a cache of the teacher's answers, too
"$PDQ" run r.json -o cached --set distill.teacher_cache=auto > /dev/null 2> err.txt || fail "cached: $(cat err.txt)"
refused 1 'expected one of bos|token' "$PDQ" run r.json -o no --set sample.start=middle
refused 1 'sample.length: found 1000, expected 2 to' "$PDQ" run r.json -o no --set sample.length=1000
refused 1 'top_p.*expected a number' "$PDQ" run r.json -o no --set sample.top_p=0
absent no
exit $failed
