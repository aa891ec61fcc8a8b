// added_tokens.h: see added_tokens.c.
#ifndef PDQ_ADDED_TOKENS_H
#define PDQ_ADDED_TOKENS_H

#include "common/text/tokenizer_parts.h"

// Gets the parts in order: an added token, or (NULL) text in between. `first`: it is the beginning.
typedef void added_token_sink(void *context, const struct added_token *token, const char *text, size_t len,
                              int first);
void split_added_tokens(const struct tokenizer *t, const struct matcher *m, const char *text, size_t len, int flags,
                        added_token_sink *sink, void *context);

#endif
