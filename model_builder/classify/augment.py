"""New text from the training rows, for the teacher to label.

Word dropout and swaps: J. Wei, K. Zou, "EDA" (2019). Substitution by the teacher's own
neighbours in its embedding table passes its knowledge of words that the data lacks.
Recombination (the head of one text, the tail of another) gives text between the classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from model_builder.recipes.students import AugmentConfig

_WORD: Final = re.compile(r"[\w']+", re.UNICODE)
_TRIES: Final = 20


def augment(
    texts: Sequence[str],
    config: AugmentConfig,
    neighbours: Mapping[str, Sequence[str]],
    seed: int,
) -> list[str]:
    """Distinct new texts, none of which is in `texts`.

    Args:
        texts: of the training split.
        config: how many of which kind.
        neighbours: lower-case word -> words that may stand for it.
        seed: same seed, same texts.
    """
    rng = np.random.default_rng(seed)
    rows = [words for text in texts if (words := _WORD.findall(text.lower()))]
    if not rows:
        return []
    rate = config.rate

    def drop(words: list[str]) -> list[str]:
        return [w for w in words if rng.random() > rate] or words

    def swap(words: list[str]) -> list[str]:
        words = list(words)
        for _ in range(max(1, int(len(words) * rate))):
            i = int(rng.integers(len(words)))
            if i + 1 < len(words):
                words[i], words[i + 1] = words[i + 1], words[i]
        return words

    def substitute(words: list[str]) -> list[str]:
        return [
            near[int(rng.integers(len(near)))]
            if (near := neighbours.get(w)) and rng.random() < rate
            else w
            for w in words
        ]

    def recombine(words: list[str]) -> list[str]:
        other = rows[int(rng.integers(len(rows)))]
        head = words[: int(rng.integers(len(words) + 1))]
        return head + other[int(rng.integers(len(other))) :]

    plans: list[tuple[float, Callable[[list[str]], list[str]]]] = [
        (config.dropout, drop),
        (config.swap, lambda words: drop(swap(words))),
        (config.substitute, substitute),
        (config.mixed, lambda words: drop(substitute(words))),
        (config.recombine, recombine),
    ]
    seen = {" ".join(words) for words in rows}
    found: list[str] = []
    total = sum(share for share, _ in plans) * len(texts)
    scale = min(1.0, config.limit / total) if total else 0.0
    for share, change in plans:
        wanted = int(share * len(texts) * scale)
        tries = wanted * _TRIES
        fresh = 0
        while fresh < wanted and tries:
            tries -= 1
            text = " ".join(change(rows[int(rng.integers(len(rows)))]))
            if text not in seen:
                seen.add(text)
                found.append(text)
                fresh += 1
    return found
