"""Which columns of a table hold the text and the label: by name, else by what is in them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from contracts.errors import InputError
from contracts.labelled.rows import Log
from contracts.labelled.several import marked

_TEXTS: Final = (
    *("text", "sentence", "utterance", "message", "query", "question", "comment", "review"),
    *("content", "phrase", "body", "input", "title", "sms", "tweet", "nachricht", "satz", "frage"),
)
_LABELS: Final = (
    *("label", "category", "intent", "class", "target", "tag", "topic", "sentiment", "labels"),
    *("categories", "type", "output", "y", "kategorie", "klasse", "thema"),
)
_LEAST_ROWS: Final = 6
"""Rows from which contents tell anything."""


class Columns(msgspec.Struct, frozen=True):
    """Which columns of a table are meant; `group` may be empty."""

    text: str = "text"
    label: str = "label"
    group: str = ""


def guess(names: list[str]) -> Columns | None:
    """The columns of text and label by their usual names, or by being the only two."""
    folded = {name.casefold().strip(): name for name in names}
    text = next((folded[name] for name in _TEXTS if name in folded), None)
    label = next((folded[name] for name in _LABELS if name in folded), None)
    if len(names) == 2 and (text is None) != (label is None):
        other = next(name for name in names if name not in (text, label))
        text, label = (text or other), (label or other)
    return None if text is None or label is None else Columns(text, label)


def looks_like(names: list[str], sample: list[dict[str, Any]]) -> tuple[str | None, list[str]]:
    """What the columns' contents say.

    Args:
        names: of the columns.
        sample: of the rows.

    Returns:
        the column of longest cells, mostly different and of several words, if there is one; and
        the columns that could be labels: few different short values, each several times.
    """
    text: str | None = None
    longest = 0.0
    labels: list[str] = []
    for name in names:
        values = [str(row[name]).strip() for row in sample if row.get(name) not in (None, "")]
        if len(values) < max(_LEAST_ROWS, len(sample) // 2):
            continue
        different = len(set(values))
        mean = sum(map(len, values)) / len(values)
        words = sum(len(value.split()) for value in values) / len(values)
        if different > len(values) / 2 and words > 1.5 and mean > longest:
            text, longest = name, mean
        if 2 <= different <= len(values) / 2 and mean <= 60 and words <= 6:
            labels.append(name)
    return text, [name for name in labels if name != text]


def choose(
    names: list[str],
    sample: list[dict[str, Any]],
    wanted: Columns,
    where: str,
    labelled: bool,
    log: Log,
) -> Columns:
    """The columns as the table spells them; the default names stand for the usual ones.

    Args:
        names: of the table's columns.
        sample: of its rows.
        wanted: the columns asked for.
        where: the file, for the message.
        labelled: a label is needed.
        log: is told what was assumed.

    Raises:
        InputError: ``bad-data``; a column is not there, or nothing tells which is meant.
    """
    folded = {name.casefold(): name for name in names}
    guessed = guess(names)
    found: dict[str, str] = {}
    for field, usual in (("text", "text"), ("label", "label"), ("group", "")):
        asked = getattr(wanted, field)
        if not asked or (field == "label" and not labelled):
            found[field] = ""
            continue
        name = asked if asked in names else folded.get(" ".join(asked.split()).casefold())
        if name is None and asked == usual:
            name = getattr(guessed, field) if guessed else None
            if name is None:
                name = _by_content(field, names, sample, found, where, labelled)
            if name is not None:
                log.note(f"the column {name!r} was taken for the {field}")
        if name is None:
            known = ", ".join(name[:40] for name in names[:20])
            raise InputError(
                "bad-data", f"{where}: no {asked!r}; found {known}; name it with --{field}"
            )
        found[field] = name
    if found["label"] and found["label"] == found["text"]:
        raise InputError("bad-data", f"{where}: {found['text']!r} cannot be text and label both")
    return Columns(**found)


def _by_content(
    field: str,
    names: list[str],
    sample: list[dict[str, Any]],
    found: dict[str, str],
    where: str,
    labelled: bool,
) -> str | None:
    folded = {name.casefold(): name for name in names}
    usual = _TEXTS if field == "text" else _LABELS
    named = next((folded[name] for name in usual if name in folded), None)
    if named is not None:
        return named
    text, labels = looks_like(names, sample)
    if field == "text":
        if text is None and not labelled and len(names) == 1:
            return names[0]
        return text
    labels = [name for name in labels if name != found["text"]]
    marks = marked(labels, sample)
    if len(marks) > 1 and marks == labels:
        raise InputError(
            "bad-data",
            f"{where}: {len(marks)} columns hold 0 and 1, as with one column for each label: "
            f"{', '.join(name[:40] for name in marks[:8])}; where a text may have several, write "
            "labels: several below data in the recipe; or name a column with --label to learn "
            "that one alone",
        )
    if len(labels) > 1:
        choices = ", ".join(
            f"{name} ({len({str(row.get(name)) for row in sample})} values)" for name in labels[:8]
        )
        raise InputError(
            "bad-data",
            f"{where}: several columns could be the label: {choices}; name one with --label",
        )
    return labels[0] if labels else None
