"""What people say of a model's answers, as counts: they add up in any order, and hold no text."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from contracts import limits

_Label = Annotated[str, msgspec.Meta(max_length=limits.MAX_LABEL_CHARS)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Code = Annotated[str, msgspec.Meta(max_length=limits.MAX_ID_CHARS)]

WHOLE: Final = "(text)"
"""In the place of a label: an answer that is a text."""

UNSAID: Final = "(not said)"
"""In the place of the right label: the answer is wrong, and nobody said what is right."""

OTHER: Final = "(other)"
"""In the place of labels for which there is no room."""


class Judged(msgspec.Struct, omit_defaults=True):
    """Verdicts on answers of one bundle.

    Attributes:
        right, wrong: answers that were judged so.
        sampled_right, sampled_wrong: those of them that were picked to be judged before anybody
            looked whether they are right. The others were judged because somebody cared to.
        labels: right ones by label; of texts under ``(text)``.
        confusions: wrong ones by the label that was given, then by the right one; ``(not said)``
            where nobody said which. At most `MAX_CONFUSIONS` pairs, the rest under ``(other)``.
        refused: verdicts that did not count, by the code of the error.
    """

    right: _Count = 0
    wrong: _Count = 0
    sampled_right: _Count = 0
    sampled_wrong: _Count = 0
    labels: dict[_Label, _Count] = {}
    confusions: dict[_Label, dict[_Label, _Count]] = {}
    refused: dict[_Code, _Count] = {}

    @property
    def pairs(self) -> int:
        """How many pairs of labels are told apart."""
        return sum(map(len, self.confusions.values()))

    def note(self, given: str, meant: str | None, *, right: bool, sampled: bool) -> None:
        """Counts one verdict.

        Args:
            given: the label of the answer.
            meant: the right one, if it is wrong and somebody said which.
            right: whether it is right.
            sampled: whether it was picked before anybody looked.
        """
        self.right += right
        self.wrong += not right
        self.sampled_right += right and sampled
        self.sampled_wrong += sampled and not right
        if right:
            self._add_label(given, 1)
        else:
            self._add_pair(given, UNSAID if meant is None else meant, 1)

    def refuse(self, code: str) -> None:
        """Counts a verdict that did not count."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def merge(self, other: Judged, most: int) -> None:
        """Adds other counts; sums stop at `most`."""
        self.right = min(self.right + other.right, most)
        self.wrong = min(self.wrong + other.wrong, most)
        self.sampled_right = min(self.sampled_right + other.sampled_right, most)
        self.sampled_wrong = min(self.sampled_wrong + other.sampled_wrong, most)
        for label, count in other.labels.items():
            self._add_label(label, count, most)
        for given, meant in other.confusions.items():
            for label, count in meant.items():
                self._add_pair(given, label, count, most)
        for code, count in other.refused.items():
            known = code if code in self.refused or len(self.refused) < _MAX_CODES else OTHER
            self.refused[known] = min(self.refused.get(known, 0) + count, most)

    def totals(self) -> Judged:
        """The same without labels."""
        return msgspec.structs.replace(self, labels={}, confusions={})

    def _add_label(self, label: str, count: int, most: int = limits.MAX_WHOLE) -> None:
        if label not in self.labels and len(self.labels) >= limits.MAX_LABELS:
            label = OTHER
        self.labels[label] = min(self.labels.get(label, 0) + count, most)

    def _add_pair(self, given: str, meant: str, count: int, most: int = limits.MAX_WHOLE) -> None:
        if meant not in self.confusions.get(given, {}) and self.pairs >= limits.MAX_CONFUSIONS:
            given = meant = OTHER
        of = self.confusions.setdefault(given, {})
        of[meant] = min(of.get(meant, 0) + count, most)


_MAX_CODES: Final = 16
