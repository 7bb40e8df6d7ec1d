"""Whether a new version is worse than the one that runs, on the same rows, and on which labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

SURE: Final = 0.05
"""Chance, below which a difference is not taken for chance."""

MIN_LABEL_ROWS: Final = 5
"""Rows of a label below which nothing is said of it alone."""

Set = Literal["test", "field"]


class Answered(msgspec.Struct, frozen=True):
    """A row with what both versions answer."""

    label: str
    old: str
    new: str


class Line(msgspec.Struct, frozen=True):
    """A label, or all.

    Attributes:
        rows: with it.
        old, new: right answers of each version.
        fixed, broken: rows that the new version has right alone, and wrong alone.
        chance: that so many are broken where both versions are as good.
    """

    label: str
    rows: int
    old: int
    new: int
    fixed: int
    broken: int
    chance: float

    @property
    def worse(self) -> bool:
        """More is broken than fixed, and more than chance explains."""
        return self.broken > self.fixed and self.chance < SURE


class Compared(msgspec.Struct, frozen=True):
    """Two versions on one set of rows: all of it, and by label, the most harmed first."""

    name: Set
    all: Line
    labels: list[Line]


class Verdict(msgspec.Struct, frozen=True):
    """What to do.

    Attributes:
        sets: the comparisons.
        stops: why the new version is not to be rolled out; none: it may be.
        notes: what a person should know all the same.
    """

    sets: list[Compared]
    stops: list[str]
    notes: list[str] = []


def compare(name: Set, rows: Sequence[Answered]) -> Compared:
    """Both versions on the same rows."""
    labels = Counter(row.label for row in rows)
    lines = [_line(label, [row for row in rows if row.label == label]) for label in labels]
    lines.sort(key=lambda line: (line.fixed - line.broken, line.label))
    return Compared(name, _line("", rows), lines)


def _line(label: str, rows: Sequence[Answered]) -> Line:
    old = sum(row.old == row.label for row in rows)
    new = sum(row.new == row.label for row in rows)
    fixed = sum(row.new == row.label != row.old for row in rows)
    broken = sum(row.old == row.label != row.new for row in rows)
    return Line(label, len(rows), old, new, fixed, broken, tail(broken, fixed + broken))


def tail(count: int, of: int) -> float:
    """The chance of `count` heads or more in `of` throws of a coin."""
    if of > 1000:  # far enough for the normal approximation, and quick
        return 0.5 * math.erfc((count - 0.5 - of / 2) / math.sqrt(of / 2))
    return math.fsum(math.comb(of, k) for k in range(count, of + 1)) / 2**of if of else 1.0


def judge(sets: Sequence[Compared], max_loss: float) -> Verdict:
    """Stops where the new version is worse.

    On any set: it loses more than `max_loss`, or more than chance explains, in all or on a label.
    On the rows of the field, for which it was made, it must not lose at all.
    """
    stops, notes = [], []
    for one in sets:
        every = one.all
        if not every.rows:
            notes.append(f"no {one.name} rows to compare on")
            continue
        lost = (every.old - every.new) / every.rows
        where = "on kept-out texts of the field" if one.name == "field" else "on the test split"
        most = _named(one.labels)
        if lost > (0 if one.name == "field" else max_loss) or every.worse:
            stops.append(f"worse {where}: {_figures(every)}{most}")
            continue
        # With many labels each needs more to stand out, so that none does by chance.
        tested = [line for line in one.labels if line.rows >= MIN_LABEL_ROWS]
        worse = [
            line
            for line in tested
            if line.broken > line.fixed and line.chance < SURE / max(1, len(tested))
        ]
        if worse:
            named = "; ".join(f"{line.label}: {_figures(line)}" for line in worse[:5])
            stops.append(f"worse {where} on {named}")
        elif one.name == "field" and every.new == every.old:
            notes.append(f"no better {where}: {_figures(every)}")
    return Verdict(list(sets), stops, notes)


def _figures(line: Line) -> str:
    return f"{line.new} of {line.rows} right, before {line.old}"


def _named(labels: Sequence[Line]) -> str:
    harmed = [line for line in labels if line.broken > line.fixed][:5]
    if not harmed:
        return ""
    return " (most: " + ", ".join(f"{o.label} {o.old} to {o.new} of {o.rows}" for o in harmed) + ")"


def told(found: Verdict) -> Sequence[tuple[str, int, int, int]]:
    """Rows for people: what, rows, right before, right now; all, then labels that changed."""
    lines: list[tuple[str, int, int, int]] = []
    for one in found.sets:
        lines.append((one.name, one.all.rows, one.all.old, one.all.new))
        changed = [line for line in one.labels if line.fixed or line.broken]
        lines += [(f"  {line.label}", line.rows, line.old, line.new) for line in changed[:10]]
    return lines
