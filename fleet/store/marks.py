"""How far the numbered messages of one device, kind and boot are there. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from contracts import limits

Span = tuple[int, int]
"""``(after, seq)``: the message `seq` is there, and nothing between `after` and it will come."""

NOTHING: Final = -1
"""What a mark is at before anything is there."""


class Mark(msgspec.Struct, frozen=True):
    """What is there.

    Attributes:
        upto: everything up to this number is there, or will never come; -1: nothing.
        ahead: first and last of ranges beyond, in order, apart from each other.
    """

    upto: int = NOTHING
    ahead: tuple[tuple[int, int], ...] = ()

    def covers(self, seq: int) -> bool:
        """Whether a number is there."""
        return seq <= self.upto or any(first <= seq <= last for first, last in self.ahead)


def advance(mark: Mark, spans: Iterable[Span]) -> Mark:
    """A mark with more messages that are there.

    Ranges beyond what an acknowledgement holds are given up, the highest first: what they held is
    sent again. Nobody who sends in order within a window comes near that.
    """
    ranges = sorted([*mark.ahead, *((after + 1, seq) for after, seq in spans)])
    upto = mark.upto
    ahead: list[tuple[int, int]] = []
    for first, last in ranges:
        if first <= upto + 1:
            upto = max(upto, last)
        elif ahead and first <= ahead[-1][1] + 1:
            ahead[-1] = (ahead[-1][0], max(ahead[-1][1], last))
        else:
            ahead.append((first, last))
    return Mark(upto, tuple(ahead[: limits.MAX_ACK_RANGES]))
