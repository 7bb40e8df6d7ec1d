"""From a recipe's data section to clean splits whose texts may have several labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts import codec
from contracts.errors import InputError
from contracts.labelled.load import load_rows, load_table
from contracts.labelled.rows import Log, Row
from contracts.labelled.several import Several
from contracts.text import normalize
from model_builder.data.clean import (
    MOST_LISTED,
    CleanReport,
    drop_leaks,
    folded_label,
    spellings,
    tell_of_spellings,
)
from model_builder.data.language import Language, detect
from model_builder.data.split import split_off
from model_builder.recipes.classify import DataConfig, Recipe
from model_builder.seeds import derive

_FEW: Final = 10
"""Training texts of a label below which it is named in a warning."""


class Split(msgspec.Struct):
    """Texts with their labels, bool [N, C]."""

    texts: list[str]
    targets: NDArray[np.bool_]


class Dataset(msgspec.Struct):
    """All text of a build.

    Attributes:
        labels: sorted; the columns of targets.
        train, validation, test: in scope; a text may have no label.
        outside: text of no label, which helps to choose the thresholds.
        outside_test: likewise, for the report alone.
        report: what cleaning found.
        sha256: of all rows.
        language: that most of the training texts are in.
        joined: texts that stood in several rows, whose labels were joined.
    """

    labels: list[str]
    train: Split
    validation: Split
    test: Split
    outside: list[str]
    outside_test: list[str]
    report: CleanReport
    sha256: str
    language: Language
    joined: int

    def summary(self) -> dict[str, Any]:
        """For the report."""
        counts = self.train.targets.sum(axis=0)
        each = self.train.targets.sum(axis=1)
        lengths = sorted(len(text) for text in self.train.texts)
        return {
            "labels": len(self.labels),
            "language": self.language.code,
            "train": len(self.train.texts),
            "validation": len(self.validation.texts),
            "test": len(self.test.texts),
            "labels_a_text": round(float(each.mean()), 3),
            "texts_without_label": int((each == 0).sum()),
            "texts_of_several_labels": int((each > 1).sum()),
            "characters_median": lengths[len(lengths) // 2],
            "characters_longest": lengths[-1],
            "rows_by_label": {
                self.labels[i]: int(counts[i]) for i in np.argsort(-counts, kind="stable")
            },
            "rows_left_out": self.report.unusable,
            "left_out": msgspec.to_builtins(self.report.left_out),
            "duplicates": self.report.duplicates,
            "joined_texts": self.joined,
            "leaked_rows": self.report.leaked,
            "lonely_labels": self.report.lonely,
            "label_spellings": self.report.spellings,
            "warnings": self.report.warnings,
        }


def where(data: DataConfig) -> Several:
    """Where a recipe's labels stand."""
    return Several(data.columns.labels, data.columns.separator)


def prepare(recipe: Recipe) -> Dataset:
    """Loads, cleans, splits and checks.

    Raises:
        InputError: whatever is wrong with the data; see the functions used.
    """
    data, seed = recipe.data, recipe.seed
    report, log = CleanReport(), Log()
    columns = data.columns
    if data.source != "files" or not data.train or data.field:
        raise InputError(
            "bad-recipe",
            "labels: several needs data.train, and knows no data.source and no data.field",
        )
    options: dict[str, Any] = {"text": columns.text, "group": columns.group, "log": log}
    table = load_table(Path(data.train), label=columns.label, several=where(data), **options)
    known = spellings(_labels_of(table.rows))
    labels = frozenset(known.values())
    assert table.several is not None
    # Other files are read by the same labels: a small one does not show how it joins them.
    others = Several(separator=table.several.separator, known=labels)

    def read(path: str) -> list[Row]:
        rows = load_rows(Path(path), label=columns.label, several=others, **options)
        return joined(_spelt(rows, known, report), recipe.clean.conflicts, report)[0]

    def texts(path: str) -> list[str]:
        rows = load_rows(Path(path), labelled=False, **options) if path else []
        return list(dict.fromkeys(row.text for row in rows))

    train, several = joined(_spelt(table.rows, known, report), recipe.clean.conflicts, report)
    train = _without_lonely(train, report)
    if data.test:
        test = read(data.test)
    else:
        train, test = split_off(by_rarest(train), recipe.split.test, seed, "test")
    if data.validation:
        validation = read(data.validation)
    else:
        train, validation = split_off(by_rarest(train), recipe.split.validation, seed, "validation")
    train = drop_leaks(test, train, report, "training rows are in the test split")
    validation = drop_leaks(test, validation, report, "validation rows are in the test split")
    train = drop_leaks(validation, train, report, "training rows are in the validation split")
    if data.limit:
        order = np.random.default_rng(derive(seed, "limit")).permutation(len(train))
        train = [train[i] for i in sorted(order[: data.limit])]
    names = _names(train, report)
    for name, rows in (("validation", validation), ("test", test)):
        if not rows:
            raise InputError("bad-data", f"the {name} split is empty; give more rows or a file")
        strange = sorted({label for row in rows for label in row.labels} - set(names))
        if strange:
            report.warnings.append(
                f"labels of the {name} split that training lacks are left out of it: "
                f"{', '.join(strange)[:200]}"
            )
    report.warnings[:0] = log.notes
    report.left_out, report.unusable = log.problems[:MOST_LISTED], log.left_out
    found = [[(row.text, row.labels) for row in part] for part in (train, validation, test)]
    return Dataset(
        labels=names,
        train=_split(train, names),
        validation=_split(validation, names),
        test=_split(test, names),
        outside=texts(data.out_of_scope),
        outside_test=texts(data.out_of_scope_test),
        report=report,
        sha256=hashlib.sha256(codec.encode(found)).hexdigest(),
        language=detect([row.text for row in train], derive(seed, "language")),
        joined=several,
    )


def usable(rows: list[Row], report: CleanReport) -> list[Row]:
    """Rows as a build cleans them, before they are split; `report` is filled.

    Raises:
        InputError: ``too-few-classes``.
    """
    return _without_lonely(
        joined(_spelt(rows, spellings(_labels_of(rows)), report), "drop", report)[0], report
    )


def joined(rows: list[Row], conflicts: str, report: CleanReport) -> tuple[list[Row], int]:
    """One row a text, with the labels of all its rows; how many texts had different ones.

    Raises:
        InputError: ``conflicting-labels``; `conflicts` is ``error``, and a text has other labels
            elsewhere.
    """
    report.rows += len(rows)
    by_text: dict[str, list[Row]] = {}
    for row in rows:
        by_text.setdefault(normalize(row.text), []).append(row)
    kept, several = [], 0
    for same in by_text.values():
        labels = tuple(sorted({label for row in same for label in row.labels}))
        torn = any(row.labels != same[0].labels for row in same)
        if torn and conflicts == "error":
            places = "; ".join(f"{row.place or '?'}: {', '.join(row.labels)}" for row in same[:4])
            raise InputError(
                "conflicting-labels",
                f"{same[0].text[:80]!r} has different labels ({places[:200]}); write them into "
                "one row, or set clean.conflicts: drop, which joins them",
            )
        several += torn
        report.duplicates += len(same) - 1
        kept.append(msgspec.structs.replace(same[0], labels=labels))
    if several:
        report.warnings.append(
            f"{several} texts stand in several rows with different labels: each counts once, with "
            "all of them"
        )
    lost = len(rows) - len(kept) - several
    if lost > 0:
        report.warnings.append(f"{lost} rows are there more than once; each counts once")
    return kept, several


def by_rarest(rows: list[Row]) -> list[Row]:
    """Rows under the rarest of their labels, by which they are split.

    So a rare one is on both sides where it can be.
    """
    counts = Counter(label for row in rows for label in row.labels)
    return [
        msgspec.structs.replace(
            row, label=min(row.labels, key=lambda name: (counts[name], name), default="")
        )
        for row in rows
    ]


def _labels_of(rows: list[Row]) -> Iterator[str]:
    return (label for row in rows for label in row.labels)


def _spelt(rows: list[Row], known: dict[str, str], report: CleanReport) -> list[Row]:
    changed: Counter[tuple[str, str]] = Counter()
    found = []
    for row in rows:
        labels = {label: known.get(folded_label(label), label) for label in row.labels}
        changed.update((old, new) for old, new in labels.items() if old != new)
        found.append(msgspec.structs.replace(row, labels=tuple(sorted(set(labels.values())))))
    tell_of_spellings(changed, report)
    return found


def _without_lonely(rows: list[Row], report: CleanReport) -> list[Row]:
    """Rows without the labels that a single text has, and without texts that had no other."""
    counts = Counter(label for row in rows for label in row.labels)
    lonely = sorted(label for label, count in counts.items() if count == 1)
    if len(counts) - len(lonely) < 2:
        raise InputError(
            "too-few-classes",
            f"a classifier needs two labels or more with two texts each; found "
            f"{len(counts) - len(lonely)} of {len(counts)}",
        )
    if not lonely:
        return rows
    gone = set(lonely)
    kept = []
    for row in rows:
        if row.labels and gone.issuperset(row.labels):
            continue
        labels = tuple(label for label in row.labels if label not in gone)
        kept.append(msgspec.structs.replace(row, labels=labels))
    report.lonely += [{"label": label} for label in lonely[:MOST_LISTED]]
    report.warnings.append(
        f"{len(lonely)} labels have a single text and were left out: {', '.join(lonely)[:400]}; "
        "add texts to them"
    )
    return kept


def _names(train: list[Row], report: CleanReport) -> list[str]:
    counts = Counter(label for row in train for label in row.labels)
    if len(counts) < 2:
        raise InputError("too-few-classes", f"a classifier needs two labels; found {len(counts)}")
    small = sorted(label for label, count in counts.items() if count < _FEW)
    if small:
        report.warnings.append(
            f"{len(small)} labels have fewer than {_FEW} training texts: {', '.join(small)[:200]}"
        )
    if "unknown" in counts:
        report.warnings.append(
            "the label 'unknown' is also what the model answers when no label is sure enough"
        )
    return sorted(counts)


def _split(rows: list[Row], labels: list[str]) -> Split:
    index = {label: i for i, label in enumerate(labels)}
    targets = np.zeros((len(rows), len(labels)), np.bool_)
    for place, row in enumerate(rows):
        targets[place, [index[label] for label in row.labels if label in index]] = True
    return Split([row.text for row in rows], targets)
