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
exit $failed
