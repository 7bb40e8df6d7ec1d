"""What every teacher gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """A :data:`Progress` that shows nothing."""


class Teacher(Protocol):
    """A classifier that labels text."""

    name: str
    """For reports."""
    digest: str
    """sha256 of what it is made from."""

    size_bytes: int
    """Bytes of its weights in float32; 0: not known."""
    open_ended: bool
    """Whether it labels any text; a file of soft labels knows its own texts only."""

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unnormalised log-probabilities float32 [N, C], labels in the builder's order."""

    def embeddings(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Sentence embeddings float32 [N, E], or None where the teacher has none."""

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Words that may stand for the words in `texts`; empty where it knows none."""
