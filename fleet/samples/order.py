"""Which text to label next: likely answered wrong x frequent x with company x unlike the last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from contracts.doubt import doubt
from contracts.likeness import company, spread
from fleet.store.samples import Text

MAX_LOOKED_AT: Final = 400
"""Texts that are compared with each other, and as many that are labelled."""


VERSION: Final = "version "
"""How the source of a version's hints begins."""


def open_to(texts: Sequence[Text], person: str) -> list[Text]:
    """Those that a person may say something of, the most doubtful and frequent first."""
    found = [
        one
        for one in texts
        if all(said.person != person for said in one.said) and (one.label is None or one.disputed)
    ]
    return sorted(found, key=lambda one: (-worth(one), one.key))


def worth(text: Text) -> float:
    """What a label would tell: of a text that is likely wrong, or disputed, and frequent."""
    sample = text.sample
    # Of the newest version, where it was asked: what it has learnt since need not be said again.
    now = [hint.confidence for hint in text.hints if hint.source.startswith(VERSION)]
    sure = max(now, default=sample.confidence)
    unsure = doubt(sure, [] if now else sample.reasons, text.corrected)
    if text.disputed or (text.votes and text.label is None):
        unsure += 0.5  # a third word decides
    return (0.05 + unsure) * (1.0 + math.log2(max(1, text.times) * len(text.devices)))


def queue(texts: Sequence[Text], person: str, most: int) -> list[Text]:
    """The texts that a person should label next, the most useful first.

    Not those of which they said something, nor those that others agree on.
    """
    ranked = open_to(texts, person)[:MAX_LOOKED_AT]
    done = [one for one in texts if one.label is not None and not one.disputed]
    near = company([one.sample.text for one in ranked])
    found = spread(
        [one.sample.text for one in ranked],
        [worth(one) * others for one, others in zip(ranked, near, strict=True)],
        most,
        [one.sample.text for one in done[:MAX_LOOKED_AT]],
    )
    return [ranked[place] for place in found]
