// teacher_cache.h: a teacher's answers on disk: for every token the k likeliest next tokens with their log-probabilities, the mass of all
// others and draws from those, at one temperature. Training from it runs no teacher.
//
// The file is a row of gzip members, so that `zcat FILE | head -1` shows what it belongs to:
//   header   one line of JSON: format, teacher, tokenizer, data, seq_len, windows, vocab, top_k, tail_draws, temperature,
//            precision
//   blocks   one a window (teacher_block.h), in any order; a window may be absent
//   index    u64 offset of each window's block, 0: absent
//   footer   47 bytes: a stored member with "pdqcache", u64 offset of the index, u64 number of blocks
//
// The key is the window's number in the data, not its place in a run: where windows lie depends on the tokens and seq_len alone (dataset.h),
// the seed and the weights of sources only decide when each comes. So one file serves every seed, batch and number of passes, and holds only windows that some run
// wanted; a later run adds what it lacks. What decides the answers stands in the header, and a file where any of it differs is refused.
//
// It is written as FILE.part, to which whole blocks are added, and renamed when complete: a killed run goes on from there, and what it leaves
// has the same bytes as if it had not been killed.
#ifndef PDQ_TEACHER_CACHE_H
#define PDQ_TEACHER_CACHE_H

#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/data/dataset.h"
#include "common/model/model.h"
#include "distill/teacher_block.h"

struct teacher_key { // all that decides the answers
    char teacher[HASH_TEXT], tokenizer[HASH_TEXT], data[HASH_TEXT];
    int64_t seq_len, windows; // the order: which windows the data has
    int64_t vocab, top_k, tail_draws;
    double temperature;
    enum precision precision; // the teacher's operands
};
char *teacher_key_text(const struct teacher_key *k); // the header; the caller frees
void teacher_key_hash(const struct teacher_key *k, char out[HASH_TEXT]);

struct teacher_cache { // process lifetime
    struct file_map map;
    struct block_shape shape;
    int64_t windows, n_block;
    int64_t *offset; // [windows] 0: absent
    int64_t end;     // of the blocks
    char key[HASH_TEXT];
};
// Fails, saying what differs, where the file belongs to something else, and where it is not whole.
int teacher_cache_open(struct teacher_cache *c, const char *path, const struct teacher_key *key, struct error *err);
void teacher_cache_close(struct teacher_cache *c); // fine on a zeroed one
// Answers of window w into rows [seq_len] of `to`; damage is an error, and so are answers to other rows than those with targets [seq_len].
int teacher_cache_read(const struct teacher_cache *c, int64_t w, const int32_t *targets, const struct head_top *to, struct error *err);
// Windows that are wanted (a flag for each) and not in the file; 0 also means that the wanted blocks were read and are whole. -1: an error.
// A file that is not there lacks them all.
int64_t teacher_cache_lacks(const char *path, const struct teacher_key *key, const unsigned char *wanted, const struct dataset *data,
                            struct error *err);
// Asks the teacher about the windows that are lacking and completes the file. ^C leaves FILE.part, and the next call goes on.
int teacher_cache_make(const char *path, const struct teacher_key *key, const unsigned char *wanted, const struct dataset *data,
                       struct model *teacher, struct error *err);

// Rows of answers with k entries and room for m draws; the caller frees with top_rows_free.
struct head_top top_rows_new(int64_t rows, int64_t k, int64_t m);
struct head_top top_rows_at(const struct head_top *t, int64_t row); // those from there on; not to be freed
void top_rows_free(struct head_top *t);

// ---- for the maker ----

#define CACHE_MAGIC "pdqcache"
#define CACHE_FOOTER 47 // 10 bytes of gzip header, 5 of deflate, 24 stored, 8 of trailer
#define CACHE_HEADER_ROOM 4096
// Length of the header at data if it is this key's, else -1.
int64_t teacher_header_bytes(const unsigned char *data, size_t size, const struct teacher_key *key);
struct block_shape teacher_block_shape(const struct teacher_key *key);
// Of window w's block: it answers the rows with targets [seq_len], which lie side by side.
struct block_head teacher_block_head(int64_t w, const int32_t *targets, int64_t seq_len);
int teacher_block_is(const struct block_head *found, const struct block_head *expected);

#endif
