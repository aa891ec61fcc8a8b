// blocks_search_avx512.c: the search of blocks_search.c, all sixteen sub-blocks of a batch in one register.
#define SEARCH_AVX512
#include "quant/blocks_search.c"
