"""Makes up values: names and free text that no list has, so that copying is learnt."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Final, NamedTuple

_OTHERS = 0.08
"""Share of the words of made-up names that are those of other slots."""

_VARIANTS = 0.25
"""Share of made-up names that are a known one with another word."""

_RUNS = 0.4
"""Share of made-up free text that is a piece of another sentence: a command to be run later."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Respelt(NamedTuple):
    """Words that a pretrained model spells in another way in the answer than in the sentence.

    Attributes:
        share: of the words of made-up values.
        words: of its vocabulary.
    """

    share: float = 0.0
    words: Sequence[str] = ()


NONE_RESPELT: Final = Respelt()


class Inventor:
    """Makes up values: known words, words that look like them, and random letters.

    Args:
        values: known ones.
        words: of new ones; newer words follow their letters two by two.
        others: words that now and then stand among them.
        sentences: runs of words out of them now and then are the free text.
        respelt: a share of the words is of these.
    """

    def __init__(
        self,
        values: Iterable[str],
        words: Iterable[str],
        others: Sequence[str] = (),
        sentences: Sequence[str] = (),
        respelt: Respelt = NONE_RESPELT,
    ) -> None:
        self._values = sorted(values)
        self._words = sorted(words)
        self._others = others
        self._sentences = sentences
        self._respelt = respelt
        self._after: dict[str, list[str]] = defaultdict(list)
        for word in self._words:
            padded = f"  {word} "
            for at in range(len(word) + 1):
                self._after[padded[at : at + 2]].append(padded[at + 2])

    def name(self, rng: random.Random) -> str:
        """One to three words; some are a known name with another word in it: "zorb lamp"."""
        if rng.random() < _VARIANTS:
            words = rng.choice(self._values).split()
            new = self._respelt_word(rng) or self._alike(rng)
            words[:1] = [new] if len(words) > 1 else [new, words[0]]
            return " ".join(words)
        return " ".join(self._word(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))

    def text(self, rng: random.Random) -> str:
        """One to six words."""
        count = rng.randrange(1, 7)
        if self._sentences and rng.random() < _RUNS:
            words = rng.choice(self._sentences).split()
            # A command to be run later is whole more often than not.
            at = rng.choice((0, rng.randrange(max(1, len(words) - count + 1))))
            return " ".join(words[at : at + count])
        return " ".join(self._word(rng) for _ in range(count))

    def _word(self, rng: random.Random) -> str:
        if word := self._respelt_word(rng):
            return word
        kind = rng.random()
        if kind < _OTHERS and self._others:
            return rng.choice(self._others)
        if kind < 0.5:
            return rng.choice(self._words)
        if kind < 0.85:
            return self._alike(rng)
        return "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(2, 9)))

    def _respelt_word(self, rng: random.Random) -> str:
        share, words = self._respelt
        return rng.choice(words) if words and rng.random() < share else ""

    def _alike(self, rng: random.Random) -> str:
        made = "  "
        while len(made) < 14:
            letter = rng.choice(self._after[made[-2:]])
            if letter == " ":
                break
            made += letter
        return made.strip()


def prose_words(language: str) -> set[str]:
    """Words of a language, of three to ten letters; out of the texts that come with it."""
    if language != "en":
        return set()
    folder = resources.files("model_builder.generate.texts")
    found: set[str] = set()
    for name in ("calibration.txt", "perplexity.txt"):
        found |= set(re.findall(r"\b[a-z]{3,10}\b", (folder / name).read_text("utf-8")))
    return found
