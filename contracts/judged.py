"""What people say of a model's answers, as counts: they add up in any order, and hold no text."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from contracts import limits

_Label = Annotated[str, msgspec.Meta(max_length=limits.MAX_LABEL_CHARS)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
TENTHS: Final = 10
"""Parts of confidence by which verdicts are told apart."""

_Tenths = Annotated[list[_Count], msgspec.Meta(max_length=TENTHS)]
_Code = Annotated[str, msgspec.Meta(max_length=limits.MAX_ID_CHARS)]

WHOLE: Final = "(text)"
"""In the place of a label: an answer that is a text."""

UNSAID: Final = "(not said)"
"""In the place of the right label: the answer is wrong, and nobody said what is right."""

UNKNOWN: Final = "unknown"
"""In the place of a label: none was given, or none is right."""

OTHER: Final = "(other)"
"""In the place of labels for which there is no room."""


class Judged(msgspec.Struct, omit_defaults=True):
    """Verdicts on answers of one bundle.

    An answer with several labels is right as a whole, or wrong. Its labels count one by one: right
    ones also where others are wrong; one too many stands with the right one that is missing, or
    else with ``unknown``; so does a missing one.

    Attributes:
        right, wrong: answers that were judged so.
        sampled_right, sampled_wrong: those of them that were picked to be judged before anybody
            looked whether they are right. The others were judged because somebody cared to.
        labels: right ones by label; of texts under ``(text)``.
        confusions: wrong ones by the label that was given, then by the right one; ``(not said)``
            where nobody said which. At most `MAX_CONFUSIONS` pairs, the rest under ``(other)``.
        refused: verdicts that did not count, by the code of the error.
        sure_right, sure_wrong: right and wrong ones by how sure the model was, in `TENTHS` parts
            of 0 to 1, the least sure first; empty: it is not known of any.
        several: verdicts on answers that may have several labels.
    """

    right: _Count = 0
    wrong: _Count = 0
    sampled_right: _Count = 0
    sampled_wrong: _Count = 0
    labels: dict[_Label, _Count] = {}
    confusions: dict[_Label, dict[_Label, _Count]] = {}
    refused: dict[_Code, _Count] = {}
    sure_right: _Tenths = []
    sure_wrong: _Tenths = []
    several: _Count = 0

    @property
    def pairs(self) -> int:
        """How many pairs of labels are told apart."""
        return sum(map(len, self.confusions.values()))

    def note(
        self,
        given: str | frozenset[str],
        meant: str | frozenset[str] | None,
        *,
        right: bool,
        sampled: bool,
        confidence: float | None = None,
    ) -> None:
        """Counts one verdict.

        Args:
            given: the label of the answer, or its labels.
            meant: the right one, or ones, if it is wrong and somebody said which.
            right: whether it is right.
            sampled: whether it was picked before anybody looked.
            confidence: of the answer, 0 to 1; None: it is not known.
        """
        self.right += right
        self.wrong += not right
        self.sampled_right += right and sampled
        self.sampled_wrong += sampled and not right
        self.several += not isinstance(given, str)
        self._add_labels(_names(given), None if meant is None else _names(meant), right=right)
        if confidence is not None:
            part = min(int(min(max(confidence, 0.0), 1.0) * TENTHS), TENTHS - 1)
            one = [int(tenth == part) for tenth in range(TENTHS)]
            if right:
                self.sure_right = _sum(self.sure_right, one, limits.MAX_WHOLE)
            else:
                self.sure_wrong = _sum(self.sure_wrong, one, limits.MAX_WHOLE)

    def _add_labels(
        self, said: frozenset[str], truth: frozenset[str] | None, *, right: bool
    ) -> None:
        if right:
            truth = said
        for label in sorted(said & truth if truth is not None else ()):
            self._add_label(label, 1)
        if truth is None:
            for label in sorted(said):
                self._add_pair(label, UNSAID, 1)
            return
        extra, missed = sorted(said - truth), sorted(truth - said)
        if len(extra) == len(missed) == 1:
            self._add_pair(extra[0], missed[0], 1)
            return
        for label in extra:
            self._add_pair(label, UNKNOWN, 1)
        for label in missed:
            self._add_pair(UNKNOWN, label, 1)

    def refuse(self, code: str) -> None:
        """Counts a verdict that did not count."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def merge(self, other: Judged, most: int) -> None:
        """Adds other counts; sums stop at `most`."""
        self.right = min(self.right + other.right, most)
        self.wrong = min(self.wrong + other.wrong, most)
        self.sampled_right = min(self.sampled_right + other.sampled_right, most)
        self.sampled_wrong = min(self.sampled_wrong + other.sampled_wrong, most)
        self.several = min(self.several + other.several, most)
        for label, count in other.labels.items():
            self._add_label(label, count, most)
        for given, meant in other.confusions.items():
            for label, count in meant.items():
                self._add_pair(given, label, count, most)
        for code, count in other.refused.items():
            known = code if code in self.refused or len(self.refused) < _MAX_CODES else OTHER
            self.refused[known] = min(self.refused.get(known, 0) + count, most)
        self.sure_right = _sum(self.sure_right, other.sure_right, most)
        self.sure_wrong = _sum(self.sure_wrong, other.sure_wrong, most)

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


def _sum(ones: list[int], others: list[int], most: int) -> list[int]:
    """Sums part by part; a list that is not there is one of zeros."""
    if not others:
        return ones
    return [
        min((ones[n] if n < len(ones) else 0) + (others[n] if n < len(others) else 0), most)
        for n in range(TENTHS)
    ]


def _names(labels: str | frozenset[str]) -> frozenset[str]:
    """Labels as a set; none of them is ``unknown``."""
    return (frozenset([labels]) if isinstance(labels, str) else labels) or frozenset([UNKNOWN])
