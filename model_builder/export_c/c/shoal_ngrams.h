/* The hashed n-gram front end: UTF-8 text to ids. Integer arithmetic only, no heap. */
#ifndef SHOAL_NGRAMS_H
#define SHOAL_NGRAMS_H

#include <stddef.h>
#include <stdint.h>

#define SHOAL_WORD_BYTES 256 /* the longest word, folded; a longer one is refused */

typedef struct {
    uint32_t buckets;
    int32_t length;
    int32_t char_min, char_max;
    int32_t pairs;
    int32_t marks; /* punctuation marks and signs are words */
} shoal_ngram_config;

/* Fills ids[config->length]. Returns 0; 1 when the text gave more ids than fit; -1 when the
 * text is not UTF-8 or has a word that is too long. */
int shoal_ngram_ids(const shoal_ngram_config *config, const char *text, size_t size,
                    int32_t *ids);

#endif
