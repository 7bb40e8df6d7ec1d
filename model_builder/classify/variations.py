"""Much new text from few rows, close enough to them that a teacher's labels mean something.

The student learns what the teacher knows only on text that it sees. Words give way to their
neighbours in the teacher's own table; two rows that share a word are joined at it, which keeps
what stands beside what; parts of rows stand alone; words are left out. Punctuation and case stay,
because the teacher reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

_WORD: Final = re.compile(r"[\w']+", re.UNICODE)
_TRIES: Final = 4
_LONGEST: Final = 120
"""Words of a made text."""

_MOST_ROWS: Final = 60_000
"""Rows that are taken apart; more add nothing to what is drawn from them."""

_Words = list[tuple[str, str]]
"""Words, each with what follows it up to the next."""


def variations(
    texts: Sequence[str], neighbours: Mapping[str, Sequence[str]], count: int, seed: int
) -> list[str]:
    """At most `count` distinct new texts, none of which is in `texts`.

    Args:
        texts: of the training split.
        neighbours: lower-case word -> words that may stand for it.
        count: how many; fewer when the rows do not give them.
        seed: same seed, same texts.
    """
    rng = np.random.default_rng(seed)
    chosen = texts if len(texts) <= _MOST_ROWS else [texts[i] for i in _drawn(texts, rng)]
    rows = [words for text in chosen if (words := _taken_apart(text)[:_LONGEST])]
    if not rows:
        return []
    change = _Changes(rows, neighbours, rng)
    kinds: list[tuple[float, Callable[[_Words], _Words]]] = [
        (0.1, change.left_out),
        (0.3, change.replaced),
        (0.2, change.joined),
        (0.2, change.part),
        (0.2, lambda words: change.replaced(change.joined(words))),
    ]
    edges = np.cumsum([share for share, _ in kinds])
    seen = set(texts)
    found: list[str] = []
    for _ in range(_TRIES * count):
        if len(found) >= count:
            break
        kind = min(int(np.searchsorted(edges, rng.random(), "right")), len(kinds) - 1)
        words = kinds[kind][1](rows[int(rng.integers(len(rows)))])
        text = "".join(word + gap for word, gap in words).strip()
        if text and text not in seen:
            seen.add(text)
            found.append(text)
    return found


def _drawn(texts: Sequence[str], rng: np.random.Generator) -> list[int]:
    return [int(i) for i in rng.permutation(len(texts))[:_MOST_ROWS]]


def _taken_apart(text: str) -> _Words:
    places = list(_WORD.finditer(text))
    if not places:
        return []
    ends = [place.start() for place in places[1:]] + [len(text)]
    return [
        (place.group(), text[place.end() : end]) for place, end in zip(places, ends, strict=True)
    ]


class _Changes:
    """What can be done to a row."""

    def __init__(
        self,
        rows: list[_Words],
        neighbours: Mapping[str, Sequence[str]],
        rng: np.random.Generator,
    ) -> None:
        self._rows = rows
        self._neighbours = neighbours
        self._rng = rng
        self._where: dict[str, list[tuple[int, int]]] = {}
        for index, words in enumerate(rows):
            for place, (word, _) in enumerate(words):
                self._where.setdefault(word.lower(), []).append((index, place))

    def left_out(self, words: _Words) -> _Words:
        """Some words less."""
        kept = self._rng.random(len(words)) > self._rng.uniform(0.1, 0.35)
        return [word for word, keep in zip(words, kept, strict=True) if keep] or words

    def replaced(self, words: _Words) -> _Words:
        """Some words by their neighbours."""
        rng = self._rng
        rate = (0.15, 0.3, 0.5)[int(rng.integers(3))]
        found = []
        for word, gap in words:
            near = self._neighbours.get(word.lower())
            if near and rng.random() < rate:
                word = near[int(rng.integers(len(near)))]
            found.append((word, gap))
        return found

    def joined(self, words: _Words) -> _Words:
        """The head of this row up to a word, and another's tail from the same word on."""
        rng = self._rng
        for _ in range(_TRIES):
            place = int(rng.integers(len(words)))
            others = self._where[words[place][0].lower()]
            index, there = others[int(rng.integers(len(others)))]
            if self._rows[index] is not words:
                return (words[:place] + self._rows[index][there:])[:_LONGEST]
        return words

    def part(self, words: _Words) -> _Words:
        """Some words in a row."""
        if len(words) < 4:
            return words
        size = max(2, int(len(words) * self._rng.uniform(0.3, 0.8)))
        first = int(self._rng.integers(len(words) - size + 1))
        return words[first : first + size]
