#!/usr/bin/env bash
# The command line itself: help, version, names, wrong usage (exit 2).
. "$(dirname "$0")/helpers.inc"

"$PDQ" --version | grep -qx 'pdq [0-9.]*' || fail "--version"
"$PDQ" --help | grep -q '^  quantize ' || fail "--help lists no commands"
for command in run prune distill quantize train export eval generate tokenize inspect doctor; do
    "$PDQ" $command --help > "$work/help" || fail "$command --help fails"
    grep -q "^usage: pdq $command" "$work/help" || fail "$command --help has no usage line"
    grep -q -- '--threads' "$work/help" || fail "$command has no --threads"
done
"$PDQ" distill --help | grep -q -- '--learning-rate R .*(default' || fail "help shows no defaults"

refused 2 'did you mean "quantize"' "$PDQ" quantise
refused 2 'did you mean --data' "$PDQ" eval model --dota x
refused 2 'needs a value' "$PDQ" eval model --data
refused 2 'argument is missing' "$PDQ" eval --data x
refused 2 'one argument too many' "$PDQ" inspect a b
refused 2 'expected one of windows' "$PDQ" eval m --data x --protocol other
refused 2 'expected a whole number' "$PDQ" eval m --data x --tokens many
refused 2 '--data is missing' "$PDQ" eval m
refused 2 'one of --prompt TEXT and --ids' "$PDQ" generate m
refused 2 'one of --text T and --file F' "$PDQ" tokenize m
refused 2 '-o is missing' "$PDQ" export m
refused 2 'ends in .gguf' "$PDQ" quantize m -o x.bin
refused 2 '--teacher is missing' "$PDQ" distill m -o x
"$PDQ" > /dev/null 2>&1
[ $? = 2 ] || fail "no command is not wrong usage"
exit $failed
