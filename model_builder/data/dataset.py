"""From a recipe's data section to clean splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from contracts import codec
from contracts.errors import InputError
from contracts.labelled.columns import Columns
from contracts.labelled.load import Table, load_rows, load_table
from contracts.labelled.rows import Log, Row
from contracts.text import normalize
from model_builder.data import field
from model_builder.data.clean import (
    MOST_LISTED,
    CleanReport,
    check_classes,
    clean,
    drop_leaks,
    drop_lonely,
    one_spelling,
    spellings,
)
from model_builder.data.language import Language, detect
from model_builder.data.noise import noise_report
from model_builder.data.split import split_off
from model_builder.data.written import Written
from model_builder.recipes.classify import Recipe
from model_builder.seeds import derive

_ASKED_ALONE: Final = ("none", "labels", "openai")
"""Teachers that label no text that nobody named for them: they cannot, or each costs money."""


class Split(msgspec.Struct):
    """Texts with the index of their label, int64 [N], and their groups, which may be empty."""

    texts: list[str]
    targets: NDArray[np.int64]
    groups: list[str] = []


class Dataset(msgspec.Struct):
    """All text of a build.

    Attributes:
        labels: sorted; a target is an index into it.
        train, validation, test: in scope.
        outside_validation, outside_test: text of no label.
        unlabelled: more text for the teacher.
        report: what cleaning found.
        sha256: of all rows.
        language: that most of the training texts are in.
        field: what came of the field; None: nothing was asked for.
        written: what a model wrote; None: nothing.
    """

    labels: list[str]
    train: Split
    validation: Split
    test: Split
    outside_validation: list[str]
    outside_test: list[str]
    unlabelled: list[str]
    report: CleanReport
    sha256: str
    language: Language = Language("und", 0.0)
    field: dict[str, Any] | None = None
    written: Written | None = None

    def summary(self) -> dict[str, Any]:
        """For the report: counts, lengths, the largest and the smallest classes."""
        counts = Counter(self.train.targets.tolist())
        lengths = sorted(len(text) for text in self.train.texts)
        ordered = counts.most_common()
        return {
            "labels": len(self.labels),
            "language": self.language.code,
            "language_share": self.language.share,
            "other_languages": self.language.others,
            "train": len(self.train.texts),
            "validation": len(self.validation.texts),
            "test": len(self.test.texts),
            "outside_validation": len(self.outside_validation),
            "outside_test": len(self.outside_test),
            "unlabelled": len(self.unlabelled),
            "characters_median": lengths[len(lengths) // 2],
            "characters_longest": lengths[-1],
            "largest_classes": [[self.labels[i], n] for i, n in ordered[:5]],
            "smallest_classes": [[self.labels[i], n] for i, n in ordered[-5:]],
            "rows_by_label": {self.labels[i]: n for i, n in ordered},
            "rows_left_out": self.report.unusable,
            "duplicates": self.report.duplicates,
            "conflicting_rows": self.report.conflict_rows,
            "leaked_rows": self.report.leaked,
            "left_out": msgspec.to_builtins(self.report.left_out),
            "duplicate_rows": self.report.duplicate_rows,
            "conflicts": self.report.conflicts,
            "lonely_labels": self.report.lonely,
            "label_spellings": self.report.spellings,
            "suspected_label_noise": self.report.noise,
            "warnings": self.report.warnings,
            **({"field": self.field} if self.field is not None else {}),
            **({"written": self.written.facts} if self.written is not None else {}),
        }


def prepare(recipe: Recipe, written: Written | None = None) -> Dataset:
    """Loads or samples, cleans, splits and checks.

    Args:
        recipe: what is built.
        written: what a model wrote for it; None: it asks for nothing written.

    Raises:
        InputError: whatever is wrong with the data; see the functions used.
    """
    data, seed = recipe.data, recipe.seed
    report, log = CleanReport(), Log()
    columns = data.columns

    def table(path: str) -> Table:
        return load_table(
            Path(path),
            text=columns.text,
            label=columns.label,
            group=columns.group,
            log=log,
        )

    def read(path: str) -> list[Row]:
        return table(path).rows

    def texts(path: str) -> list[str]:
        if not path:
            return []
        rows = load_rows(Path(path), text=columns.text, labelled=False, log=log)
        return list(dict.fromkeys(row.text for row in rows))

    rest: list[str] = []
    if data.source == "home-intents":
        from model_builder.data.home import sample

        rows = sample(data.language, data.sentences, derive(seed, "sample"))
    elif data.train or written is not None:
        given = table(data.train) if data.train else Table([], Columns())
        rows, rest = given.rows, given.unlabelled
    else:
        raise InputError("bad-recipe", "the recipe names no data.train and no data.source")
    rows += written.rows if written is not None else []
    keep: dict[str, Any] = {
        "deduplicate": recipe.clean.deduplicate,
        "conflicts": recipe.clean.conflicts,
    }
    known = spellings(row.label for row in rows)
    train = drop_lonely(clean(one_spelling(rows, known, report), report, **keep), report)
    if data.test:
        test = clean(one_spelling(read(data.test), known, report), report, **keep)
    else:
        train, test = split_off(train, recipe.split.test, seed, "test")
    if data.validation:
        validation = clean(one_spelling(read(data.validation), known, report), report, **keep)
    else:
        train, validation = split_off(train, recipe.split.validation, seed, "validation")
    # Training yields: a benchmark's test split stays whole.
    train = drop_leaks(test, train, report, "training rows are in the test split")
    validation = drop_leaks(test, validation, report, "validation rows are in the test split")
    train = drop_leaks(validation, train, report, "training rows are in the validation split")
    if data.limit:
        order = np.random.default_rng(derive(seed, "limit")).permutation(len(train))
        train = [train[i] for i in sorted(order[: data.limit])]
    learned: dict[str, Any] | None = None
    if data.field:
        of_field = field.read(data.field, recipe.name)
        validation[:] = [row for row in validation if normalize(row.text) not in of_field.judge]
        train, learned = field.join(of_field, train, data.field_weight, known, report)
        train = drop_leaks([*test, *validation], train, report, "texts of the field are held back")
    labels = check_classes(train, report)
    for name, rows_of in (("validation", validation), ("test", test)):
        strange = sorted({row.label for row in rows_of} - set(labels))
        if strange:
            lost = sum(row.label in strange for row in rows_of)
            rows_of[:] = [row for row in rows_of if row.label not in strange]
            report.warnings.append(
                f"{lost} rows of the {name} split have labels that training lacks, which no "
                f"model can answer; they are left out: {', '.join(strange)[:200]}"
            )
        if not rows_of and name == "validation":
            rows_of[:] = train
            report.warnings.append(
                "there are too few rows to hold some back for validation: the training rows "
                "themselves stand for them, and what they say is too good"
            )
        if not rows_of:
            raise InputError("bad-data", f"the {name} split is empty; give more rows or a file")
    if recipe.clean.noise_report:
        report.noise = noise_report(train, derive(seed, "noise"))
        if report.noise:
            report.warnings.append(f"{len(report.noise)} training labels look wrong: see report")
    outside = [texts(path) for path in (data.out_of_scope, data.out_of_scope_test)]
    labelled_by = recipe.teacher.source.partition(":")[0]
    if rest and labelled_by not in _ASKED_ALONE:
        log.note(f"{len(rest)} texts without a label are for the teacher to label")
    else:
        rest = []
    held = {normalize(row.text) for row in (*validation, *test)}
    unlabelled = [
        text
        for text in dict.fromkeys([*texts(data.unlabelled), *rest])
        if normalize(text) not in held
    ]
    report.warnings[:0] = [*(written.warnings if written is not None else []), *log.notes]
    report.left_out, report.unusable = log.problems[:MOST_LISTED], log.left_out
    index = {label: i for i, label in enumerate(labels)}

    def split(rows_of: list[Row]) -> Split:
        return Split(
            [row.text for row in rows_of],
            np.array([index[row.label] for row in rows_of], np.int64),
            [row.group for row in rows_of],
        )

    # Of what was learned, not of where it stood.
    found = [
        [(row.text, row.label, row.group) for row in part] for part in (train, validation, test)
    ]
    return Dataset(
        labels=labels,
        train=split(train),
        validation=split(validation),
        test=split(test),
        outside_validation=outside[0],
        outside_test=outside[1],
        unlabelled=unlabelled,
        report=report,
        sha256=hashlib.sha256(codec.encode(found)).hexdigest(),
        language=detect([row.text for row in train], derive(seed, "language")),
        field=learned,
        written=written,
    )
