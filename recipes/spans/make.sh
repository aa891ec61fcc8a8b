#!/bin/sh
# Made questions whose answers are spans, to see that a model learns to find them: each context holds a word of some of two kinds among others,
# the question names a kind, and a fifth of the questions have no answer. Writes into FOLDER a model's shape (config.json, vocab.txt), train.json
# and test.json (SQuAD's files), and the test as rows, test.jsonl.
#     sh recipes/spans/make.sh FOLDER
set -e
LC_ALL=C
export LC_ALL
folder=${1:?usage: make.sh FOLDER}
mkdir -p "$folder"
cp "$(dirname "$0")/config.json" "$folder"
fill='one two three four five six seven eight nine ten and or not but so yet if then when while was were had has this that'
printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' which is there '?' , . '##s' animal town fox cat horse owl zurich oslo sao paulo lima \
    $fill > "$folder/vocab.txt"
while [ "$(wc -l < "$folder/vocab.txt")" -lt 64 ]; do echo "[unused$(wc -l < "$folder/vocab.txt" | tr -d ' ')]" >> "$folder/vocab.txt"; done
make() { # NAME SEED QUESTIONS
    awk -v name="$folder/$1" -v seed="$2" -v n="$3" -v fill="$fill" '
function random(k) { seed = (seed * 16807) % 2147483647; return int(k * seed / 2147483647) }
function characters(s) { return length(s) - gsub(/\303/, "&", s) }
function put(word) { if (context != "") context = context (random(9) ? " " : "  "); at = characters(context); context = context word }
BEGIN {
    n_fill = split(fill, filler, " ")
    n_kind = split("animal town", kind, " ")
    split("fox Fox cat cats horse horses owl Owls|Z\303\274rich Oslo S\303\243o/Paulo Lima", list, "|")
    printf "{\"version\": \"made\", \"data\": [{\"title\": \"made\", \"paragraphs\": [" > (name ".json")
    printf "" > (name ".jsonl")
    for (i = 1; i <= n; i++) {
        context = ""; asked = 1 + random(n_kind); text = ""; start = -1
        lacking = random(5) == 0 ? asked : 0
        words = random(10) ? 6 + random(10) : 30 + random(20) # some are longer than a window
        for (k = 1; k <= n_kind; k++) place[k] = k == lacking || (k != asked && random(3) == 0) ? -1 : random(words)
        for (w = 0; w < words; w++) {
            for (k = 1; k <= n_kind; k++)
                if (place[k] == w) {
                    m = split(list[k], choice, " "); word = choice[1 + random(m)]; gsub("/", " ", word)
                    put(word)
                    if (k == asked) { text = word; start = at }
                }
            put(filler[1 + random(n_fill)] (random(8) ? "" : random(2) ? "," : "."))
        }
        question = "Which " kind[asked] " is there?"
        printf "%s{\"context\": \"%s\", \"qas\": [{\"id\": \"%d\", \"question\": \"%s\", \"is_impossible\": %s, \"answers\": [%s]}]}", (i > 1 ? ",\n" : ""),
            context, i, question, (start < 0 ? "true" : "false"), (start < 0 ? "" : "{\"text\": \"" text "\", \"answer_start\": " start "}") > (name ".json")
        printf "{\"id\": \"%d\", \"context\": \"%s\", \"question\": \"%s\", \"answers\": {\"text\": [%s], \"answer_start\": [%s]}}\n", i, context, question,
            (start < 0 ? "" : "\"" text "\""), (start < 0 ? "" : start) > (name ".jsonl")
    }
    print "]}]}" > (name ".json")
}'
}
make train 1 2000
make test 2 300
rm "$folder/train.jsonl"
