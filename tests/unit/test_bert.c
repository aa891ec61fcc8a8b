// test_bert.c: BERT, DistilBERT and RoBERTa with their heads against PyTorch (tests/ref/bert_golden.py): logits, loss and the gradient of
// every parameter, over padded sequences; and what padding holds changes nothing.
#include "tests/unit/sequences.h"

Test(bert, heads_against_pytorch) {
    static const char *const heads[] = {"bert-classes", "bert-masked", "bert-spans", "distilbert-classes", "distilbert-masked", "roberta-classes",
                                        "roberta-masked"};
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
        sequences_check(heads[h], 1, 0, 0);
        sequences_check(heads[h], 2, 0, 0);
        sequences_check(heads[h], 2, 1, 0);
    }
    sequences_check("bert-masked", 2, 0, 1);
    sequences_check("bert-masked", 2, 1, 1);
}

Test(bert, padding_changes_nothing) { sequences_check_padding("bert-classes"); }
