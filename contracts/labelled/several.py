"""Whether a table gives a text several labels where one is read, so that it can be said.

A cell ``joy|love`` is a name like any other to what reads it; that a set of such cells is made of
a few labels joined shows in their parts, which come again in other cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec

SEPARATORS: Final = ("|", ";", ",", "#", "+")
"""What joins labels in one cell. A slash or ``>`` is left out: it names a place in a hierarchy."""

_LEAST: Final = 2
"""Different joined cells before anything is concluded: one alone may be a name."""

_ONES: Final = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


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
