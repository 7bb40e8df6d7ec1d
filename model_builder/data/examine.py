"""A first look at somebody's table: all that is wrong with it, in seconds, before any training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from contracts.labelled.columns import Columns
from contracts.labelled.load import load_table
from contracts.labelled.rows import Log
from model_builder.data.clean import CleanReport, clean, drop_lonely, one_spelling, spellings


class Examined(msgspec.Struct, frozen=True):
    """What a table holds.

    Attributes:
        rows: that can be used.
        labels: how many.
        columns: as the table spells them.
        notes: what was assumed, what is left out and why, what to look at.
    """

    rows: int
    labels: int
    columns: Columns
    notes: list[str]


def examine(data: Path, text: str = "text", label: str = "label") -> Examined:
    """Reads and cleans a table as a build does.

    Args:
        data: the table.
        text: its column of texts.
        label: its column of labels.

    Raises:
        InputError: what makes it useless: see :func:`load_table`, :func:`drop_lonely`.
    """
    log, report = Log(), CleanReport()
    table = load_table(data, text=text, label=label, log=log)
    rows = one_spelling(table.rows, spellings(table.rows), report)
    rows = drop_lonely(clean(rows, report, deduplicate=True, conflicts="drop"), report)
    counts = Counter(row.label for row in rows)
    few = sorted(name for name, count in counts.items() if count < 3)
    if few:
        report.warnings.append(
            f"{len(few)} labels have fewer than 3 rows, for example {', '.join(few[:3])}"
        )
    return Examined(len(rows), len(counts), table.columns, [*log.notes, *report.warnings])
