"""Cleaning: spellings, duplicates, texts with two labels, leaks between splits."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from contracts.errors import InputError
from contracts.labelled.rows import Problem, Row
from contracts.text import normalize

MOST_LISTED: Final = 1000
"""Entries of each list in the report; their number is given whole."""


class CleanReport(msgspec.Struct):
    """What cleaning found.

    Attributes:
        rows: before.
        duplicates: rows dropped because the same normalised text had the same label.
        duplicate_rows: text and places of those.
        conflicts: normalised texts, marks included, with more than one label: text, labels, places.
        conflict_rows: rows dropped for that.
        leaked: validation or test rows dropped because training has the text.
        lonely: rows dropped because their label has no other text: label, text, place.
        spellings: labels taken for another spelling of one: from, to, rows.
        left_out: rows of the files that could not be used; at most :data:`MOST_LISTED`.
        unusable: how many.
        noise: rows whose label a cross-validated classifier doubts: text, label, suggestion.
        warnings: sentences for people.
    """

    rows: int = 0
    duplicates: int = 0
    duplicate_rows: list[dict[str, Any]] = []
    conflicts: list[dict[str, Any]] = []
    conflict_rows: int = 0
    leaked: int = 0
    lonely: list[dict[str, Any]] = []
    spellings: list[dict[str, Any]] = []
    left_out: list[Problem] = []
    unusable: int = 0
    noise: list[dict[str, Any]] = []
    warnings: list[str] = []


_SEPARATORS: Final = re.compile(r"(?<=\w)[\s_.,:/-]+(?=\w)|_+|(?<=\w)[.,:;]+$")
_BETWEEN_DIGITS: Final = re.compile(r"(?<=\d)[.,:/-](?=\d)")


def folded_label(label: str) -> str:
    """A label without case and without what separates its words.

    Other signs say what a label means: `-1` is not `1`, `C++` not `C`, `1.5` not `15`.
    """
    folded = unicodedata.normalize("NFC", label.casefold()).strip()
    if _BETWEEN_DIGITS.search(folded):
        return folded
    return _SEPARATORS.sub(" ", folded).strip() or label


def spellings(labels: Iterable[str]) -> dict[str, str]:
    """By folded label, its most frequent spelling; of equals the first in the alphabet."""
    counts = Counter(labels)
    found: dict[str, str] = {}
    for label in sorted(counts, key=lambda name: (-counts[name], name)):
        found.setdefault(folded_label(label), label)
    return found


def one_spelling(rows: list[Row], known: dict[str, str], report: CleanReport) -> list[Row]:
    """Rows whose labels differ from a known one in case or separators get that one."""
    changed: Counter[tuple[str, str]] = Counter()
    found = []
    for row in rows:
        label = known.get(folded_label(row.label), row.label)
        if label != row.label:
            changed[row.label, label] += 1
            row = msgspec.structs.replace(row, label=label)
        found.append(row)
    tell_of_spellings(changed, report)
    return found


def tell_of_spellings(changed: Counter[tuple[str, str]], report: CleanReport) -> None:
    """Reports labels that were joined: how many rows each had, by the label and what it is now."""
    if changed:
        report.spellings += [
            {"from": old, "to": new, "rows": count} for (old, new), count in changed.items()
        ]
        told = ", ".join(f"{old!r} as {new!r} ({n} rows)" for (old, new), n in changed.items())
        report.warnings.append(f"labels that differ in spelling alone were joined: {told[:400]}")


_MUTE: Final = dict.fromkeys(map(ord, ".,;!\"'“”„‘’«»…"), " ")
"""Marks that a person adds or leaves out without saying something else."""


def _meant(text: str) -> str:
    """A normalised text with the marks that tell texts apart: `:)` is not `:(`, nor `-5` `5`."""
    return normalize(text.translate(_MUTE), marks=True)


def clean(rows: list[Row], report: CleanReport, *, deduplicate: bool, conflicts: str) -> list[Row]:
    """The rows without duplicates and without texts of two labels.

    Args:
        rows: labelled.
        report: is filled.
        deduplicate: keep the first of equal rows.
        conflicts: ``drop`` or ``error``.

    Raises:
        InputError: ``conflicting-labels``.
    """
    report.rows += len(rows)
    keys = [_meant(row.text) for row in rows]
    labels: dict[str, set[str]] = {}
    for key, row in zip(keys, rows, strict=True):
        labels.setdefault(key, set()).add(row.label)
    torn = {key: sorted(names) for key, names in labels.items() if len(names) > 1}
    if torn and conflicts == "error":
        text, names = next(iter(torn.items()))
        raise InputError(
            "conflicting-labels",
            f"{len(torn)} texts have more than one label, for example {text[:80]!r}: "
            f"{', '.join(names)}; correct them or set clean.conflicts: drop",
        )
    kept: list[Row] = []
    first: dict[tuple[str, str], Row] = {}
    conflicting: dict[str, list[str]] = defaultdict(list)
    for key, row in zip(keys, rows, strict=True):
        if key in torn:
            report.conflict_rows += 1
            if len(conflicting) < MOST_LISTED or key in conflicting:
                conflicting[key].append(f"{row.place or '?'}: {row.label}")
            continue
        same = first.setdefault((normalize(row.text), row.label), row)
        if same is row or not deduplicate:
            kept.append(row)
            continue
        report.duplicates += 1
        if len(report.duplicate_rows) < MOST_LISTED:
            report.duplicate_rows.append(
                {"text": row.text[:200], "place": row.place, "same_as": same.place}
            )
    report.conflicts += [
        {"text": key[:200], "labels": torn[key], "places": found}
        for key, found in conflicting.items()
    ]
    if torn:
        example = next(iter(conflicting.items()))
        report.warnings.append(
            f"{sum(key in torn for key in keys)} rows were left out, because the same text has "
            f"another label elsewhere: {len(torn)} texts, for example {example[0][:60]!r} "
            f"({'; '.join(example[1])[:200]}); the report lists them"
        )
    if report.duplicates:
        note = "rows are there more than once; each counts once"
        report.warnings[:] = [w for w in report.warnings if not w.endswith(note)]
        report.warnings.append(f"{report.duplicates} {note}")
    return kept


def drop_leaks(held: list[Row], other: list[Row], report: CleanReport, what: str) -> list[Row]:
    """`other` without the rows whose normalised text is in the `held` split; `what` names both."""
    known = {normalize(row.text) for row in held}
    kept = [row for row in other if normalize(row.text) not in known]
    lost = len(other) - len(kept)
    if lost:
        report.leaked += lost
        report.warnings.append(f"{lost} {what} too: left out")
    return kept


def drop_lonely(rows: list[Row], report: CleanReport) -> list[Row]:
    """The rows whose label has another text; one text teaches nothing that can be tested.

    Raises:
        InputError: ``bad-data``, ``too-few-classes``, ``class-too-small``; fewer than two labels
            are left.
    """
    counts = Counter(row.label for row in rows)
    if len(counts) < 2:
        found = ", ".join(counts) or "none"
        raise InputError(
            "too-few-classes",
            f"a classifier needs two labels or more; found {found[:80]}{_lost(report)}",
        )
    first = normalize(rows[0].text)
    if all(normalize(row.text) == first for row in rows):
        raise InputError("bad-data", f"all rows have the same text: {rows[0].text[:80]!r}")
    lonely = sorted(label for label, count in counts.items() if count == 1)
    if not lonely:
        return rows
    if len(counts) - len(lonely) < 2:
        raise InputError(
            "class-too-small",
            f"{len(lonely)} of {len(counts)} labels have a single text: "
            f"{', '.join(lonely)[:200]}; add texts, or name the right column of labels",
        )
    report.lonely += [
        {"label": row.label, "text": row.text[:200], "place": row.place}
        for row in rows
        if counts[row.label] == 1
    ][:MOST_LISTED]
    report.warnings.append(
        f"{len(lonely)} labels have a single text and were left out: {', '.join(lonely)[:400]}; "
        "add texts to them"
    )
    return [row for row in rows if counts[row.label] > 1]


def _lost(report: CleanReport) -> str:
    if not report.conflict_rows:
        return ""
    return f", after {report.conflict_rows} rows whose text has two labels were left out"


def check_classes(train: list[Row], report: CleanReport) -> list[str]:
    """The labels, sorted.

    Raises:
        InputError: ``too-few-classes``, ``class-too-small``.
    """
    counts = Counter(row.label for row in train)
    if len(counts) < 2:
        found = ", ".join(counts) or "none"
        raise InputError(
            "too-few-classes",
            f"a classifier needs two labels or more; found {found[:80]}{_lost(report)}",
        )
    lonely = sorted(label for label, count in counts.items() if count == 1)
    if lonely:
        raise InputError(
            "class-too-small",
            f"{len(lonely)} labels have a single training text: {', '.join(lonely)[:200]}; "
            "add texts or remove them",
        )
    small = sorted(label for label, count in counts.items() if count < 10)
    if small:
        report.warnings.append(
            f"{len(small)} labels have fewer than 10 training texts: {', '.join(small)[:200]}"
        )
    if "unknown" in counts:
        report.warnings.append(
            "the label 'unknown' is also what the model answers when it is not sure enough"
        )
    return sorted(counts)
