// quickstart-corpus: the training text of the embedded default model, from the data files of three Debian packages.
//
//     quickstart-corpus austen  Rdata.rdb   PREFIX      six novels: R's lazy-load database of r-cran-janeaustenr
//     quickstart-corpus wordnet DIRECTORY   PREFIX      glosses and examples: data.{noun,verb,adj,adv} of wordnet-base
//     quickstart-corpus kjv     bible.data  PREFIX      the King James Bible: the compressed text of bible-kjv-text
//
// Each run reads one source, cleans it and writes PREFIX-train.txt and PREFIX-heldout.txt.
//
//     reader (austen, wordnet, kjv) -> lines in a corpus -> corpus_split -> two files
//
// Invariants:
//   - Output is UTF-8 (nearly all of it ASCII), one paragraph, gloss or verse a line; no line is empty but the separators.
//   - The split is a fixed rule, no randomness: the same package gives the same two files, byte for byte.
//   - Held-out text is whole blocks of about 8 KiB, and no held-out line stands verbatim in the train part.
//   - Inputs are not trusted: every length is checked against the file, and what does not fit ends the run with a message.
//
// The tool stands alone on purpose (C11 and zlib, nothing of pdq): it runs once, before there is a model. It is therefore
// the one exception to the rule that only common/base/file.c uses zlib. Link with z.
//
// To add a source: write a reader that calls corpus_add for each line, add its row to sources[], and fetch its package in
// ./fetch.

#include <errno.h>   // errno
#include <stdarg.h>  // va_list
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>  // fsync, unlink
#include <zlib.h>    // inflate

enum {
    BLOCK_BYTES = 8192,       // a block of the split ends at the first paragraph that reaches this size
    HELDOUT_EVERY = 25,       // one block in 25 (4 %) is held out ...
    HELDOUT_PHASE = 12,       // ... this one, so that it is neither the first block of a source nor the last
    MAX_BYTES = 256 << 20,    // no input, and nothing that it inflates to, is larger than this
};

// ---------------------------------------------------------------------------------------------------------------------
// Errors and memory. A command-line tool that runs once: every error ends it, with a message that is complete as it stands.

#if defined(__GNUC__)
__attribute__((noreturn, format(printf, 1, 2)))
#endif
static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("quickstart-corpus: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

// Grows *data to hold at least `need` elements of `size` bytes; *cap is the capacity in elements.
static void *grow(void *data, size_t *cap, size_t need, size_t size) {
    if (need <= *cap) return data;
    size_t want = *cap < 64 ? 64 : *cap;
    while (want < need) {
        if (want > SIZE_MAX / 2 / size) die("out of memory: %zu elements of %zu bytes", need, size);
        want *= 2;
    }
    void *grown = realloc(data, want * size);
    if (!grown) die("out of memory: %zu bytes", want * size);
    *cap = want;
    return grown;
}

// Bytes that grow. Lifetime: whoever declares it; buf_release frees the contents.
struct buf {
    uint8_t *data;
    size_t len, cap;
};

static void buf_append(struct buf *b, const void *data, size_t len) {
    if (len == 0) return;
    if (len > MAX_BYTES || b->len > MAX_BYTES - len)
        die("more than %d bytes of text: not a file of the expected package", MAX_BYTES);
    b->data = grow(b->data, &b->cap, b->len + len, 1);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static void buf_append_string(struct buf *b, const char *s) { buf_append(b, s, strlen(s)); }

static void buf_append_byte(struct buf *b, int c) {
    const uint8_t byte = (uint8_t)c;
    buf_append(b, &byte, 1);
}

static void buf_release(struct buf *b) {
    free(b->data);
    *b = (struct buf){0};
}

// A stretch of someone else's bytes.
struct span {
    const uint8_t *p;
    size_t len;
};

static bool span_starts(struct span s, const char *prefix) {
    const size_t n = strlen(prefix);
    return s.len >= n && memcmp(s.p, prefix, n) == 0;
}

static bool span_contains(struct span s, const char *word) {
    const size_t n = strlen(word);
    for (size_t i = 0; i + n <= s.len; i++)
        if (memcmp(s.p + i, word, n) == 0) return true;
    return false;
}

static bool is_space(uint8_t c) { return c == ' ' || c < 0x20 || c == 0x7f; }

static struct span span_trim(struct span s) {
    while (s.len && is_space(s.p[0])) s.p++, s.len--;
    while (s.len && is_space(s.p[s.len - 1])) s.len--;
    return s;
}

// Cuts the next line off the front of *rest; false at the end.
static bool next_line(struct span *rest, struct span *line) {
    if (rest->len == 0) return false;
    const uint8_t *end = memchr(rest->p, '\n', rest->len);
    const size_t n = end ? (size_t)(end - rest->p) : rest->len;
    *line = (struct span){rest->p, n};
    rest->p += n + (end != NULL);
    rest->len -= n + (end != NULL);
    return true;
}

// Cuts the next word (no blanks in it) off the front of *rest; false when there is none.
static bool next_word(struct span *rest, struct span *word) {
    while (rest->len && is_space(rest->p[0])) rest->p++, rest->len--;
    size_t n = 0;
    while (n < rest->len && !is_space(rest->p[n])) n++;
    *word = (struct span){rest->p, n};
    rest->p += n;
    rest->len -= n;
    return n > 0;
}

// The caller releases the result.
static struct buf read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) die("%s: %s", path, strerror(errno));
    struct buf b = {0};
    uint8_t chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0) buf_append(&b, chunk, n);
    if (ferror(f)) die("%s: cannot be read: %s", path, strerror(errno));
    fclose(f);
    if (b.len == 0) die("%s: the file is empty", path);
    return b;
}

static uint32_t be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

static bool utf8_valid(struct span s) {
    for (size_t i = 0; i < s.len;) {
        const uint8_t c = s.p[i];
        const size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
        if (n == 0 || n > s.len - i) return false;
        for (size_t k = 1; k < n; k++)
            if ((s.p[i + k] & 0xc0) != 0x80) return false;
        if ((c == 0xe0 && s.p[i + 1] < 0xa0) || (c == 0xed && s.p[i + 1] > 0x9f) || (c == 0xf0 && s.p[i + 1] < 0x90) ||
            (c == 0xf4 && s.p[i + 1] > 0x8f))
            return false;
        i += n;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// The corpus: lines in reading order, and their split into train and held-out.

enum line_flags {
    STARTS_UNIT = 1,    // a block of the split may begin here (not inside a poem, a chapter, or after a heading)
    AFTER_BLANK = 2,    // an empty line stands before this one
    STARTS_SOURCE = 4,  // a new novel, a new part of speech: a block ends before this line
};

// One output line: text[start, start + len); `key` bytes in, the part begins that must not stand in both parts.
struct line {
    size_t start, len, key;
    int flags;
    bool heldout;
};

// Lifetime: process (one run builds one).
struct corpus {
    struct buf text;
    struct line *lines;
    size_t count, cap;
};

// Adds a line: blanks collapsed to one, control characters taken as blanks, "_emphasis_" unmarked, `quotes' straightened.
// `key` is the offset in `s` of the part that identifies the line (0: all of it). Empty lines are left out.
static void corpus_add(struct corpus *c, struct span s, size_t key, int flags) {
    if (!utf8_valid(s)) die("text that is not UTF-8: \"%.*s\"", (int)(s.len < 60 ? s.len : 60), (const char *)s.p);
    struct line line = {.start = c->text.len, .flags = flags};
    bool blank = false;
    for (size_t i = 0; i < s.len; i++) {
        if (i == key) line.key = c->text.len - line.start;
        if (is_space(s.p[i])) {
            blank = c->text.len > line.start;
        } else if (s.p[i] != '_') {
            if (blank && s.p[i] != ';') buf_append_byte(&c->text, ' ');
            blank = false;
            buf_append_byte(&c->text, s.p[i] == '`' ? '\'' : s.p[i]);
        }
    }
    line.len = c->text.len - line.start;
    if (line.len == 0) return;
    c->lines = grow(c->lines, &c->cap, c->count + 1, sizeof *c->lines);
    c->lines[c->count++] = line;
}

// Marks every HELDOUT_EVERY-th block as held out.
static void corpus_mark_blocks(struct corpus *c) {
    size_t block = 0, bytes = 0;
    for (size_t i = 0; i < c->count; i++) {
        struct line *l = &c->lines[i];
        const bool full = bytes >= BLOCK_BYTES && (l->flags & STARTS_UNIT);
        if (bytes > 0 && (full || (l->flags & STARTS_SOURCE))) block++, bytes = 0;
        l->heldout = block % HELDOUT_EVERY == HELDOUT_PHASE;
        bytes += l->len;
    }
}

static struct span line_key(const struct corpus *c, const struct line *l) {
    return span_trim((struct span){c->text.data + l->start + l->key, l->len - l->key});
}

static uint64_t span_hash(struct span s) {  // FNV-1a
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < s.len; i++) h = (h ^ s.p[i]) * 0x100000001b3u;
    return h;
}

// The slot of `key` in a table of line numbers + 1: the slot that holds it, or the empty one where it belongs.
static size_t *key_slot(const struct corpus *c, size_t *table, size_t mask, struct span key) {
    size_t at = (size_t)span_hash(key) & mask;
    for (; table[at]; at = (at + 1) & mask) {
        const struct span other = line_key(c, &c->lines[table[at] - 1]);
        if (other.len == key.len && memcmp(other.p, key.p, key.len) == 0) break;
    }
    return &table[at];
}

// Removes the held-out lines that also stand in the train part ("Yes.", refrains, formulas). Returns how many.
static size_t corpus_drop_repeats(struct corpus *c) {
    size_t slots = 64;
    while (slots < 2 * c->count) slots *= 2;
    size_t *table = calloc(slots, sizeof *table);
    if (!table) die("out of memory: %zu slots", slots);
    for (size_t i = 0; i < c->count; i++)
        if (!c->lines[i].heldout) *key_slot(c, table, slots - 1, line_key(c, &c->lines[i])) = i + 1;
    size_t kept = 0, dropped = 0;
    for (size_t i = 0; i < c->count; i++) {
        if (c->lines[i].heldout && *key_slot(c, table, slots - 1, line_key(c, &c->lines[i])))
            c->lines[i].len = 0, dropped++;
    }
    for (size_t i = 0; i < c->count; i++)  // apart from the look-ups, which still need the line numbers
        if (c->lines[i].len) c->lines[kept++] = c->lines[i];
    c->count = kept;
    free(table);
    return dropped;
}

// Writes PREFIX-<part>.txt under a temporary name, then renames it. Returns its size in bytes.
static size_t corpus_write(const struct corpus *c, const char *prefix, bool heldout) {
    const char *const suffix = heldout ? "-heldout.txt" : "-train.txt";
    const size_t room = strlen(prefix) + strlen(suffix) + sizeof ".tmp";
    char *path = malloc(room), *temporary = malloc(room);
    if (!path || !temporary) die("out of memory: a file name");
    snprintf(path, room, "%s%s", prefix, suffix);
    snprintf(temporary, room, "%s.tmp", path);
    FILE *f = fopen(temporary, "wb");
    if (!f) die("%s: cannot be written: %s", temporary, strerror(errno));
    size_t bytes = 0;
    for (size_t i = 0; i < c->count; i++) {
        const struct line *l = &c->lines[i];
        if (l->heldout != heldout) continue;
        if (bytes > 0 && (l->flags & AFTER_BLANK)) bytes += fwrite("\n", 1, 1, f);
        bytes += fwrite(c->text.data + l->start, 1, l->len, f);
        bytes += fwrite("\n", 1, 1, f);
    }
    const bool ok = !ferror(f) && fflush(f) == 0 && fsync(fileno(f)) == 0;
    if (fclose(f) != 0 || !ok || rename(temporary, path) != 0) {
        const int code = errno;
        unlink(temporary);
        die("%s: cannot be written: %s", path, strerror(code));
    }
    free(path);
    free(temporary);
    return bytes;
}

// ---------------------------------------------------------------------------------------------------------------------
// austen: an R lazy-load database is a row of blocks {4 bytes big-endian: size once inflated; a zlib stream}. Its index
// (Rdata.rdx) adds the variables' names only, which the novels' own title lines tell as well, so it is not read. Each block
// inflates to one object in R's XDR serialization ("R Internals", 1.8): here a plain character vector, a string a line.

enum { R_STRSXP = 16, R_CHARSXP = 9, R_HAS_ATTRIBUTES = 1 << 9 };

// Reads a big-endian 32-bit integer of an R object.
static int32_t r_int(struct span *rest) {
    if (rest->len < 4) die("austen: an R object ends too early");
    const uint32_t v = be32(rest->p);
    rest->p += 4;
    rest->len -= 4;
    return (int32_t)v;
}

static struct span r_bytes(struct span *rest, int32_t len) {
    if (len < 0 || (size_t)len > rest->len)
        die("austen: a string of %d bytes in an R object with %zu left", (int)len, rest->len);
    const struct span s = {rest->p, (size_t)len};
    rest->p += len;
    rest->len -= (size_t)len;
    return s;
}

// Returns the strings of a serialized character vector; the caller frees the array, the bytes stay in `object`.
static struct span *r_strings(struct span object, size_t *count) {
    struct span rest = object;
    const struct span magic = r_bytes(&rest, 2);
    if (memcmp(magic.p, "X\n", 2) != 0) die("austen: not an R object in XDR form (it should begin with X and a newline)");
    const int32_t version = r_int(&rest);
    if (version != 2 && version != 3) die("austen: R serialization version %d, expected 2 or 3", (int)version);
    r_int(&rest);  // R that wrote it
    r_int(&rest);  // R that can read it
    if (version == 3) r_bytes(&rest, r_int(&rest));  // the writer's encoding; each string has its own mark
    const int32_t flags = r_int(&rest);
    if ((flags & 0xff) != R_STRSXP || (flags & R_HAS_ATTRIBUTES))
        die("austen: an R object of type %d, expected a plain character vector (%d)", (int)(flags & 0xff), R_STRSXP);
    const int32_t n = r_int(&rest);
    if (n < 0 || (size_t)n > rest.len / 8) die("austen: %d strings in an R object with %zu bytes left", (int)n, rest.len);
    struct span *strings = malloc(((size_t)n + 1) * sizeof *strings);
    if (!strings) die("out of memory: %d strings", (int)n);
    for (int32_t i = 0; i < n; i++) {
        if ((r_int(&rest) & 0xff) != R_CHARSXP) die("austen: element %d of a character vector is no string", (int)i);
        strings[i] = r_bytes(&rest, r_int(&rest));
    }
    *count = (size_t)n;
    return strings;
}

static size_t indent_of(struct span line) {
    size_t n = 0;
    while (n < line.len && is_space(line.p[n])) n++;
    return n;
}

// Is a paragraph of wrapped lines prose (join them), or verse, an address, a signature (keep the lines)? Prose has one
// indentation throughout, mostly none; where it is indented (letters), a line begins with a small letter, as verse does not.
static bool paragraph_is_prose(const struct span *lines, size_t count) {
    bool small = false;
    for (size_t i = 0; i < count; i++) {
        const size_t indent = indent_of(lines[i]);
        if (indent != indent_of(lines[0])) return false;
        small = small || (lines[i].p[indent] >= 'a' && lines[i].p[indent] <= 'z');
    }
    return indent_of(lines[0]) == 0 || small;
}

// Joins `next` to the wrapped line in `b`. The novels set dashes tight ("sorrow came--a gentle sorrow"), so a line that
// breaks at a dash or a hyphen is joined without a blank.
static void join_line(struct buf *b, struct span next) {
    size_t n = b->len;
    while (n > 0 && b->data[n - 1] == '-') n--;
    const bool tight = n < b->len && n > 0 && !is_space(b->data[n - 1]);
    if (b->len > 0 && !tight && !span_starts(next, "--")) buf_append_byte(b, ' ');
    buf_append(b, next.p, next.len);
}

static bool is_heading(struct span s) {
    return span_starts(s, "CHAPTER ") || span_starts(s, "Chapter ") || span_starts(s, "VOLUME ");
}

// Notes that are not Austen's: where a modern edition ends a volume, and rows of asterisks.
static bool is_editorial(struct span first, const struct span *lines, size_t count) {
    if (span_starts(first, "***")) return true;
    bool edition = false;
    for (size_t i = 0; i < count; i++) edition = edition || span_contains(lines[i], "edition");
    return span_starts(first, "[") && edition;
}

// Adds the paragraph in lines[0..count). `flags` are those of its first line.
static void novel_paragraph(struct corpus *c, const struct span *lines, size_t count, int flags) {
    const bool prose = paragraph_is_prose(lines, count);
    struct buf joined = {0};
    for (size_t i = 0; i < count; i++) {
        const bool own = !prose && i > 0 && (indent_of(lines[i]) > 0 || indent_of(lines[i - 1]) > 0);
        if (own) {
            corpus_add(c, (struct span){joined.data, joined.len}, 0, flags);
            joined.len = 0;
            flags = 0;
        }
        join_line(&joined, span_trim(lines[i]));
    }
    corpus_add(c, (struct span){joined.data, joined.len}, 0, flags);
    buf_release(&joined);
}

static void novel_add(struct corpus *c, struct span object) {
    size_t count;
    struct span *lines = r_strings(object, &count);
    int flags = STARTS_SOURCE | STARTS_UNIT | AFTER_BLANK;
    for (size_t at = 0; at < count;) {
        if (span_trim(lines[at]).len == 0) {
            at++;
            continue;
        }
        size_t end = at;
        while (end < count && span_trim(lines[end]).len > 0) end++;
        const struct span first = span_trim(lines[at]);
        if (span_starts(first, "A NOTE ON THE TEXT")) break;  // about a modern edition, at the end of Northanger Abbey
        if (!is_editorial(first, lines + at, end - at)) {
            novel_paragraph(c, lines + at, end - at, flags);
            flags = AFTER_BLANK | (is_heading(first) ? 0 : STARTS_UNIT);  // a heading stays with its chapter
        }
        at = end;
    }
    free(lines);
}

// Inflates the zlib stream at the front of `in` to exactly out_len bytes. Returns the bytes that the stream took.
static size_t inflate_block(struct span in, uint8_t *out, size_t out_len) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.p, .avail_in = (uInt)in.len, .next_out = out, .avail_out = (uInt)out_len};
    if (inflateInit(&z) != Z_OK) die("out of memory: zlib");
    const int status = inflate(&z, Z_FINISH);
    const size_t taken = in.len - z.avail_in;
    const bool whole = status == Z_STREAM_END && z.avail_out == 0;
    inflateEnd(&z);
    if (!whole) die("austen: a block is no zlib stream of %zu bytes (damaged, or compressed otherwise)", out_len);
    return taken;
}

static void austen_read(struct corpus *c, const char *path) {
    struct buf file = read_file(path);
    struct span rest = {file.data, file.len};
    while (rest.len > 0) {
        if (rest.len < 4) die("%s: %zu stray bytes at the end", path, rest.len);
        const size_t size = be32(rest.p);
        // zlib does not compress better than about 1 : 1032
        if (size == 0 || size > MAX_BYTES || size / 1100 > rest.len)
            die("%s: a block of %zu bytes cannot be right", path, size);
        uint8_t *object = malloc(size);
        if (!object) die("out of memory: %zu bytes", size);
        rest.p += 4;
        rest.len -= 4;
        const size_t taken = inflate_block(rest, object, size);
        rest.p += taken;
        rest.len -= taken;
        novel_add(c, (struct span){object, size});
        free(object);
    }
    buf_release(&file);
}

// ---------------------------------------------------------------------------------------------------------------------
// wordnet: a line of data.* is a synset (wndb(5WN)): offset, file number, type, hexadecimal word count, (word, lex_id)...,
// pointers ..., "|", gloss. A synset stands once, whatever the number of its words, so its gloss does too:
//     car, auto, automobile, machine, motorcar: a motor vehicle with four wheels; usually ...; "he needs a car to get to work"

// WordNet marks its slurs: "(ethnic slur) ...", "offensive name for ...", "a disparaging term for ...". A model that people
// meet by default has no need of them. The noun must follow closely: Islam's gloss says which name of it "is offensive".
static bool gloss_is_slur(struct span gloss) {
    static const char *const marks[] = {"offensive", "obscene", "disparaging", "derogatory", "pejorative"};
    static const char *const nouns[] = {" term", " name", " word", " slang"};
    enum { CLOSE = 20 };
    if (span_contains(gloss, "ethnic slur")) return true;
    for (size_t at = 0; at < gloss.len; at++) {
        const struct span here = {gloss.p + at, gloss.len - at};
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
            if (!span_starts(here, marks[i])) continue;
            const size_t len = strlen(marks[i]);
            const struct span after = {here.p + len, here.len - len < CLOSE ? here.len - len : CLOSE};
            for (size_t k = 0; k < sizeof nouns / sizeof *nouns; k++)
                if (span_contains(after, nouns[k])) return true;
        }
    }
    return false;
}

// Appends a word of a synset: underscores are blanks, and "(a)", "(p)", "(ip)" after an adjective are syntax marks.
static void append_word(struct buf *b, struct span word) {
    const uint8_t *mark = memchr(word.p, '(', word.len);
    const size_t len = mark && word.p[word.len - 1] == ')' ? (size_t)(mark - word.p) : word.len;
    for (size_t i = 0; i < len; i++) buf_append_byte(b, word.p[i] == '_' ? ' ' : word.p[i]);
}

static int hex_digit(uint8_t ch) {
    if (ch >= '0' && ch <= '9') return ch - '0';
    if (ch >= 'a' && ch <= 'f') return ch - 'a' + 10;
    return -1;
}

static void synset_add(struct corpus *c, struct span line, int flags, const char *path, size_t number) {
    struct span rest = line, field;
    for (int i = 0; i < 3; i++)
        if (!next_word(&rest, &field)) die("%s:%zu: fewer than three fields", path, number);
    if (!next_word(&rest, &field) || field.len != 2 || hex_digit(field.p[0]) < 0 || hex_digit(field.p[1]) < 0)
        die("%s:%zu: the fourth field is no word count of two hexadecimal digits", path, number);
    const int words = 16 * hex_digit(field.p[0]) + hex_digit(field.p[1]);
    struct buf entry = {0};
    for (int i = 0; i < words; i++) {
        struct span word;
        if (!next_word(&rest, &word) || !next_word(&rest, &field)) die("%s:%zu: fewer than %d words", path, number, words);
        if (i > 0) buf_append_string(&entry, ", ");
        append_word(&entry, word);
    }
    const uint8_t *bar = memchr(rest.p, '|', rest.len);
    if (!bar) die("%s:%zu: no gloss", path, number);
    const struct span gloss = span_trim((struct span){bar + 1, rest.len - (size_t)(bar + 1 - rest.p)});
    if (entry.len > 0 && gloss.len > 0 && !gloss_is_slur(gloss)) {
        buf_append_string(&entry, ": ");
        const size_t key = entry.len;  // the same gloss under other words would be no held-out text
        buf_append(&entry, gloss.p, gloss.len);
        corpus_add(c, (struct span){entry.data, entry.len}, key, flags);
    }
    buf_release(&entry);
}

static void wordnet_read(struct corpus *c, const char *directory) {
    static const char *const parts[] = {"data.noun", "data.verb", "data.adj", "data.adv"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char path[4096];
        const int n = snprintf(path, sizeof path, "%s/%s", directory, parts[i]);
        if (n < 0 || (size_t)n >= sizeof path) die("%s: the path is too long", directory);
        struct buf file = read_file(path);
        struct span rest = {file.data, file.len}, line;
        int flags = STARTS_SOURCE | STARTS_UNIT;
        for (size_t number = 1; next_line(&rest, &line); number++) {
            if (span_starts(line, "  ") || span_trim(line).len == 0) continue;  // the licence, in front
            synset_add(c, line, flags, path, number);
            flags = STARTS_UNIT;
        }
        buf_release(&file);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// kjv: bible.data is a header ("EC02", 80 bytes of title, window size, window count, a file offset for each window; all big
// endian) and one compress(1) stream whose dictionary is cleared at each window. The first offset points behind the stream's
// own three header bytes. Inside: a title, then a line a verse, "Ge1:1 In the beginning ...".

enum { LZW_CLEAR = 256, LZW_FIRST = 257, LZW_MIN_BITS = 9, LZW_MAX_BITS = 16 };

// Reads codes of a compress(1) stream. Codes come in groups of eight, all of one width: where the width changes, or after
// a clear code, the rest of the group is padding.
struct lzw {
    struct span in;
    size_t group;      // byte where the current group of codes begins
    unsigned in_group; // codes read from it
    unsigned bits;     // width of a code
};

static void lzw_set_bits(struct lzw *z, unsigned bits) {
    if (z->in_group > 0) z->group += z->bits;  // eight codes of `bits` bits are `bits` bytes
    z->in_group = 0;
    z->bits = bits;
}

// The next code, or -1 at the end of the stream.
static int lzw_next(struct lzw *z) {
    if (z->in_group == 8) lzw_set_bits(z, z->bits);
    const size_t bit = (size_t)z->in_group * z->bits;
    const size_t at = z->group + bit / 8, last = z->group + (bit + z->bits - 1) / 8;
    if (last >= z->in.len) return -1;
    uint32_t window = 0;
    for (size_t i = last + 1; i-- > at;) window = window << 8 | z->in.p[i];
    z->in_group++;
    return (int)(window >> bit % 8 & ((1u << z->bits) - 1));
}

// Appends what `code` stands for; returns its first byte. Prefixes always point to smaller codes, so the walk ends.
static uint8_t lzw_emit(struct buf *out, const uint16_t *prefix, const uint8_t *suffix, unsigned code) {
    const size_t start = out->len;
    while (code >= LZW_FIRST) {
        buf_append_byte(out, suffix[code]);
        code = prefix[code];
    }
    buf_append_byte(out, (int)code);
    for (size_t i = start, k = out->len - 1; i < k; i++, k--) {
        const uint8_t swap = out->data[i];
        out->data[i] = out->data[k];
        out->data[k] = swap;
    }
    return out->data[start];
}

// Decodes a compress(1) stream (block mode, up to 16 bits); the caller releases the result.
static struct buf lzw_decode(struct span in) {
    static uint16_t prefix[1 << LZW_MAX_BITS];
    static uint8_t suffix[1 << LZW_MAX_BITS];
    if (in.len < 3 || in.p[0] != 0x1f || in.p[1] != 0x9d) die("kjv: no compress(1) stream where the header says so");
    const unsigned max_bits = in.p[2] & 0x1f;
    if (!(in.p[2] & 0x80) || max_bits < LZW_MIN_BITS || max_bits > LZW_MAX_BITS)
        die("kjv: a compress(1) stream with flags 0x%02x, expected block mode and 9 to 16 bits", in.p[2]);
    struct lzw z = {.in = {in.p + 3, in.len - 3}, .bits = LZW_MIN_BITS};
    struct buf out = {0};
    unsigned free_code = LZW_FIRST;
    int before = -1;  // the code read before this one; none at the start and after a clear
    for (int code; (code = lzw_next(&z)) >= 0;) {
        if (code == LZW_CLEAR) {
            lzw_set_bits(&z, LZW_MIN_BITS);
            free_code = LZW_FIRST;
            before = -1;
            continue;
        }
        const unsigned u = (unsigned)code;
        if (before < 0 ? u > 255 : u > free_code) die("kjv: the compressed text is damaged (code %u of %u)", u, free_code);
        if (before < 0) {
            buf_append_byte(&out, code);
        } else {
            const bool own = u == free_code;  // the entry that this very step adds: what came before, plus its first byte
            const uint8_t first = lzw_emit(&out, prefix, suffix, own ? (unsigned)before : u);
            if (own && free_code >= 1u << max_bits) die("kjv: the compressed text is damaged (table full)");
            if (own) buf_append_byte(&out, first);
            if (free_code < 1u << max_bits) {
                prefix[free_code] = (uint16_t)before;
                suffix[free_code++] = first;
            }
        }
        if (free_code > (1u << z.bits) - 1 && z.bits < max_bits) lzw_set_bits(&z, z.bits + 1);
        before = code;
    }
    return out;
}

// Books in the Bible's order: how bible.data abbreviates them, and how a reader knows them.
static const struct {
    const char *abbreviation, *name;
} books[] = {
    {"Ge", "Genesis"},          {"Exo", "Exodus"},         {"Lev", "Leviticus"},      {"Num", "Numbers"},
    {"Deu", "Deuteronomy"},     {"Josh", "Joshua"},        {"Jdgs", "Judges"},        {"Ruth", "Ruth"},
    {"1Sm", "1 Samuel"},        {"2Sm", "2 Samuel"},       {"1Ki", "1 Kings"},        {"2Ki", "2 Kings"},
    {"1Chr", "1 Chronicles"},   {"2Chr", "2 Chronicles"},  {"Ezra", "Ezra"},          {"Neh", "Nehemiah"},
    {"Est", "Esther"},          {"Job", "Job"},            {"Psa", "Psalm"},          {"Prv", "Proverbs"},
    {"Eccl", "Ecclesiastes"},   {"SSol", "Song of Solomon"}, {"Isa", "Isaiah"},       {"Jer", "Jeremiah"},
    {"Lam", "Lamentations"},    {"Eze", "Ezekiel"},        {"Dan", "Daniel"},         {"Hos", "Hosea"},
    {"Joel", "Joel"},           {"Amos", "Amos"},          {"Obad", "Obadiah"},       {"Jonah", "Jonah"},
    {"Mic", "Micah"},           {"Nahum", "Nahum"},        {"Hab", "Habakkuk"},       {"Zep", "Zephaniah"},
    {"Hag", "Haggai"},          {"Zec", "Zechariah"},      {"Mal", "Malachi"},        {"Mat", "Matthew"},
    {"Mark", "Mark"},           {"Luke", "Luke"},          {"John", "John"},          {"Acts", "Acts"},
    {"Rom", "Romans"},          {"1Cor", "1 Corinthians"}, {"2Cor", "2 Corinthians"}, {"Gal", "Galatians"},
    {"Eph", "Ephesians"},       {"Phi", "Philippians"},    {"Col", "Colossians"},     {"1Th", "1 Thessalonians"},
    {"2Th", "2 Thessalonians"}, {"1Tim", "1 Timothy"},     {"2Tim", "2 Timothy"},     {"Titus", "Titus"},
    {"Phmn", "Philemon"},       {"Heb", "Hebrews"},        {"Jas", "James"},          {"1Pet", "1 Peter"},
    {"2Pet", "2 Peter"},        {"1Jn", "1 John"},         {"2Jn", "2 John"},         {"3Jn", "3 John"},
    {"Jude", "Jude"},           {"Rev", "Revelation"},
};

static const char *book_name(struct span abbreviation) {
    for (size_t i = 0; i < sizeof books / sizeof *books; i++)
        if (strlen(books[i].abbreviation) == abbreviation.len && span_starts(abbreviation, books[i].abbreviation))
            return books[i].name;
    die("kjv: unknown book \"%.*s\"", (int)(abbreviation.len < 20 ? abbreviation.len : 20), (const char *)abbreviation.p);
}

// Splits "1Sm2:3" into "1Sm" and "2"; false if it is no such reference.
static bool reference_split(struct span s, struct span *book, struct span *chapter) {
    size_t at = s.len > 0 && s.p[0] >= '1' && s.p[0] <= '3';
    while (at < s.len && ((s.p[at] | 32) >= 'a' && (s.p[at] | 32) <= 'z')) at++;
    size_t end = at;
    while (end < s.len && s.p[end] >= '0' && s.p[end] <= '9') end++;
    *book = (struct span){s.p, at};
    *chapter = (struct span){s.p + at, end - at};
    return at > 0 && end > at && end - at <= 3 && end < s.len && s.p[end] == ':';
}

static void kjv_read(struct corpus *c, const char *path) {
    struct buf file = read_file(path);
    enum { FIRST_OFFSET = 4 + 80 + 4 + 4 };
    if (file.len < FIRST_OFFSET + 4 || memcmp(file.data, "EC02", 4) != 0)
        die("%s: not a bible.data file (it should begin with EC02)", path);
    const size_t offset = be32(file.data + FIRST_OFFSET);
    if (offset < 3 || offset > file.len) die("%s: the text begins at byte %zu of %zu", path, offset, file.len);
    struct buf text = lzw_decode((struct span){file.data + offset - 3, file.len - offset + 3});
    buf_release(&file);

    struct span rest = {text.data, text.len}, line;
    next_line(&rest, &line);  // "Holy Bible, Authorized (King James) Version.  Textfile 930105."
    struct span chapter_before = {text.data, 0};
    struct buf heading = {0};
    while (next_line(&rest, &line)) {
        struct span verse = line, reference, book, chapter;
        if (!next_word(&verse, &reference)) continue;
        if (!reference_split(reference, &book, &chapter))
            die("%s: a verse begins with \"%.*s\", expected a reference such as Ge1:1", path,
                (int)(reference.len < 20 ? reference.len : 20), (const char *)reference.p);
        const struct span both = {book.p, book.len + chapter.len};
        if (both.len != chapter_before.len || memcmp(both.p, chapter_before.p, both.len) != 0) {
            heading.len = 0;
            buf_append_string(&heading, book_name(book));
            buf_append_byte(&heading, ' ');
            buf_append(&heading, chapter.p, chapter.len);
            corpus_add(c, (struct span){heading.data, heading.len}, 0, STARTS_UNIT | AFTER_BLANK);
            chapter_before = both;
        }
        corpus_add(c, verse, 0, 0);
    }
    buf_release(&heading);
    buf_release(&text);
}

// ---------------------------------------------------------------------------------------------------------------------

static const struct {
    const char *name, *input;
    void (*read)(struct corpus *c, const char *path);
} sources[] = {
    {"austen", "Rdata.rdb of the R package janeaustenr", austen_read},
    {"wordnet", "the directory with data.noun, data.verb, data.adj, data.adv", wordnet_read},
    {"kjv", "bible.data of bible-kjv-text", kjv_read},
};

static int usage(FILE *to, int status) {
    fputs("usage: quickstart-corpus SOURCE INPUT PREFIX\n"
          "Writes PREFIX-train.txt and PREFIX-heldout.txt. SOURCE and its INPUT:\n", to);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) fprintf(to, "  %-8s %s\n", sources[i].name, sources[i].input);
    return status;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--help") == 0) return usage(stdout, 0);
    if (argc != 4) return usage(stderr, 2);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        if (strcmp(argv[1], sources[i].name) != 0) continue;
        struct corpus c = {0};
        sources[i].read(&c, argv[2]);
        if (c.count == 0) die("%s: no text in it", argv[2]);
        corpus_mark_blocks(&c);
        const size_t dropped = corpus_drop_repeats(&c);
        const size_t train = corpus_write(&c, argv[3], false), heldout = corpus_write(&c, argv[3], true);
        printf("%s: %zu bytes to train on, %zu held out (%zu held-out lines left out, they stand in the train part)\n",
               argv[1], train, heldout, dropped);
        buf_release(&c.text);
        free(c.lines);
        return 0;
    }
    fprintf(stderr, "quickstart-corpus: unknown source \"%s\"\n", argv[1]);
    return usage(stderr, 2);
}
