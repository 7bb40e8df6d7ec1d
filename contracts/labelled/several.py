"""Whether a table gives a text several labels where one is read, so that it can be said.

A cell ``joy|love`` is a name like any other to what reads it; that a set of such cells is made of
a few labels joined shows in their parts, which come again in other cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from contracts import limits

SEPARATORS: Final = ("|", ";", ",", "#", "+")
"""What joins labels in one cell. A slash or ``>`` is left out: it names a place in a hierarchy."""

_LEAST: Final = 2
"""Different joined cells before anything is concluded: one alone may be a name."""

_ONES: Final = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


class Several(msgspec.Struct, frozen=True):
    """Where the labels of a text stand, if it may have several.

    Attributes:
        columns: of 0 and 1, one for each label; none: all stand in one cell.
        separator: between the labels of a cell; empty: what the table shows.
        known: what the labels are; none: anything.
    """

    columns: tuple[str, ...] = ()
    separator: str = ""
    known: frozenset[str] = frozenset()


class Joined(msgspec.Struct, frozen=True):
    """Cells that hold several labels.

    Attributes:
        separator: between them.
        labels: single ones, sorted.
        cells: different cells that join some.
        rows: that have such a cell.
        example: the most frequent of those cells.
    """

    separator: str
    labels: list[str]
    cells: int
    rows: int
    example: str


def parts(cell: str, separator: str) -> list[str]:
    """The labels of a cell, each once, in their order; without the empty ones.

    A list as a program prints it, ``['a', 'b']``, is read without its brackets and quotes.
    """
    printed = cell.startswith("[") and cell.endswith("]")
    found = (cell[1:-1] if printed else cell).split(separator)
    words = (" ".join(part.split()).strip("\"'" if printed else None) for part in found)
    return list(dict.fromkeys(filter(None, words)))


def joined(labels: Iterable[str]) -> Joined | None:
    """What joins several labels in one cell, if most cells that look joined are.

    A joined cell counts when each of its parts stands in another cell too, alone or joined: of
    ``food; drink`` and ``card; lost`` no part does, and they stay names.

    Args:
        labels: one a row.
    """
    counts = Counter(labels)
    for separator in SEPARATORS:
        of = {cell: parts(cell, separator) for cell in counts}
        seen = Counter(part for found in of.values() for part in found)
        several = {cell: found for cell, found in of.items() if len(found) > 1}
        again = [cell for cell, found in several.items() if all(seen[part] > 1 for part in found)]
        if len(again) < _LEAST or 2 * len(again) < len(several):
            continue
        return Joined(
            separator=separator,
            labels=sorted(seen),
            cells=len(several),
            rows=sum(counts[cell] for cell in several),
            example=min(again, key=lambda cell: (-counts[cell], cell)),
        )
    return None


def separator_of(cells: Iterable[str], known: frozenset[str]) -> str:
    """What joins the labels in most cells; empty: each cell is one label.

    Args:
        cells: one a row.
        known: what the labels are; none: anything, and the cells show it.
    """
    if not known:
        found = joined(cells)
        return found.separator if found is not None else ""
    counts = Counter(cells)

    def hits(separator: str) -> int:
        return sum(
            count
            for cell, count in counts.items()
            if known.issuperset(parts(cell, separator) if separator else [cell])
        )

    return max(("", *SEPARATORS), key=hits)  # of equals the first


def labels_of(cell: str, separator: str) -> tuple[str, ...]:
    """The labels of a cell, sorted.

    Raises:
        ValueError: what is wrong with one.
    """
    found = parts(cell, separator) if separator else [cell]
    if any(len(label) > limits.MAX_LABEL_CHARS for label in found):
        raise ValueError(f"a label has at most {limits.MAX_LABEL_CHARS} characters")
    return tuple(sorted(found))


def mark(value: Any) -> bool:
    """Whether a cell of 0 or 1 is 1; an empty one is 0.

    Raises:
        ValueError: it holds something else.
    """
    text = "0" if value is None or value == "" else str(value).strip().casefold()
    if text not in _ONES:
        raise ValueError(f"{str(value)[:20]!r} stands where 0 or 1 says whether it has the label")
    return _ONES[text]


def marks_of(names: list[str], sample: list[dict[str, Any]]) -> tuple[str, ...]:
    """The columns of a table with a column of 0 and 1 for each label; none: it is none.

    A rare label may have no 1 in the sample: what holds 0 alone is taken too, beside others.
    """
    if len(marked(names, sample)) < _LEAST:
        return ()
    found = []
    for name in names:
        cells = [row[name] for row in sample if row.get(name) not in (None, "")]
        if cells and all(str(cell).strip().casefold() in _ONES for cell in cells):
            found.append(name)
    return tuple(found)


def marked(names: list[str], sample: list[dict[str, Any]]) -> list[str]:
    """Those columns that hold nothing but 0 and 1, both of them: one for each label, perhaps.

    Args:
        names: of the columns looked at.
        sample: of the rows.
    """
    found = []
    for name in names:
        values = {str(row.get(name)).strip().casefold() for row in sample if name in row}
        if {_ONES.get(value) for value in values} == {False, True}:
            found.append(name)
    return found
