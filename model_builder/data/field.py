"""Labelled texts of the field in a build: some to learn from, some kept out to judge by."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import codec, files, interpreter
from contracts.errors import InputError, UnavailableError
from contracts.labelled.rows import Row
from contracts.redacted import as_said
from contracts.text import normalize
from model_builder.data.clean import CleanReport, one_spelling

MAX_ROWS: Final = 100_000
MAX_BYTES: Final = 64 * 1024 * 1024
_EXPORT_S: Final = 300.0


class Field(msgspec.Struct, frozen=True):
    """Rows of the field.

    Attributes:
        learn: to learn from.
        judge: normalised texts that no version may learn.
        lessons: by normalised text the lesson that it is an example of.
    """

    learn: list[Row]
    judge: frozenset[str]
    lessons: dict[str, str] = {}


class _Line(msgspec.Struct):
    text: str
    label: str
    part: str = "learn"
    lesson: str = ""


def read(place: str, name: str) -> Field:
    """The rows that `shoal fleet samples export` writes.

    Args:
        place: such a file, or a fleet's folder, whose rows of the model are exported.
        name: of the model.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the line.
        UnavailableError: ``export-failed``.
    """
    path = Path(place)
    data = _exported(path, name) if path.is_dir() else _read(path)
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    if len(lines) > MAX_ROWS:
        raise InputError("bad-data", f"{path}: over {MAX_ROWS} rows of the field")
    learn, judge = [], set()
    lessons: dict[str, str] = {}
    for number, line in lines:
        where = f"{path.name}:{number}"
        row = codec.decode(line, _Line, what=where)
        text, label = as_said(row.text), " ".join(row.label.split())
        if not normalize(text) or not label:
            raise InputError("bad-data", f"{where}: an empty text or label")
        if row.lesson:
            lessons[normalize(text)] = row.lesson
        if row.part == "judge":
            judge.add(normalize(text))
        elif row.part == "learn":
            learn.append(Row(text=text, label=label, group="", place=where))
        else:
            raise InputError("bad-data", f"{where}: part is learn or judge, not {row.part[:40]!r}")
    # A text is on one side alone, whatever a file says.
    kept = [row for row in learn if normalize(row.text) not in judge]
    return Field(kept, frozenset(judge), lessons)


def _read(path: Path) -> bytes:
    return files.read_small(path, cap=MAX_BYTES, what="the rows of the field")


def _exported(folder: Path, name: str) -> bytes:
    command = interpreter.module("fleet", "fleet", "samples", "export", name, "--dir", str(folder))
    try:
        done = subprocess.run(command, capture_output=True, timeout=_EXPORT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(
            "export-failed", f"the rows of {folder} cannot be read: {type(error).__name__}"
        ) from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UnavailableError(
            "export-failed",
            f"{folder}: expected a fleet's folder, or a file of `shoal fleet samples export`: "
            f"{said[-1][-300:] if said else f'it ended with {done.returncode}'}",
        )
    return done.stdout


def join(
    field: Field, train: list[Row], weight: int, known: dict[str, str], report: CleanReport
) -> tuple[list[Row], dict[str, Any]]:
    """Training rows with those of the field, each `weight` times; and what was done.

    What people say of a text of the field counts before what the training rows say of it, and
    nothing that is kept out stays. A label that a single text of the field has is left out.
    """
    learn = one_spelling(field.learn, known, report)
    first: dict[str, Row] = {}
    for row in learn:
        first.setdefault(normalize(row.text), row)
    labels = {row.label for row in train}
    counts = Counter(row.label for row in first.values())
    lonely = sorted(label for label, n in counts.items() if n < 2 and label not in labels)
    own = [row for row in first.values() if row.label not in lonely]
    taken = {normalize(row.text) for row in own} | field.judge
    stay = [row for row in train if normalize(row.text) not in taken]
    if lonely:
        report.warnings.append(
            f"{len(lonely)} labels have a single text of the field and were left out: "
            f"{', '.join(lonely)[:300]}; label more"
        )
    facts = {
        "learned": len(own),
        "kept_out": len(field.judge),
        "weight": weight,
        "new_labels": sorted({row.label for row in own} - labels),
        "replaced": len(train) - len(stay),
    }
    if field.lessons:
        taught = {
            (row.label, field.lessons[normalize(row.text)])
            for row in own
            if normalize(row.text) in field.lessons
        }
        facts["lessons"] = dict(sorted(Counter(label for label, _ in taught).items()))
    return [*stay, *(row for row in own for _ in range(weight))], facts
