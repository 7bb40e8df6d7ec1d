"""Guesses of the next tokens, which one run of the model checks together.

What a text repeats of itself or of its prompt, a name, a record to rewrite, is found by its last
tokens (Saxena, "Prompt Lookup Decoding", 2023). The model's own choice decides at every place,
so the text is the same as one token at a time; only the runs are fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.generate.caches import Floats
from agent.generate.decoder import Decoder

Mask = npt.NDArray[np.bool_]

CLOSE: Final = 0.5
"""Logits between the best token and the second: nearer ones are decided by a run of one token."""
PROVEN: Final = 32
"""Runs of one token that gave the logits of a run of several to the bit, after which there are no
more of them. Bundles are made so that they do; whether a processor's kernels do is found out."""
_LONGEST: Final = 4
"""Tokens that are matched at most; a longer match is the better guess."""
_SHORTEST: Final = 2
_HOPE: Final = 2.0
"""Tokens of a guess that are expected to be right before any was tried."""
_FORGET: Final = 0.25
"""Weight of the newest figure in a moving average."""


class Lookup:
    """Finds how a text went on where its last tokens stood before."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._seen: dict[tuple[int, ...], int] = {}

    def extend(self, ids: list[int]) -> None:
        """Adds tokens to the text."""
        for token in ids:
            # What ends here is entered when it has a successor: a text must not find itself.
            at = len(self._ids)
            for size in range(_SHORTEST, min(_LONGEST, at) + 1):
                self._seen[tuple(self._ids[at - size :])] = at
            self._ids.append(token)

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that followed the last ones where they stood before."""
        ids = self._ids
        for size in range(min(_LONGEST, len(ids)), _SHORTEST - 1, -1):
            found = self._seen.get(tuple(ids[-size:]))
            if found is not None:
                return ids[found : found + count]
        return []


class Worth:
    """Whether checking a guess pays, by what runs took and how often guesses were right."""

    def __init__(self) -> None:
        self._single: float | None = None
        self._several: float | None = None
        self._right = _HOPE

    def single(self, seconds: float) -> None:
        """A run of one token took so long."""
        self._single = _moved(self._single, seconds)
        # Guesses that went wrong for a while are tried again, seldom.
        self._right = min(_HOPE, self._right + 0.02)

    def several(self, seconds: float, right: int) -> None:
        """A run that checked a guess took so long, and `right` of its tokens stood."""
        self._several = _moved(self._several, seconds)
        self._right = _moved(self._right, float(right))

    def pays(self) -> bool:
        """Whether a run of several is expected to give more tokens a second."""
        if self._single is None:
            return False
        if self._several is None:
            return True
        return (1 + self._right) * self._single > self._several


def _moved(before: float | None, value: float) -> float:
    return value if before is None else before + _FORGET * (value - before)


class Steps:
    """Logits after one token after another, from runs of one token or of a guess.

    Args:
        decoder: with the text but for its last token in its cache.
        ids: the text so far.
        most: tokens that may still be made.
        forced: what must follow as far as that is certain, by a grammar.
        clock: seconds, monotonic.
        guessing: whether to guess at all.

    Attributes:
        runs: of the model.
    """

    def __init__(
        self,
        decoder: Decoder,
        ids: list[int],
        most: int,
        forced: Callable[[], list[int]],
        clock: Callable[[], float],
        *,
        guessing: bool,
    ) -> None:
        self._decoder = decoder
        self._forced = forced
        self._clock = clock
        self._most = most
        self._size = decoder.guess_size if guessing else 0
        self._lookup = Lookup()
        if self._size:
            self._lookup.extend(ids[:-1])
        self._worth = Worth()
        self._guess: list[int] = []
        self._rows: list[Floats] = []
        self._fed = 0
        self._right = 0
        self._seconds = 0.0
        self.runs = 0

    def after(self, token: int) -> Floats:
        """Logits ``[vocabulary]`` after `token`, valid until the next call."""
        self._most -= 1
        if self._size:
            self._lookup.extend([token])
        if self._guess and token == self._guess[0]:
            del self._guess[0]
            self._fed += 1
            self._right += 1
            return self._rows.pop(0)
        self.finish()
        guess = self._propose()
        if guess:
            self._decoder.prepare_verify()
        started = self._clock()
        self.runs += 1
        if not guess:
            logits = self._decoder.step(token)
            self._worth.single(self._clock() - started)
            return logits
        rows = self._decoder.verify([token, *guess])
        self._seconds = self._clock() - started
        self._fed = len(self._decoder.ids) - len(guess)
        self._guess, self._rows, self._right = guess, list(rows[1:]), 0
        first: Floats = rows[0]
        return first

    def settled(self, token: int, logits: Floats, allowed: Mask | None) -> Floats:
        """The logits, or those of a run of `token` alone where the choice is a close one.

        In a run of several, kernels may round sums in another order; in bundles without `placed`
        what stands before in the same run is not yet rounded for the cache either.
        """
        alike = self._decoder.alike
        if not self._right or (alike is not None and alike >= PROVEN):
            return logits
        choices = logits if allowed is None else np.where(allowed, logits, -np.inf)
        second, first = (float(n) for n in np.partition(choices, -2)[-2:])
        if first - second >= CLOSE:
            return logits
        self._fed -= 1
        self.finish()
        self.runs += 1
        together = logits.copy()
        alone: Floats = self._decoder.step(token)
        if alike is not None:
            self._decoder.alike = alike + 1 if np.array_equal(alone, together) else None
        return alone

    def finish(self) -> None:
        """Forgets what was guessed and is not, or not yet, a part of the text."""
        if self._seconds:
            self._worth.several(self._seconds, self._right)
            self._decoder.truncate(self._fed)
        self._guess, self._rows, self._right, self._seconds = [], [], 0, 0.0

    def _propose(self) -> list[int]:
        # A larger cache has its sums in another order: it begins where it does one by one.
        room = self._decoder.context - len(self._decoder.ids) - 1
        size = min(self._size, room, self._most)
        if size < 1 or not self._worth.pays():
            return []
        return (self._forced() or self._lookup.propose(size))[:size]
