"""Pairs as rows of tokens: several a row, apart from each other, after what all begin with.

Prompts begin alike: a template's system turn comes first. That beginning stands once in a row,
every pair of the row sees it, and no pair sees another. What the model computes for a pair is
what it would compute for the pair alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.errors import InputError

SHARED: Final = 0
"""Segment of the beginning that all pairs of a row see."""

_PADDING: Final = -1
_CALIBRATION_TOKENS: Final = 4096
_SHORTEST_ROW: Final = 256

Ids = npt.NDArray[np.int32]


class Coded(msgspec.Struct, frozen=True):
    """A pair as tokens. `answer` ends with the token that ends a turn."""

    prompt: list[int]
    answer: list[int]


class Batch(msgspec.Struct, frozen=True):
    """One step's rows.

    Attributes:
        ids, positions, segments: int32 ``[rows, count]``.
        at: int32 ``[N]``, places of ``rows * count`` whose next token is learnt; padded with 0.
        wanted: int32 ``[N]``, those tokens.
        counts: float32 ``[N]``, 1, or 0 for padding.
    """

    ids: Ids
    positions: Ids
    segments: Ids
    at: Ids
    wanted: Ids
    counts: npt.NDArray[np.float32]


class Packer:
    """Packs pairs into batches of one shape, so that one program serves all.

    Args:
        pairs: all that will be packed.
        tokens: of a batch, about.
        context: tokens that the model holds.

    Raises:
        InputError: ``bad-data``; a pair is longer than the context.
    """

    def __init__(self, pairs: Sequence[Coded], tokens: int, context: int) -> None:
        for number, pair in enumerate(pairs, 1):
            if len(pair.prompt) + len(pair.answer) > context:
                raise InputError(
                    "bad-data",
                    f"pair {number} has {len(pair.prompt) + len(pair.answer)} tokens with its "
                    f"template; the model holds {context}: shorten it",
                )
        # A prompt's last token is never shared: it is where the answer begins.
        columns = zip(*(pair.prompt[:-1] for pair in pairs), strict=False)
        self.shared = [c[0] for c in itertools.takewhile(lambda c: len(set(c)) == 1, columns)]
        longest = max((len(p.prompt) + len(p.answer) for p in pairs), default=1)
        length = _SHORTEST_ROW
        while length < longest:
            length *= 2
        self.length = min(length, max(longest, context))
        self.rows = max(1, tokens // self.length)
        # Logits cost as much as layers: room for the answers that a full batch has, and a little.
        answers = sum(len(p.answer) for p in pairs)
        whole = sum(len(p.prompt) - len(self.shared) + len(p.answer) for p in pairs)
        room = math.ceil(1.25 * self.rows * self.length * answers / max(whole, 1))
        self.answers = max(room, *(len(p.answer) for p in pairs)) if pairs else 1

    def batches(self, pairs: Sequence[Coded]) -> list[Batch]:
        """The pairs in their order, as few to a batch as fit."""
        found: list[Batch] = []
        rows: list[list[Coded]] = [[]]
        used, learnt = len(self.shared), 0
        for pair in pairs:
            size = len(pair.prompt) + len(pair.answer) - len(self.shared)
            if used + size > self.length or learnt + len(pair.answer) > self.answers:
                full = learnt + len(pair.answer) > self.answers
                if full or len(rows) == self.rows:
                    found.append(self._batch(rows))
                    rows, learnt = [], 0
                rows.append([])
                used = len(self.shared)
            rows[-1].append(pair)
            used += size
            learnt += len(pair.answer)
        if rows[-1]:
            found.append(self._batch(rows))
        return found

    def _batch(self, rows: Sequence[Sequence[Coded]]) -> Batch:
        shape = (self.rows, self.length)
        ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        segments = np.full(shape, _PADDING, np.int32)
        at: list[int] = []
        wanted: list[int] = []
        start = len(self.shared)
        for r, row in enumerate(rows):
            ids[r, :start] = self.shared
            positions[r, :start] = np.arange(start)
            segments[r, :start] = SHARED
            here = start
            for number, pair in enumerate(row, 1):
                text = [*pair.prompt[start:], *pair.answer]
                end = here + len(text)
                ids[r, here:end] = text
                positions[r, here:end] = np.arange(start, start + len(text))
                segments[r, here:end] = number
                first = r * self.length + end - len(pair.answer) - 1
                at += range(first, first + len(pair.answer))
                wanted += pair.answer
                here = end
        room = self.answers - len(at)
        return Batch(
            ids,
            positions,
            segments,
            np.array(at + [0] * room, np.int32),
            np.array(wanted + [0] * room, np.int32),
            np.array([1.0] * len(at) + [0.0] * room, np.float32),
        )


def in_few_texts(pairs: Sequence[Coded], context: int) -> list[npt.NDArray[np.int64]]:
    """Some pairs behind one another, to calibrate with: products of many rows are much faster."""
    texts: list[list[int]] = [[]]
    tokens = 0
    for pair in pairs:
        if tokens >= _CALIBRATION_TOKENS:
            break
        added = [*pair.prompt, *pair.answer]
        if len(texts[-1]) + len(added) > context:
            texts.append([])
        texts[-1] += added
        tokens += len(added)
    return [np.array(text, np.int64) for text in texts if text]
