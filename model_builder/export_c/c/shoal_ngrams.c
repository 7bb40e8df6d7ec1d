#include "shoal_ngrams.h"

#include <string.h>

#define FNV_OFFSET 0x811C9DC5u
#define FNV_PRIME 0x01000193u

static uint32_t hash(const uint8_t *data, size_t size, uint32_t state)
{
    for (size_t i = 0; i < size; i++) {
        state = (state ^ data[i]) * FNV_PRIME;
    }
    return state;
}

/* One code point in lower case; 0x20 for what separates words. */
static uint32_t fold(uint32_t c)
{
    if (c >= 0xFF01 && c <= 0xFF5E) {
        c -= 0xFEE0;
    }
    if (c < 0x80) {
        if (c >= 0x41 && c <= 0x5A) {
            return c + 32;
        }
        return (c >= 0x61 && c <= 0x7A) || (c >= 0x30 && c <= 0x39) || c == 0x27 ? c : 0x20;
    }
    if (c < 0x180) {
        if (c >= 0xC0 && c <= 0xDE && c != 0xD7) {
            return c + 32;
        }
        if (c < 0xC0) {
            return c == 0xAA || c == 0xB5 || c == 0xBA ? c : 0x20;
        }
        if ((c >= 0x100 && c <= 0x137) || (c >= 0x14A && c <= 0x177)) {
            return c | 1;
        }
        if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E)) {
            return c & 1 ? c + 1 : c;
        }
        return c == 0xD7 || c == 0xF7 ? 0x20 : c;
    }
    if ((c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F)) {
        return c + 32;
    }
    if (c >= 0x400 && c <= 0x40F) {
        return c + 80;
    }
    if ((c >= 0x2000 && c <= 0x206F) || (c >= 0x3000 && c <= 0x303F)) {
        return c == 0x2019 ? 0x27 : 0x20;
    }
    return c;
}

/* The mark that a separating code point is; 0: it is none. */
static uint32_t mark(uint32_t c)
{
    if (c >= 0xFF01 && c <= 0xFF5E) {
        c -= 0xFEE0;
    }
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xF7) || (c >= 0x2010 && c <= 0x2027) ||
                   (c >= 0x2030 && c <= 0x205E) || (c >= 0x3001 && c <= 0x303F)
               ? c
               : 0;
}

/* Decodes one code point; 0 bytes used means that the text is not UTF-8. */
static size_t decode(const uint8_t *p, size_t left, uint32_t *code)
{
    static const uint32_t least[4] = {0, 0x80, 0x800, 0x10000};
    size_t more;
    uint32_t c = p[0];
    if (c < 0x80) {
        *code = c;
        return 1;
    }
    if (c >= 0xC2 && c < 0xE0) {
        more = 1;
        c &= 0x1F;
    } else if (c >= 0xE0 && c < 0xF0) {
        more = 2;
        c &= 0x0F;
    } else if (c >= 0xF0 && c < 0xF5) {
        more = 3;
        c &= 0x07;
    } else {
        return 0;
    }
    if (left <= more) {
        return 0;
    }
    for (size_t i = 1; i <= more; i++) {
        if ((p[i] & 0xC0) != 0x80) {
            return 0;
        }
        c = c << 6 | (p[i] & 0x3F);
    }
    if (c < least[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) {
        return 0;
    }
    *code = c;
    return more + 1;
}

static size_t encode(uint32_t c, uint8_t *out)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

typedef struct {
    const shoal_ngram_config *config;
    int32_t *ids;
    int32_t used;
    int32_t over;
} sink;

static void emit(sink *to, uint32_t state)
{
    if (to->used < to->config->length) {
        to->ids[to->used++] = (int32_t)(1 + state % (to->config->buckets - 1));
    } else {
        to->over = 1;
    }
}

/* word[1 .. size] is a folded word with a space before and after it. */
static void emit_word(sink *to, const uint8_t *word, size_t size, uint32_t *pair, int first)
{
    static const uint8_t kinds[3] = {1, 2, 3};
    const shoal_ngram_config *config = to->config;
    const uint32_t start = hash(&kinds[2], 1, FNV_OFFSET);
    const size_t total = size + 2;
    emit(to, hash(word + 1, size, hash(&kinds[0], 1, FNV_OFFSET)));
    if (config->pairs && !first) {
        emit(to, hash(word, size + 1, *pair));
    }
    *pair = hash(word + 1, size, hash(&kinds[1], 1, FNV_OFFSET));
    for (size_t from = 0; from < total && config->char_max; from++) {
        uint32_t state = start;
        size_t at = from;
        if ((word[from] & 0xC0) == 0x80) {
            continue; /* inside of a code point */
        }
        for (int32_t n = 1; n <= config->char_max && at < total; n++) {
            do {
                state = (state ^ word[at++]) * FNV_PRIME;
            } while (at < total && (word[at] & 0xC0) == 0x80);
            if (n >= config->char_min) {
                emit(to, state);
            }
        }
    }
}

int shoal_ngram_ids(const shoal_ngram_config *config, const char *text, size_t size,
                    int32_t *ids)
{
    uint8_t word[SHOAL_WORD_BYTES + 6];
    size_t length = 0;
    size_t at = 0;
    uint32_t pair = 0;
    int first = 1;
    sink to = {config, ids, 0, 0};
    memset(ids, 0, (size_t)config->length * sizeof(*ids));
    word[0] = ' ';
    while (at <= size) {
        uint32_t code = 0x20;
        uint32_t sign = 0;
        if (at < size) {
            const size_t used = decode((const uint8_t *)text + at, size - at, &code);
            if (used == 0) {
                return -1;
            }
            at += used;
            sign = config->marks ? mark(code) : 0;
            code = fold(code);
        } else {
            at++;
        }
        if (code != 0x20) {
            if (length > SHOAL_WORD_BYTES - 4) {
                return -1;
            }
            length += encode(code, word + 1 + length);
            continue;
        }
        for (int turn = 0; turn < 2; turn++) { /* the word that ends here, then the mark */
            if (turn && sign) {
                length = encode(sign, word + 1);
            }
            if (length == 0) {
                continue;
            }
            if (to.used >= config->length) {
                return 1;
            }
            word[1 + length] = ' ';
            emit_word(&to, word, length, &pair, first);
            first = 0;
            length = 0;
        }
    }
    return to.over;
}
