"""Soft labels from a file: whatever made them, the student learns from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts import limits
from contracts.bundle import sha256_file
from contracts.errors import InputError
from contracts.text import normalize

_SMALLEST = 1e-6
"""Probability of a label that a row does not name."""


class FileTeacher:
    """``labels:FILE``, JSONL: ``{"text": ..., "probabilities": {"label": p, ...}}``.

    Args:
        path: the file.
        labels: that the data has; the file's must be among them, and all must be there.

    Raises:
        InputError: ``bad-teacher`` with the line.
    """

    open_ended = False
    size_bytes = 0

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self.name = f"labels:{path.name}"
        index = {label: i for i, label in enumerate(labels)}
        self._rows: dict[str, NDArray[np.float32]] = {}
        seen: set[str] = set()
        try:
            with path.open("rb") as stream:
                number = 0
                while line := stream.readline(limits.MIB + 1):
                    number += 1
                    if line.strip():
                        text, row = _row(line, f"{path}, line {number}", index)
                        self._rows[normalize(text)] = row
                        seen.update(labels[i] for i in np.nonzero(row > _SMALLEST)[0].tolist())
        except OSError as error:
            raise InputError("bad-teacher", f"cannot read {path}: {error.strerror}") from None
        if missing := sorted(set(labels) - seen):
            raise InputError(
                "bad-teacher",
                f"{path} gives no text the labels {', '.join(missing)[:200]}, which the data has",
            )
        self.digest = sha256_file(path)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See :class:`model_builder.teachers.base.Teacher`.

        Raises:
            InputError: ``bad-teacher``; a text is not in the file.
        """
        missing = [text for text in texts if normalize(text) not in self._rows]
        if missing:
            raise InputError(
                "bad-teacher",
                f"{self.name} lacks {len(missing)} of {len(texts)} texts, for example "
                f"{missing[0][:80]!r}",
            )
        return np.log(np.stack([self._rows[normalize(text)] for text in texts]))

    def embeddings(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """None: a file has none."""
        return None

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """None known."""
        return {}


def _row(line: bytes, where: str, index: Mapping[str, int]) -> tuple[str, NDArray[np.float32]]:
    try:
        record = json.loads(line)
        text, shares = record["text"], record["probabilities"]
        values = {str(label): float(share) for label, share in shares.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            "bad-teacher", f'{where}: expected {{"text": ..., "probabilities": {{label: p}}}}'
        ) from None
    strange = sorted(set(values) - set(index))
    if strange:
        raise InputError(
            "bad-teacher", f"{where}: labels that the data lacks: {', '.join(strange)[:200]}"
        )
    total = sum(values.values())
    if not isinstance(text, str) or not all(v >= 0 for v in values.values()) or not total > 0:
        raise InputError("bad-teacher", f"{where}: probabilities must be 0 or more, not all 0")
    row = np.full(len(index), _SMALLEST, np.float32)
    for label, value in values.items():
        row[index[label]] = max(_SMALLEST, value / total)
    return text, np.asarray(row / row.sum(), np.float32)
