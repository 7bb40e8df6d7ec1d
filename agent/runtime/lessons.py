"""A label from a few examples, beside a frozen classifier: a head over what the model says anyway.

Of an example two things are kept: the model's logits above their mean, as a direction of int8
numbers (which labels a text reminds the model of, and how much), and its hashed n-grams. A text is
of a lesson's label when it resembles the examples in both, and the model itself is not sure: a
logistic function of four likenesses. Its weights were fitted on labels that models had never seen,
by leaving ten at a time out of two data sets; nothing is fitted on a device, so a lesson costs one
run of the model for each example (docs/feedback.md has the figures).

Prototypes over frozen features: J. Snell et al., "Prototypical Networks for Few-shot Learning"
(2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts import limits
from contracts.text import NgramConfig, ngram_ids

GRAMS: Final = NgramConfig(buckets=4097, length=256, char_min=3, char_max=4, pairs=True)
"""N-grams of a lesson, whatever the model reads."""

_WEIGHTS: Final = (10.569, 4.56, 5.608, 0.893)
"""Of the likeness to all examples by logits, by n-grams, to the nearest by n-grams, and of the
logarithm of the model's doubt."""

_BIAS: Final = -10.584
_BAR: Final = -0.8
_BAR_EACH: Final = 0.4
"""The bar above which a lesson answers, and what each doubling of their number adds to it: of many
lessons one is near by chance."""

_LEAST_DOUBT: Final = 1e-3

Floats = NDArray[np.float64]


class Features(msgspec.Struct, frozen=True):
    """Of one example.

    Attributes:
        response: int8 bytes [labels of the model], of length 127.
        grams: ids of its n-grams.
    """

    response: Annotated[bytes, msgspec.Meta(max_length=limits.MAX_LABELS)]
    grams: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1, lt=GRAMS.buckets)]],
        msgspec.Meta(max_length=GRAMS.length),
    ]


def features(logits: Floats, text: str) -> Features:
    """What is kept of a text.

    Args:
        logits: float64[labels] of the model.
        text: the same that the model read.
    """
    response = np.rint(_direction(logits) * 127).astype(np.int8)
    return Features(response.tobytes(), _grams(text))


def _grams(text: str) -> list[int]:
    return [one for one in ngram_ids(text, GRAMS)[0] if one]


def _direction(logits: Floats) -> Floats:
    above = np.maximum(logits - logits.mean(), 0)
    return _unit(above)


def _unit(vector: Floats) -> Floats:
    found: Floats = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return found


def _bag(grams: Sequence[int]) -> Floats:
    """Float64[buckets] of length 1: counts, dampened."""
    counts = np.bincount(np.asarray(grams, np.int64), minlength=GRAMS.buckets).astype(np.float64)
    return _unit(np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0))


class _Lesson:
    """Examples, ready to be compared with."""

    def __init__(self, label: str, examples: Sequence[Features]) -> None:
        self.label = label
        self.size = len(examples[0].response)
        examples = [one for one in examples if len(one.response) == self.size]
        rows = [np.frombuffer(one.response, np.int8).astype(np.float64) for one in examples]
        self._response = _unit(np.mean([_unit(row) for row in rows], axis=0))
        self._bags = np.array([_bag(one.grams) for one in examples])
        self._all = _unit(self._bags.sum(axis=0))

    def score(self, direction: Floats, bag: Floats, doubt: float) -> float:
        likeness = (
            float(self._response @ direction),
            float(self._all @ bag),
            float((self._bags @ bag).max()),
            math.log(doubt + _LEAST_DOUBT),
        )
        return _BIAS + sum(w * x for w, x in zip(_WEIGHTS, likeness, strict=True))


class Head:
    """Lessons that belong to one model.

    Args:
        lessons: label and examples of each; their responses are of that model.
    """

    def __init__(self, lessons: Sequence[tuple[str, Sequence[Features]]]) -> None:
        self._lessons = [_Lesson(label, examples) for label, examples in lessons]
        self._bar = _BAR + _BAR_EACH * math.log2(max(1, len(self._lessons)))

    def judge(
        self, logits: Floats, confidence: float, text: str, best: str
    ) -> tuple[str, float] | None:
        """The label of a lesson and how sure it is, 0.5 to 1; None: the model's answer stands.

        Args:
            logits: float64[labels] of the model.
            confidence: calibrated, of the model's best label.
            text: that was classified.
            best: the model's best label.
        """
        direction, doubt = _direction(logits), max(0.0, 1 - confidence)
        bag = _bag(_grams(text))
        found = max(
            (
                (one.score(direction, bag, doubt), one.label)
                for one in self._lessons
                if one.size == direction.size  # the file may be anybody's
            ),
            default=(-math.inf, ""),
        )
        if found[1] == best or found[0] <= self._bar:
            return None
        return found[1], 1 / (1 + math.exp(self._bar - found[0]))
