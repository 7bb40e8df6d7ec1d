"""Which language texts are in, as far as short texts tell.

langid's model (M. Lui and T. Baldwin, "langid.py", 2012) in py3langid, 97 languages.
"""

from __future__ import annotations

import enum
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from contracts.labelled.columns import NO_BLANKS

_SAMPLE: Final = 400
_LOOKED_AT: Final = 1000
_PART: Final = 0.2
"""Share of the texts below which a language is nothing but texts that were taken for it."""

_TOGETHER: Final = 8
"""Texts that are judged as one: a word or two alone tell little."""


class Language(msgspec.Struct, frozen=True):
    """What the texts are in.

    Attributes:
        code: ISO 639-1 of the most frequent; ``und``: nothing to tell by.
        share: of the texts, judged a few at a time.
        others: the next ones with their shares.
    """

    code: str
    share: float
    others: dict[str, float] = {}

    @property
    def english(self) -> bool:
        """Whether an encoder for English reads them: no other language has a part of them.

        What has no words is as well read by that one as by any.
        """
        return self.code == "und" or (
            self.code == "en" and max(self.others.values(), default=0.0) < _PART
        )


class Writing(enum.Enum):
    """What a letter is in most of the texts: how long the pieces of words are that tell most."""

    ALPHABET = "a sound"
    ETHIOPIC = "a consonant with its vowel"
    HANGUL = "a syllable of two or three sounds"
    UNPARTED = "a syllable or a word, and no blanks are between words"


_LENGTHS: Final = {Writing.ETHIOPIC: (2, 3), Writing.HANGUL: (1, 2), Writing.UNPARTED: (1, 2)}
_SCRIPTS: Final = {
    Writing.UNPARTED: NO_BLANKS,
    Writing.HANGUL: re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"),
    Writing.ETHIOPIC: re.compile("[\u1200-\u139f\u2d80-\u2ddf]"),
}


def writing(texts: Sequence[str]) -> Writing:
    """How most letters of `texts` are written."""
    step = max(1, len(texts) // _LOOKED_AT)
    letters = "".join(letter for text in texts[::step] for letter in text if letter.isalpha())
    for found, script in _SCRIPTS.items():
        if 2 * len(script.findall(letters)) > len(letters):
            return found
    return Writing.ALPHABET


def piece_lengths(texts: Sequence[str], usual: tuple[int, int]) -> tuple[int, int]:
    """Which pieces of words tell most: of fewer letters where a letter says more."""
    return _LENGTHS.get(writing(texts), usual)


def detect(texts: Sequence[str], seed: int = 0) -> Language:
    """The language of `texts`, by a sample of them."""
    from py3langid import classify

    rng = random.Random(seed)
    chosen = list(texts) if len(texts) <= _SAMPLE else rng.sample(list(texts), _SAMPLE)
    together = max(1, min(_TOGETHER, len(chosen) // 10))
    rng.shuffle(chosen)
    votes: Counter[str] = Counter()
    for first in range(0, len(chosen), together):
        joined = " . ".join(chosen[first : first + together])
        if any(character.isalpha() for character in joined):
            votes[str(classify(joined)[0])] += 1
    if not votes:
        return Language("und", 0.0)
    total = sum(votes.values())
    (code, count), *rest = votes.most_common(4)
    return Language(code, round(count / total, 3), {c: round(n / total, 3) for c, n in rest})
