"""What is known of labels without rows, and what a model wrote for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import limits
from contracts.errors import InputError
from contracts.labelled.rows import Log, Row
from contracts.labelled.tables import records

_LABELS: Final = ("label", "name", "category", "intent", "class", "kategorie", "klasse")
_MEANINGS: Final = ("description", "meaning", "definition", "explanation", "beschreibung")


class Written(msgspec.Struct):
    """Texts of a model.

    Attributes:
        rows: one for each text; those of one request are a group.
        meanings: of the labels.
        facts: for the report.
        warnings: for people.
    """

    rows: list[Row]
    meanings: dict[str, str]
    facts: dict[str, Any]
    warnings: list[str]


def meanings_of(labels: dict[str, str] | str) -> dict[str, str]:
    """What each label means; a label without a description means its name.

    Args:
        labels: by label, or the place of a table with the columns label and description.

    Raises:
        InputError: ``bad-recipe``, or what is wrong with the table.
    """
    given = list(labels.items()) if isinstance(labels, dict) else _read(Path(labels))
    found: dict[str, str] = {}
    by_meaning: dict[str, str] = {}
    for name, said in given:
        label, meaning = " ".join(name.split()), " ".join(said.split())
        meaning = meaning or " ".join(label.replace("_", " ").split())
        if not label or len(label) > limits.MAX_LABEL_CHARS:
            raise InputError(
                "bad-recipe",
                f"the label {label[:60]!r}: expected 1 to {limits.MAX_LABEL_CHARS} characters",
            )
        if label in found:
            raise InputError("bad-recipe", f"the label {label[:60]!r} is described twice")
        other = by_meaning.setdefault(meaning.casefold(), label)
        if other != label:
            raise InputError(
                "bad-recipe",
                f"the labels {other[:60]!r} and {label[:60]!r} have one description: "
                "nothing could tell them apart",
            )
        found[label] = meaning
    if not 2 <= len(found) <= limits.MAX_LABELS:
        raise InputError(
            "too-few-classes" if len(found) < 2 else "bad-recipe",
            f"expected 2 to {limits.MAX_LABELS} labels with what they mean, found {len(found)}",
        )
    return found


def described(path: Path) -> bool:
    """Whether a table has labels and descriptions, and no texts.

    A column of descriptions may as well be the texts, of tickets or of goods; then labels come
    more than once.
    """
    seen: set[str] = set()
    try:
        for _, row in records(path, Log()) if path.is_file() else ():
            folded = {str(name).casefold().strip(): name for name in row if name is not None}
            label = next((folded[name] for name in _LABELS if name in folded), None)
            if label is None or not set(folded) & set(_MEANINGS) or "text" in folded:
                return False
            name = str(row[label]).strip()
            if name in seen:
                return False
            seen.add(name)
    except InputError:
        return False  # whoever reads it as texts says what is wrong
    return bool(seen)


def _read(path: Path) -> list[tuple[str, str]]:
    rows = list(records(path, Log()))
    names = list(dict.fromkeys(str(name) for _, row in rows for name in row if name is not None))
    folded = {name.casefold().strip(): name for name in names}
    label = next((folded[name] for name in _LABELS if name in folded), None)
    meaning = next((folded[name] for name in _MEANINGS if name in folded), None)
    if label is None or meaning is None:
        raise InputError(
            "bad-data",
            f"{path}: expected the columns label and description, found "
            f"{', '.join(name[:40] for name in names[:10]) or 'nothing'}",
        )
    found = []
    for place, row in rows:
        name = row.get(label)
        if name in (None, ""):
            raise InputError("bad-data", f"{path}, {place}: a description without a label")
        found.append((str(name), str(row.get(meaning) or "")))
    return found
