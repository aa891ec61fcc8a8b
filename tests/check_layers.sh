#!/usr/bin/env bash
# The directions in which folders may include each other, which the linker alone would not catch for headers:
#
#   recipes -> prune, distill, quant -> common        (prune, distill and quant never include each other)
#   inside common: eval, train -> model, data, text -> tensor -> base        (and data -> text)
#
# Also: file names are unique, and cJSON, zlib, BLIS and oneDNN have one user each. Prints every violation.
# Usage: check_layers.sh [ROOT]     check_layers.sh --self-test: shows on a made-up tree that it can fail
set -u
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")

# One awk over all include lines: a shell loop with a process per line takes half a minute on a busy machine.
check_includes() {
    # shellcheck disable=SC2086 # a list of files
    grep -HnoE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]+"' $1 | sources="$1" awk '
        function layer_of(path,   part, n) {
            n = split(path, part, "/")
            return n < 2 ? "" : part[1] == "common" && n > 2 ? part[1] "/" part[2] : part[1]
        }
        BEGIN {
            n = split(ENVIRON["sources"], list, "\n")
            for (i = 1; i <= n; i++)
                exists[list[i]] = 1
            low = " common/base common/tensor "
            all = low "common/model common/text common/data common/train common/eval "
            allowed["common/tensor"] = " common/base "
            allowed["common/model"] = allowed["common/text"] = low
            allowed["common/data"] = low "common/text "
            allowed["common/train"] = allowed["common/eval"] = low "common/model common/text common/data "
            allowed["prune"] = allowed["distill"] = allowed["quant"] = all
            allowed["recipes"] = allowed["tests"] = allowed["bench"] = all "prune distill quant recipes bench "
        }
        {
            split($0, part, ":")
            file = part[1]
            split($0, quoted, "\"")
            included = quoted[2]
            from = layer_of(file)
            to = layer_of(included)
            where = file ":" part[2] ": "
            if (to == "") { # beside the file: only within tests and bench
                if (from != "tests" && from != "bench")
                    print where "\"" included "\": write the path from the root"
            } else if (!(included in exists))
                print where "\"" included "\" is no file"
            else if (from != to && index(allowed[from], " " to " ") == 0)
                print where from " must not include " to " (\"" included "\")"
        }'
}

# one_user HEADER_PATTERN SOURCES FILES...: only the named files, and tests, may include what matches.
one_user() {
    local pattern=$1 sources=$2 file
    shift 2
    # shellcheck disable=SC2086
    grep -lE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($pattern)[>\"]" $sources | while read -r file; do
        case "$file / $* " in
            tests/* | *" $file "*) ;;
            *) echo "$file: includes $pattern, which only $* may do" ;;
        esac
    done
}

# What belongs to the project: fetched and built files do not.
list_files() {
    if [ -e .git ]; then
        git ls-files --cached --others --exclude-standard
    else
        find . \( -name build -o -name .cache \) -prune -o -type f -print
    fi
}

check() {
    cd "$1" || exit 2
    sources=$(find common prune distill quant recipes tests bench -name '*.[ch]' -type f 2>/dev/null | sort)
    [ -n "$sources" ] || { echo "no sources in $1"; return; }
    check_includes "$sources"
    # Golden directories and the recipes' models are laid out as checkpoints are, and bench/run and .ci/run have fixed names.
    list_files | grep -vE '^(\./)?(tests/golden/|recipes/[a-z0-9-]+/(model/)?(config|tokenizer|tokenizer_config)\.json$)' |
        sed 's|.*/||' | grep -vxE 'README\.md|CMakeLists\.txt|\.gitignore|run' | sort | uniq -d |
        sed 's/^/two files have the name /'
    one_user 'cjson/cJSON\.h|cJSON\.h' "$sources" common/base/json.c
    one_user 'zlib\.h' "$sources" common/base/file.c recipes/quickstart/corpus.c
    one_user '([a-z]+/)?(blis|dnnl|dnnl\.hpp|dnnl_[a-z]+)\.h' "$sources" common/tensor/gemm.c
}

# Each line breaks one rule; every one of them has to be reported, and the tree without them not.
self_test() {
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    cd "$tree" || exit 2
    mkdir -p common/base common/tensor common/model common/text prune quant recipes
    touch common/base/a.h common/tensor/b.h common/model/c.h common/text/d.h prune/e.h quant/f.h
    echo '#include "common/tensor/b.h"' > common/model/g.c
    echo '#include "prune/e.h"' > recipes/h.c
    bash "$self" "$tree" || { echo "self-test: a correct tree was refused"; exit 1; }
    failed=0
    while read -r file text; do
        before=$(cat "$file" 2>/dev/null)
        printf '%s\n' "$text" >> "$file"
        bash "$self" "$tree" > /dev/null && { echo "self-test: not noticed: $text in $file"; failed=1; }
        rm "$file"
        [ -n "$before" ] && printf '%s\n' "$before" > "$file"
    done <<'RULES'
common/base/x.c #include "common/tensor/b.h"
common/tensor/x.c #include "common/model/c.h"
common/model/x.c #include "common/text/d.h"
common/model/x.c # include "prune/e.h"
prune/x.c #include "quant/f.h"
quant/x.c #include "recipes/h.c"
quant/x.c #include "f.h"
quant/x.c #include "common/base/none.h"
quant/x.c #include <zlib.h>
quant/x.c #include <cjson/cJSON.h>
quant/x.c #include <blis.h>
quant/x.c #include "oneapi/dnnl.h"
quant/h.c int same_name;
RULES
    exit $failed
}

[ "${1:-}" = --self-test ] && self_test
found=$(check "${1:-$(dirname "$self")/..}")
if [ -n "$found" ]; then
    printf '%s\n' "$found"
    exit 1
fi
