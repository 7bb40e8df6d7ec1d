"""Labelled texts as rows: most to learn from, some kept out to judge the next version by."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from contracts import codec
from fleet.store.samples import Text

JUDGE_SHARE: Final = 0.25
"""Share of labelled texts that no version learns from. By a hash: a text never changes sides."""

Part = Literal["learn", "judge"]


class Row(msgspec.Struct, frozen=True):
    """A labelled text of the field.

    Attributes:
        part: whether a version may learn it.
        answered: what the model said.
        times: how often it was asked.
        people: who say so.
        lesson: that devices were taught by it; empty: none.
    """

    text: str
    label: str
    part: Part
    answered: str
    times: int
    people: int
    lesson: str = ""


def part_of(key: str) -> Part:
    """Which side a text is on."""
    return "judge" if int(key[:8], 16) < JUDGE_SHARE * 2**32 else "learn"


def rows(texts: Iterable[Text]) -> list[Row]:
    """Texts on whose label most people agree; a dispute without a majority is left out."""
    found = []
    for one in texts:
        label = one.label
        if label is not None:
            found.append(
                Row(
                    text=one.sample.text,
                    label=label,
                    part=part_of(one.key),
                    answered=one.sample.label,
                    times=one.times,
                    people=one.votes[label],
                    lesson=one.lesson,
                )
            )
    return sorted(found, key=lambda row: (row.part, row.label, row.text))


def to_jsonl(found: Iterable[Row]) -> bytes:
    """A JSON document a line."""
    return b"".join(codec.encode(row) + b"\n" for row in found)


def to_csv(found: Iterable[Row]) -> bytes:
    """With a header; what a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in msgspec.structs.fields(Row)])
    for row in found:
        values = msgspec.structs.asdict(row).values()
        writer.writerow([f"'{v}" if str(v)[:1] in "=+-@\t\r" and v != "" else v for v in values])
    return out.getvalue().encode()
