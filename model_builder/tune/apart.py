"""Words that a pretrained model spells in two ways: one piece in a sentence, several in a value.

Most tokenizers put the space before a word into the word's piece. Behind a quotation mark there is
none, so a value of an answer may be other pieces than the same word of the sentence: `` attic``,
but ``"``, ``att``, ``ic``. A model copies such a word only if it knows how to spell it.
"""

from __future__ import annotations

import re
from typing import Final

from tokenizers import Tokenizer

_WORD: Final = re.compile("[Ġ▁]([a-z]{3,10})")


def words_apart(tokenizer: Tokenizer) -> list[str]:
    """The words of a vocabulary, three to ten small letters, that are spelt so; sorted."""
    words = sorted({m[1] for m in map(_WORD.fullmatch, tokenizer.get_vocab()) if m})

    def pieces(before: str, space: str) -> list[int]:
        texts = [before, *(before + space + word for word in words)]
        counts = [len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [count - counts[0] for count in counts[1:]]

    two = zip(words, pieces("in", " "), pieces('in "', ""), strict=True)
    return [word for word, spaced, quoted in two if spaced == 1 and quoted > 1]
