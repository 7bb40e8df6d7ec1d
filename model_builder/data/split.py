"""Splits that share no group, the same for a row whatever other rows there are."""

from __future__ import annotations

import hashlib
from collections import defaultdict

from contracts.labelled.rows import Row


def split_off(
    rows: list[Row], share: float, seed: int, purpose: str
) -> tuple[list[Row], list[Row]]:
    """Splits `share` of each label's groups off.

    A group's rank among its label's groups is a hash of its name, so that more data moves no
    row from one side to the other as long as the groups are the same. The share is rounded to
    whole groups; a label with one or two keeps them on the first side, where it is learned.

    Args:
        rows: labelled; a row without a group is a group of its own.
        share: of the groups, 0 to 1.
        seed: same seed, same split.
        purpose: name of the split, so that two splits are independent.

    Returns:
        The rows that stay, and those split off.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        groups[row.label].add(_group(row))
    taken: set[tuple[str, str]] = set()
    for label, names in groups.items():
        count = int(len(names) * share + 0.5) if len(names) > 2 else 0
        ranked = sorted(
            names, key=lambda name: hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
        )
        taken.update((label, name) for name in ranked[:count])
    stay = [row for row in rows if (row.label, _group(row)) not in taken]
    off = [row for row in rows if (row.label, _group(row)) in taken]
    return stay, off


def _group(row: Row) -> str:
    return row.group or row.text
