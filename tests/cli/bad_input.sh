#!/usr/bin/env bash
# What a user can get wrong, for every command: exit code 1 or 2, one message on stderr that says what is wrong and what to do, nothing on stdout,
# nothing left behind, no crash and no hang. Models that cannot be read: bad_model.sh; recipes: bad_recipe.sh; names of options: usage.sh.
#
# To add a case: a row `command | what is wrong | pattern of the message`. "@" stands for each of a class of paths where "what is wrong" begins with its
# name; $x are this script's variables.
. "$(dirname "$0")/helpers.inc"
cd "$work" || exit 1
make_model m --dtype f32
make_model deeper --layers 3 --dtype f32
make_model wider --hidden 96 --dtype f32
make_model words --vocab 310 --dtype f32
make_text text.txt 200
small="--data text.txt --seq-len 16 --tokens 64" once="--data text.txt --steps 1 --batch 1 --seq-len 16" types="--types Q4_0 --types Q8_0"
gptq="--type Q4_0 --method gptq --calibration text.txt --calibration-tokens"
made() { "$PDQ" "$@" > out.txt 2>&1 || { cat out.txt; exit 1; }; }
made quantize m -o q8.gguf --type Q8_0
for of in m deeper wider; do made calibrate $of $small -o $of.imatrix; done
made bits m $small $types --target-bits 6 -o m.plan
made bits deeper $small $types --target-bits 6 -o deeper.plan
cat > r.json <<'JSON'
{"model": "m", "data": {"train": "text.txt", "eval": "text.txt", "seq_len": 16, "eval_tokens": 64}, "stages": [{"quantize": {}}]}
JSON
: > empty && mkdir folder full && cp text.txt full && mkdir folder.gguf
{ printf '\211PNG\r\n\032\n\0\0\0\rIHDR'; head -c 3000 /dev/zero; } > image.png
echo '{"a": [1, 2]}' > other.json
gzip -c text.txt | head -c 150 > cut.txt.gz
printf '{"text": "a"}\n{"txt": "b"}\n' > bad.jsonl
cp m/model.safetensors renamed.gguf

# damaged FOLDER TENSOR BITS: of m, whose tensor has this number (f32, in octal) at its fourth place
damaged() {
    local header at
    cp -r m "$1"
    header=$(od -An -tu8 -N8 m/model.safetensors)
    at=$(head -c $((8 + header)) m/model.safetensors | grep -ao "\"$2\":{[^}]*" | sed 's/.*offsets":\[\([0-9]*\).*/\1/')
    printf "$3" | dd of="$1/model.safetensors" bs=1 seek=$((8 + header + at + 12)) conv=notrunc status=none
}
damaged nan model.layers.1.mlp.up_proj.weight '\0\0\300\177'
damaged inf model.layers.0.self_attn.k_proj.weight '\0\0\200\377'
damaged nan-norm model.norm.weight '\0\0\300\177'
damaged huge model.layers.1.mlp.up_proj.weight '\377\377\177\177'

declare -A class=(
    [not a model]="none folder empty text.txt image.png other.json renamed.gguf"
    [not a text]="none folder image.png q8.gguf empty cut.txt.gz bad.jsonl"
    [not a broken model]="nan inf nan-norm"
    [not a file of JSON]="none folder empty image.png q8.gguf text.txt other.json"
    [not an importance matrix]="none folder empty image.png q8.gguf text.txt other.json deeper.imatrix wider.imatrix m/model.safetensors"
    [no place]="none/file text.txt/file folder"
    [no number]="nan inf -1 1e400 99999999999999999999 1x 0x"
)
model='no such file or directory|no config.json|no tokenizer.json|does not end in .gguf|not a GGUF file'
text='no such file|No such file|expected a file, found a directory|is NUL, so this is no text|found 0 tokens|cut off|line 2: expected an object'
json='No such file|expected a file, found a directory|found nothing|NUL byte|not valid JSON|after the end|unknown key|expected an object of tensors'
matrix='No such file|expected a file, found a directory|ends within|no importance matrix|of another model|holds no mean squares'
place='does not exist; make the folder|is a file, expected a folder|a folder is there'
value='found "?[^ ]*, expected a (whole )?number'
broken='the model is broken'

files() { find . -not -path './.std*' -not -path './.messages' -not -path './.before' | sort; }
try() { # COMMAND PATTERN
    local n
    # shellcheck disable=SC2086
    timeout 60 "$PDQ" $1 > .stdout 2> .stderr < /dev/null
    n=$?
    [ $n = 1 ] || [ $n = 2 ] || fail "exit $n: $1: $(cat .stderr)"
    grep -v '^pdq [0-9]\|^warning: \|^\[[0-9]*/[0-9]*\] \| [0-9]*% .*in all$\|^layer [0-9]*: mean squared' .stderr > .messages # but for the header and the progress
    [ "$(wc -l < .messages)" = 1 ] || fail "not one message: $1: $(cat .stderr)"
    grep -Eq -- "$2" .messages || fail "$1: no \"$2\" in: $(cat .messages)"
    [ ! -s .stdout ] || fail "something on stdout: $1"
    files | cmp -s - .before || { fail "$1 left behind: $(files | diff .before - | grep '^[<>]')"; files > .before; }
}
rows=0
table() {
    local command wrong pattern each
    files > .before
    while IFS='|' read -r command wrong pattern; do
        [ -n "$wrong" ] || continue
        command=$(eval "echo \"$command\"") pattern=$(eval "echo \"${pattern# }\"") wrong=$(echo $wrong)
        case $command in *@*) [ -n "${class[$wrong]:-}" ] || fail "no class of paths is named \"$wrong\": $command" ;; esac
        for each in ${class[$wrong]:-once}; do
            rows=$((rows + 1))
            try "${command//@/$each}" "$pattern"
        done
    done
}

table <<'ROWS'
inspect @                                             | not a model | $model
eval @ $small                                         | not a model | $model
eval m --against @ $small                             | not a model | $model
eval m --against m --versus @ $small                  | not a model | $model
generate @ --prompt sheep                             | not a model | $model
tokenize @ --text sheep                               | not a model | $model
speed m @ --tokens 8 --runs 1                         | not a model | $model
export @ -o out                                       | not a model | $model
quantize @ -o out.gguf                                | not a model | $model
bits @ $small --target-bits 6 -o out                  | not a model | $model
calibrate @ $small -o out                             | not a model | $model
prune @ -o out --ffn 0.5 --score magnitude            | not a model | $model
sparsify @ -o out --sparsity 0.5 --score magnitude    | not a model | $model
distill @ --teacher m $once -o out                    | not a model | $model
distill m --teacher @ $once -o out                    | not a model | $model
train @ $once -o out                                  | not a model | $model
train m --shape @ $once -o out                        | not a model | $model
sensitivity @ $small                                  | not a model | $model
inspect q8.gguf --against @                           | not a model | $model

eval m --data @ --seq-len 16                          | not a text | $text
bits m --data @ --seq-len 16 $types --target-bits 6 -o out | not a text | $text
calibrate m --data @ --seq-len 16 -o out              | not a text | $text
sensitivity m --data @ --seq-len 16                   | not a text | $text
prune m -o out --ffn 0.5 --data @                     | not a text | $text
sparsify m -o out --sparsity 0.5 --data @             | not a text | $text
train m --data @ --steps 1 -o out                     | not a text | $text
train m --data text.txt --data @ --weights 1,1 --steps 1 -o out | not a text | $text
train m $once --eval @ --eval-every 1 -o out          | not a text | $text
distill m --teacher m --data @ --steps 1 -o out       | not a text | $text
quantize m -o out.gguf --method gptq --calibration @  | not a text | $text
tokenize m --file none                                | no file | No such file
tokenize m --file folder                              | a folder | expected a file, found a directory

quantize m -o out.gguf --method weighted --imatrix @  | not an importance matrix | $matrix
bits m $small $types --target-bits 6 -o out --imatrix @ | not an importance matrix | $matrix
quantize m -o out.gguf --plan @                       | not a file of JSON | $json
run @ -o out                                          | not a file of JSON | $json
quantize m -o out.gguf --plan deeper.plan             | a plan of another model | no matrix of this model
distill m --teacher m $once --teacher-cache image.png -o out | a cache of answers that is none | found no teacher cache
distill m --teacher m $once --teacher-cache folder -o out | a folder | expected a file, found a directory

bits m $small --target-bits 6 -o @                    | no place | $place
calibrate m $small -o @                               | no place | $place
sensitivity m $small -o @                             | no place | $place
train m $once -o text.txt/out                         | a folder in a file | a file has this name
run r.json -o text.txt/out                            | a folder in a file | a file has this name
run r.json -o text.txt                                | a file is there | a file is there; name another
run r.json -o full                                    | other things are there | holds other things
train m $once -o full                                 | something is there | is there already; --force replaces it
prune m -o full --ffn 0.5 --score magnitude --force   | no model is there | holds no model, so it is not replaced
quantize m -o folder.gguf --force                     | no model is there | holds no model, so it is not replaced
calibrate m $small -o text.txt                        | something is there | is there already; --force replaces it
calibrate m $small -o folder --force                  | a folder is there | a folder is there
quantize m -o out --type Q8_0                         | no .gguf | expected a name that ends in .gguf
quantize m -o out.gguf --type W8A8                    | a .gguf | expected the name of a folder
export m -o out --format gguf                         | no .gguf | expected a name that ends in .gguf
export m -o out.gguf --format both                    | two formats | one name for two formats
eval m $small --answers out                           | a model without answers | gives no answers in texts

eval m --data text.txt --tokens @                     | no number | $value
generate m --prompt a --temperature @                 | no number | $value
generate m --prompt a --top-p @                       | no number | $value
quantize m -o out.gguf --damping @                    | no number | $value
bits m $small -o out --target-bits @                  | no number | $value
train m $once -o out --learning-rate @                | no number | $value
prune m -o out --ffn @                                | no number | $value
sparsify m -o out --sparsity @                        | no number | $value
speed m --runs @                                      | no number | $value
sensitivity m $small --slices @                       | no number | $value
sweep r.json -o out --vary quantize.pure=true --seeds @ | no number | $value
export m -o out --shard-bytes @                       | no number | $value
sweep r.json -o out --vary distill.tokens=2:9:nan     | a step that is no number | expected FIRST:LAST:STEP
sweep r.json -o out --vary distill.tokens=            | no value | a value is missing
train m --data text.txt --steps 1 -o out --weights nan | a weight that is no number | numbers from 0 with commas between
generate m --ids 1,2,x                                | an id that is no number | whole numbers separated by commas
generate m --ids 1,300                                | an id beyond the vocabulary | ids 0 to 299

quantize m -o out.gguf --type Q4_K                    | a type that the width does not fit | no multiple of .*block of 256.*--allow-fallback
distill m --teacher m $once -o out --quantize Q4_K    | a type that the width does not fit | no multiple of .*block of 256
quantize m -o out --type GPTQ-4 --group-size 7        | groups that the width does not fit | no multiple of groups of 7
sparsify m -o out --pattern 3:7 --score magnitude     | a pattern that the width does not fit | no multiple of the 7
bits m $small --types Q4_K --target-bits 6 -o out     | a type that the width does not fit | none of the types .* fits
bits m $small --types Q9 --target-bits 6 -o out       | no type | no type that pdq writes; expected
bits m $small $types --target-bits 1 -o out           | a target too small | below the smallest possible size.* 76304 bytes
bits m $small $types --target-bytes 100 -o out        | a target too small | below the smallest possible size.* 76304 bytes
bits m $small $types -o out                           | no target | one of --target-bits and --target-bytes is needed
quantize m -o out.gguf $gptq 1000000                  | a text too short | 1000000 tokens are asked for, the calibration text has 10092
calibrate m --data text.txt --tokens 1000000 -o out   | a text too short | 1000000 tokens are asked for, the calibration text has 10092
prune m --data text.txt --ffn 0.5 -o out              | a text too short | 32768 tokens asked, the text has 10092
quantize m -o out.gguf --method gptq                  | no text | on the command line --data, or quantize's --calibration
quantize m -o out.gguf --imatrix m.imatrix            | a matrix that is not used | take weighted
quantize q8.gguf -o out.gguf --type Q4_0              | quantized already | quantized already.*--requantize
train q8.gguf $once -o out                            | quantized already | train the unquantized model
eval m --against words $small                         | another vocabulary | 300 entries, .* 310
eval m --against m --versus words $small              | another vocabulary | 310 entries, .* 300
distill m --teacher words $once -o out                | another vocabulary | 310 entries, .* 300
inspect q8.gguf --against deeper                      | another shape | weights can be compared where the shapes are the same

eval @ $small                                         | not a broken model | $broken
eval m --against @ $small                             | not a broken model | $broken
generate @ --prompt sheep                             | not a broken model | $broken
quantize @ -o out.gguf --type Q8_0                    | not a broken model | $broken
quantize @ -o out.gguf --type F16                     | not a broken model | $broken
quantize @ -o out.gguf $gptq 512                      | not a broken model | $broken
quantize @ -o out --type W8A8                         | not a broken model | $broken
bits @ $small $types --target-bits 6 -o out           | not a broken model | $broken
calibrate @ $small -o out                             | not a broken model | $broken
prune @ -o out --ffn 0.5 --score magnitude            | not a broken model | $broken
sparsify @ -o out --sparsity 0.5 --score magnitude    | not a broken model | $broken
train @ $once -o out                                  | not a broken model | $broken
distill m --teacher @ $once -o out                    | not a broken model | $broken
sensitivity @ $small                                  | not a broken model | $broken
run r.json --set model=@ -o out                       | not a broken model | $broken
export @ -o out                                       | not a broken model | what it is made from is broken
export @ -o out.gguf                                  | not a broken model | $broken
quantize huge -o out.gguf --type Q8_0                 | a weight beyond the type | which Q8_0 cannot hold
quantize huge -o out --type GPTQ-4 --group-size 32    | a weight beyond the type | beyond what GPTQ-4 stores
export huge -o out                                    | a weight beyond the type | beyond BF16's largest number
train huge $once -o out                               | a weight beyond f32's sums | the loss of the first step is
eval huge $small                                      | a weight beyond f32's sums | the loss of predicted token .* is -?nan
calibrate huge $small -o out                          | a weight beyond f32's sums | expected mean squares, finite
ROWS

# Cut off at the header, in the index, in the middle, before the last byte. cuts FILE COMMAND PATTERN: the file under its name in the folder cut/
cuts() {
    local size at
    size=$(stat -c %s "$1")
    for at in 1 7 9 20 100 $((size / 3)) $((size / 2)) $((size - 2)); do
        head -c "$at" "$1" > "cut/$(basename "$1")"
        rows=$((rows + 1))
        try "$2" "$3"
    done
    rm "cut/$(basename "$1")"
    if [ -e "m/$(basename "$1")" ]; then cp "m/$(basename "$1")" cut; fi
}
cp -r m cut
for file in q8.gguf m.imatrix m.plan r.json; do : > "cut/$file"; done
files > .before
cuts m/model.safetensors "eval cut $small" 'a safetensors file has at least 8|its header would be|fetch it again'
cuts m/config.json "quantize cut -o out.gguf" 'ends too early|not valid JSON'
cuts m/tokenizer.json "tokenize cut --text a" 'ends too early|not valid JSON'
cuts q8.gguf "eval cut/q8.gguf $small" 'damaged'
: > cut/q8.gguf
cuts m.imatrix "quantize m -o out.gguf --method weighted --imatrix cut/m.imatrix" 'ends within'
: > cut/m.imatrix
cuts m.plan "quantize m -o out.gguf --plan cut/m.plan" 'ends too early|not valid JSON'
: > cut/m.plan
cuts r.json "run cut/r.json -o out" 'ends too early|not valid JSON'
: > cut/r.json

# What may not be read or written; root may.
if [ "$(id -u)" != 0 ]; then
    cp text.txt secret.txt && mkdir closed && chmod 000 secret.txt && chmod 555 closed
    table <<'ROWS'
eval m --data secret.txt                              | no right to read | cannot open: Permission denied
calibrate m $small -o closed/out                      | no right to write | cannot be written: .*Permission denied
run r.json -o closed/out                              | no right to write | Permission denied
ROWS
    chmod 644 secret.txt && chmod 755 closed
fi
# A file may be replaced by a folder, and the first try's other options are not in the way of the second.
"$PDQ" prune m -o other.json --ffn 0.5 --score magnitude --no-guards --force > out.txt 2>&1 && [ -e other.json/config.json ] || fail "a file replaced: $(cat out.txt)"
"$PDQ" prune m -o again --ffn 0.5 --data text.txt > out.txt 2>&1 && fail "a text too short is not refused"
"$PDQ" prune m -o again --ffn 0.5 --data text.txt --no-guards > out.txt 2>&1 || fail "as the message says: $(cat out.txt)"
echo "$rows cases"
exit $failed
