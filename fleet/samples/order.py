"""Which text to label next: likely answered wrong x unlike the others x frequent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from contracts.doubt import doubt
from contracts.likeness import spread
from fleet.store.samples import Text

MAX_LOOKED_AT: Final = 400
"""Texts that are compared with each other, and as many that are labelled."""


def worth(text: Text) -> float:
    """What a label would tell: of a text that is likely wrong, or disputed, and frequent."""
    sample = text.sample
    unsure = doubt(sample.confidence, sample.reasons, text.corrected)
    if text.disputed or (text.votes and text.label is None):
        unsure += 0.5  # a third word decides
    return (0.05 + unsure) * (1.0 + math.log2(max(1, text.times) * len(text.devices)))


def queue(texts: Sequence[Text], person: str, most: int) -> list[Text]:
    """The texts that a person should label next, the most useful first.

    Not those of which they said something, nor those that others agree on.
    """
    open_ones = [
        one
        for one in texts
        if all(said.person != person for said in one.said) and (one.label is None or one.disputed)
    ]
    done = [one for one in texts if one.label is not None and not one.disputed]
    ranked = sorted(open_ones, key=lambda one: (-worth(one), one.key))[:MAX_LOOKED_AT]
    found = spread(
        [one.sample.text for one in ranked],
        [worth(one) for one in ranked],
        most,
        [one.sample.text for one in done[:MAX_LOOKED_AT]],
    )
    return [ranked[place] for place in found]
