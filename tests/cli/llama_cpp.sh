#!/usr/bin/env bash
# llama.cpp itself as the judge: it loads our GGUF files of the embedded model, whole and pruned, in every type, and its
# llama-perplexity agrees with `pdq eval --protocol llama.cpp` on the same file within 0.2 %. Skipped where llama-perplexity
# is neither on PATH nor in $LLAMA_CPP_BIN, or where the held-out text (recipes/quickstart/fetch) is absent.
. "$(dirname "$0")/helpers.inc"
model=$PDQ_SOURCE_DIR/recipes/quickstart/model
text=${PDQ_LLAMA_TEXT:-$PDQ_SOURCE_DIR/recipes/quickstart/text/kjv-heldout.txt}
PATH=$PATH:${LLAMA_CPP_BIN:-}
command -v llama-perplexity > /dev/null || { echo "skipped: no llama-perplexity on PATH"; exit 77; }
[ -f "$text" ] || { echo "skipped: no $text; recipes/quickstart/fetch gets it"; exit 77; }
cd "$work" || exit 1
head -c 60000 "$text" > part.txt

compare() { # name file: perplexities of the same file
    ours=$("$PDQ" eval "$2" --data part.txt --protocol llama.cpp --seq-len 256 --json 2> /dev/null |
        sed 's/.*"ppl":\([0-9.]*\).*/\1/')
    llama-perplexity -m "$2" -f part.txt -c 256 -b 256 -ub 8 -t 1 > theirs.txt 2>&1 || fail "llama-perplexity on $1"
    theirs=$(sed -n 's/.*Final estimate: PPL = \([0-9.]*\).*/\1/p' theirs.txt)
    echo "$1: pdq $ours, llama.cpp $theirs"
    awk -v a="$ours" -v b="$theirs" 'BEGIN { exit !(b > 0 && a / b < 1.002 && a / b > 0.998) }' ||
        fail "$1: pdq $ours, llama.cpp $theirs: more than 0.2 % apart"
}

# Half of it away and recovered, as the quickstart does: before recovery such a model feels llama.cpp's 8-bit activations more (0.25 % at Q3_K_S).
"$PDQ" run "$PDQ_SOURCE_DIR/recipes/quickstart.json" -o run > out.txt 2> err.txt || fail "quickstart: $(tail -1 err.txt)"
ln -s run/02-distill half
for source in "$model" half; do
    for type in F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K Q3_K_L Q4_K_S Q4_K Q5_K_S Q5_K Q6_K IQ4_NL IQ4_XS; do
        "$PDQ" quantize "$source" -o m.gguf --type $type --force 2> err.txt > out.txt || fail "quantize $type: $(cat err.txt)"
        compare "$(basename "$source") $type" m.gguf
    done
done

# layers of different shapes: one ranking over all layers; layers without attention or without channels; sparse; fewer layers
"$PDQ" prune "$model" -o uneven --heads 0.4 --ffn 0.4 --score l2 --scope global 2> err.txt || fail "prune: $(cat err.txt)"
"$PDQ" prune "$model" -o blocks --attention-blocks 0.2 --ffn-blocks 0.2 --data part.txt --calibration-tokens 4096 --seed 2 2> err.txt ||
    fail "prune: $(cat err.txt)"
"$PDQ" prune "$model" -o layers --layers 0.2 --hidden 0.25 --data part.txt --calibration-tokens 4096 2> err.txt || fail "prune: $(cat err.txt)"
"$PDQ" sparsify "$model" -o sparse --pattern 2:4 --score magnitude 2> err.txt || fail "sparsify: $(cat err.txt)"
for source in uneven blocks layers sparse; do
    for padded in false true; do
        [ $padded = true ] && [ $source != uneven ] && [ $source != blocks ] && continue
        flag=(); [ $padded = true ] && flag=(--padded)
        for type in F32 Q8_0; do
            "$PDQ" quantize $source -o m.gguf --type $type --force "${flag[@]}" 2> err.txt > out.txt || fail "quantize $source: $(cat err.txt)"
            said=$("$PDQ" inspect m.gguf | sed -n 's/^  llama.cpp: //p')
            case $said in yes*) ;; *) fail "$source: inspect says it does not load: $said" ;; esac
            compare "$source $type padded=$padded ($said)" m.gguf
        done
    done
done

# Llama's relatives with random weights, far from uniform; windows of 64 in a context of 256; whole and with half the heads and channels.
# This llama.cpp computes gemma2 only at its models' numbers of layers.
for name in gemma2 minicpm granite; do
    rm -rf relative half_relative
    /usr/bin/python3 "$PDQ_SOURCE_DIR/tests/ref/make_model.py" $name relative num_hidden_layers=$([ $name = gemma2 ] && echo 26 || echo 3) \
        max_position_embeddings=256 sliding_window=64 query_pre_attn_scalar=16 attention_bias=false 2> err.txt || fail "make_model: $(cat err.txt)"
    "$PDQ" prune relative -o half_relative --heads 0.5 --ffn 0.5 --score l2 --align 32 2> err.txt || fail "prune: $(cat err.txt)"
    for source in relative half_relative; do
        for type in F32 Q8_0; do
            "$PDQ" quantize $source -o m.gguf --type $type --force 2> err.txt > out.txt || fail "quantize $type: $(cat err.txt)"
            compare "$name, $source $type" m.gguf
        done
    done
done

# GPT-2, briefly trained on counted sheep, whole and with half its heads and channels (padded)
/usr/bin/python3 "$PDQ_SOURCE_DIR/tests/ref/make_model.py" llama bytes 2> err.txt || fail "make_model: $(cat err.txt)"
mkdir gpt2 && cp bytes/tokenizer.json gpt2
seq 3000 | sed 's/$/ sheep were counted, and the dog jumped over a fence./' > part.txt
cat > gpt2/config.json << JSON
{"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 256, "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": true,
 "vocab_size": $(sed -n 's/.*"vocab_size": \([0-9]*\).*/\1/p' bytes/config.json)}
JSON
cat > gpt2.json << 'JSON'
{"model": "gpt2", "data": {"train": ["part.txt"], "eval": ["part.txt"], "seq_len": 128, "eval_tokens": 500},
 "stages": [{"train": {"init": true, "steps": 60, "batch": 8, "learning_rate": 3e-3}}]}
JSON
"$PDQ" run gpt2.json -o gpt2-run > out.txt 2> err.txt || fail "gpt2: $(tail -1 err.txt)"
head -c 20000 part.txt > short.txt && mv short.txt part.txt
"$PDQ" prune gpt2-run/01-train -o gpt2-half --heads 0.5 --ffn 0.5 --score l2 --align 32 2> err.txt || fail "prune: $(cat err.txt)"
for source in gpt2-run/01-train gpt2-half; do
    for type in F32 F16 Q8_0 Q4_0; do
        "$PDQ" quantize $source -o m.gguf --type $type --padded --force 2> err.txt > out.txt || fail "quantize $type: $(cat err.txt)"
        compare "$source $type" m.gguf
    done
done

# BERT, DistilBERT, RoBERTa: embeddings of a text by llama-embedding, with llama.cpp's own GELU taken into account (tests/ref/read_bert.py). Q8_0 rounds
# weights and, there, activations to 8 bits: states of size 1 move by up to 0.05.
printf '%s\n' 'bert bert none --bare --tiny' 'bert-classes bert classes --tiny --old' 'distilbert distilbert masked --tiny' 'roberta roberta none --tiny' |
    /usr/bin/python3 "$PDQ_SOURCE_DIR/tests/ref/make_bert.py" || fail "make_bert.py"
cp bert/vocab.txt roberta # with its special tokens
sed -i 's/"pad_token_id": 1/"pad_token_id": 0/; s/"bos_token_id": 0/"bos_token_id": 2/; s/"eos_token_id": 2/"eos_token_id": 3/' roberta/config.json
for source in bert bert-classes distilbert roberta; do
    for type in F32 F16 Q8_0; do
        tolerance=$(case $type in F32) echo 2.5e-5 ;; F16) echo 5e-3 ;; *) echo 8e-2 ;; esac)
        "$PDQ" quantize $source -o m.gguf --type $type --force 2> err.txt > out.txt || fail "quantize $source: $(cat err.txt)"
        for pooling in none cls mean; do
            for try in 1 2 3; do # it hangs at its end now and then
                timeout 60 llama-embedding -m m.gguf -p 'word1 Wörd5 word7 unheard' --pooling $pooling --embd-normalize -1 --embd-output-format json \
                    -t 1 -c 16 -b 16 -ub 16 > $source-$type-$pooling.json 2> err.txt && break
            done || fail "llama-embedding on $source $type: $(tail -1 err.txt)"
            echo "embedding $source 2,6,10,12,1,3 $source-$type-$pooling.json $pooling $tolerance"
        done
    done
done > embeddings.txt
cat embeddings.txt
/usr/bin/python3 "$PDQ_SOURCE_DIR/tests/ref/read_bert.py" < embeddings.txt > failures.txt 2>&1 || fail "embeddings: $(cat failures.txt)"
exit $failed
