#!/usr/bin/env bash
# Every recipe that begins with the quickstart's model passes its dry run: keys, shapes and files are right. (Not the one with a budget in
# milliseconds: whether that can be met is the machine's to say; nor those with models that an earlier run makes.)
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_text text.txt 3000
for recipe in $(grep -l '"model": "quickstart/model"' "$PDQ_SOURCE_DIR"/recipes/*.json); do
    grep -q '"ms":\|"../runs/' "$recipe" && continue
    text=(--set data.train=text.txt --set data.eval=text.txt)
    if grep -q '"sources"' "$recipe"; then # as many as it names, each of the same text
        text=(--set "data.sources=[$(grep -o '{"name": "[a-z]*", "train"' "$recipe" | sed 's/$/: ["text.txt"], "eval": ["text.txt"]}/' | paste -sd,)]")
    fi
    "$PDQ" run "$recipe" --dry-run "${text[@]}" > out.txt 2> err.txt || fail "$recipe: $(tail -1 err.txt)"
    grep -q '^in all about' out.txt || fail "$recipe: $(cat out.txt)"
done

# That bf16 is slower here is said where the machine was measured so, and only to who asks for it.
machine=$XDG_CACHE_HOME/pdq/machine.json
f32=$(sed -n 's/.*"f32": *\([0-9.]*\).*/\1/p' "$machine")
for times in 0.5 2; do
    sed -i "s/\"bf16\": *[0-9.e+]*/\"bf16\": $(awk -v f32="$f32" -v times=$times 'BEGIN { print f32 * times }')/" "$machine"
    for precision in f32 bf16; do
        "$PDQ" run "$PDQ_SOURCE_DIR/recipes/quickstart.json" --dry-run --set data.train=text.txt --set data.eval=text.txt --set precision=$precision \
            > out.txt 2> err.txt || fail "$precision: $(tail -1 err.txt)"
        said=$(grep -c 'precision bf16 makes it slower' out.txt)
        [ "$times $precision" = "0.5 bf16" ] && expected=1 || expected=0
        [ "$said" = $expected ] || fail "bf16 $times times as fast as f32, precision $precision: said $said times"
    done
done
exit $failed
