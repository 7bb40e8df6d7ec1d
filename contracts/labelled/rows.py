"""One labelled text, and what is wrong with one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

Record = tuple[str, dict[str, Any]]
"""Where a row stands (``line 7``), and its cells by column."""

_TOLD: Final = 12
"""Places that a sentence names for one kind of problem; the list has all."""

MAX_PROBLEMS: Final = 100_000
"""Problems that are kept by place; the rest are counted."""


ERRORS: Final = frozenset(
    ("#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!")
)
"""What a spreadsheet program shows, and exports, in place of a value."""


class Row(msgspec.Struct, frozen=True):
    """A text with its label.

    Attributes:
        text: the input.
        label: the class; empty: unlabelled.
        group: rows of one group never fall into different splits; empty: its own group.
        place: where it stands in its file, as ``line 7``; empty: it comes from no file.
        labels: where a text may have several: all of them, sorted; it may have none.
    """

    text: str
    label: str = ""
    group: str = ""
    place: str = ""
    labels: tuple[str, ...] = ()


class Problem(msgspec.Struct, frozen=True):
    """A row that was left out.

    Attributes:
        file: its name.
        place: in the file, as ``line 7``.
        what: is wrong.
    """

    file: str
    place: str
    what: str


class Log:
    """What reading found: notes in words, and every row that was left out, by its place."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self.left_out = 0

    def note(self, text: str) -> None:
        """Remembers an assumption once."""
        if text not in self.notes:
            self.notes.append(text)

    def problem(self, file: str, place: str, what: str) -> None:
        """Remembers a row that cannot be used."""
        self.left_out += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(file, place, what))


def told(problems: Iterable[Problem]) -> Iterator[str]:
    """Problems of one file as one part of a sentence for each kind, the most frequent first."""
    by_kind: dict[str, list[str]] = {}
    for problem in problems:
        by_kind.setdefault(problem.what, []).append(problem.place)
    for what, found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        yield f"{what} ({places(found)})"


def places(found: list[str]) -> str:
    """``line 7``, or ``lines 7, 9, 12 and 88 more``."""
    if len(found) == 1:
        return found[0]
    kinds = Counter(place.rpartition(" ")[0] for place in found)
    kind, count = kinds.most_common(1)[0]
    numbers = [place.rpartition(" ")[2] if count == len(found) else place for place in found]
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    kind = f"{kind[:-1]}ie" if kind.endswith("y") else kind
    prefix = f"{kind}s " if count == len(found) and kind else ""
    return prefix + ", ".join(numbers[:_TOLD]) + more
