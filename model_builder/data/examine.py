"""A first look at somebody's table: all that is wrong with it, in seconds, before any training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from contracts.labelled.columns import Columns
from contracts.labelled.load import load_table, several_in
from contracts.labelled.rows import Log
from contracts.labelled.several import Several
from model_builder.data.clean import CleanReport, clean, drop_lonely, one_spelling, spellings
from model_builder.data.language import Language, detect
from model_builder.data.several import usable


class Examined(msgspec.Struct, frozen=True):
    """What a table holds.

    Attributes:
        rows: that can be used.
        labels: how many.
        columns: as the table spells them.
        several: where labels stand, if texts have several; None: a text has one.
        joined_rows: that have several.
        language: that most of the texts are in.
        notes: what was assumed, what is left out and why, what to look at.
    """

    rows: int
    labels: int
    columns: Columns
    language: Language
    notes: list[str]
    several: Several | None = None
    joined_rows: int = 0


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
    several = several_in(data, text, label)
    if several is not None:
        return _examine_several(data, text, label, several)
    table = load_table(data, text=text, label=label, log=log)
    rows = one_spelling(table.rows, spellings(row.label for row in table.rows), report)
    rows = drop_lonely(clean(rows, report, deduplicate=True, conflicts="drop"), report)
    counts = Counter(row.label for row in rows)
    few = sorted(name for name, count in counts.items() if count < 3)
    if few:
        report.warnings.append(
            f"{len(few)} labels have fewer than 3 rows, for example {', '.join(few[:3])}"
        )
    language = detect([row.text for row in rows])
    notes = [*log.notes, *report.warnings]
    return Examined(len(rows), len(counts), table.columns, language, notes)


def _examine_several(data: Path, text: str, label: str, several: Several) -> Examined:
    """Of a table whose texts have several labels."""
    log, report = Log(), CleanReport()
    table = load_table(data, text=text, label=label, log=log, several=several)
    rows = usable(table.rows, report)
    counts = Counter(name for row in rows for name in row.labels)
    more = sum(len(row.labels) > 1 for row in rows)
    log.note(
        f"{more} of {len(rows)} texts have several labels, so the model will give a text all that "
        "it has"
    )
    few = sorted(name for name, count in counts.items() if count < 3)
    if few:
        report.warnings.append(
            f"{len(few)} labels have fewer than 3 rows, for example {', '.join(few[:3])}"
        )
    notes = [*log.notes, *report.warnings]
    language = detect([row.text for row in rows])
    return Examined(len(rows), len(counts), table.columns, language, notes, table.several, more)
