"""Whether a written text shows the label that it was written for, in other eyes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from model_builder.recipes.written import WrittenConfig
from model_builder.teachers.base import Progress
from model_builder.teachers.endpoint import BudgetSpentError, Meter
from model_builder.teachers.openai import EndpointTeacher

_PART: Final = 20


class Meanings(Protocol):
    """Compares texts with what labels mean."""

    labels: list[str]

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """How near each label's meaning is, float32 [N, C]."""


class Check(Protocol):
    """Another look at texts."""

    def agrees(self, texts: Sequence[str], labels: Sequence[str]) -> list[bool | None]:
        """Whether each text shows its label; None: there was no look at it."""


class NoCheck:
    """Looks at nothing."""

    def agrees(self, texts: Sequence[str], labels: Sequence[str]) -> list[bool | None]:
        """See :class:`Check`."""
        return [None] * len(texts)


class WriterCheck:
    """Who wrote the texts labels them, in batches, without being told what each was for.

    It may also say that a text is none of the labels.
    """

    def __init__(
        self,
        config: WrittenConfig,
        meanings: Mapping[str, str],
        cache: Path,
        progress: Progress,
        meter: Meter,
        pause: Callable[[float], None],
    ) -> None:
        none = "none of these"
        while none in meanings:
            none += "!"
        self._labels = [*meanings, none]
        self._teacher = EndpointTeacher(
            config.by.partition(":")[2],
            msgspec.structs.replace(config.endpoint, max_cost=0.0),  # the meter bounds it
            self._labels,
            cache,
            progress,
            pause,
            {**meanings, none: "the text fits no other label"},
            "data.written.endpoint",
            meter,
        )
        self.spent = ""

    def agrees(self, texts: Sequence[str], labels: Sequence[str]) -> list[bool | None]:
        """See :class:`Check`."""
        try:
            self._teacher.logits(texts)
        except BudgetSpentError as spent:
            self.spent = str(spent)
        found: list[bool | None] = []
        for text, label in zip(texts, labels, strict=True):
            shares = self._teacher.known(text)
            found.append(None if shares is None else self._labels[int(shares.argmax())] == label)
        return found


class EncoderCheck:
    """The meaning of the label has to be the nearest to the text; of many, among a twentieth.

    Where there are many, nearest alone would keep only what the encoder can tell already.
    """

    def __init__(self, nearest: Meanings) -> None:
        self._nearest = nearest
        self._rank = max(1, round(len(nearest.labels) / _PART))

    def agrees(self, texts: Sequence[str], labels: Sequence[str]) -> list[bool | None]:
        """See :class:`Check`."""
        scores = self._nearest.scores(texts)
        own = np.array([self._nearest.labels.index(label) for label in labels])
        above = (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)
        return [bool(rank < self._rank) for rank in above]
