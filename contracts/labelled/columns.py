"""Which columns of a table hold the text and the label: by name, else by what is in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from contracts.errors import InputError
from contracts.labelled.rows import Log
from contracts.labelled.several import marked

LISTS: Final = frozenset(
    (
        *("patterns", "utterances", "examples", "sentences", "texts", "questions", "samples"),
        *("phrases", "sampleutterances", "sample_utterances", "trainingphrases"),
        *("training_phrases", "expressions", "queries"),
    )
)
"""Columns that may hold several texts of one label in a list, as those of chat bots do."""

_TEXTS: Final = (
    *("text", "sentence", "utterance", "message", "query", "question", "comment", "review"),
    *("content", "phrase", "body", "input", "title", "sms", "tweet", "nachricht", "satz", "frage"),
    *sorted(LISTS),
)
_LABELS: Final = (
    *("label", "category", "intent", "class", "target", "tag", "topic", "sentiment", "labels"),
    *("categories", "cats", "intents", "classes", "topics", "tags", "targets", "emotions"),
    *("type", "output", "y", "kategorie", "klasse", "thema"),
)
_RATHER: Final = frozenset(("rating", "ratings", "stars", "score", "emotion", "mood", "polarity"))
"""Names that only tell the label where contents leave several columns."""

_ABOUT: Final = re.compile(r"meta(data)?\.|_")
"""How columns begin that say where a row comes from; they are taken for nothing unasked."""

NO_BLANKS: Final = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of Thai, Lao, Khmer, Japanese and Chinese, which put no blanks between words."""

_END: Final = re.compile(r"[^a-z]+")
NUMBER: Final = re.compile(r"[-+]?[0-9]+([.,][0-9]*)?([eE][-+]?[0-9]+)?")
"""A cell with a number, of whatever country."""

_PREDICTED: Final = re.compile(r"(^|[._ -])(pred(icted|ictions?)?|suggest(ed|ions?))([._ -]|$)")

_MOST_NUMBERS: Final = 20
"""Different numbers up to which a column may hold labels rather than amounts."""

_LEAST_EACH: Final = 20
"""Rows a value, on the mean, from which a label may be a whole sentence."""

_LEAST_ROWS: Final = 6
"""Rows from which contents tell anything."""


class Columns(msgspec.Struct, frozen=True):
    """Which columns of a table are meant; `group` may be empty."""

    text: str = "text"
    label: str = "label"
    group: str = ""


def guess(names: list[str]) -> Columns | None:
    """The columns of text and label by their usual names, or by being the only two."""
    folded = _folded(names)
    text = next((folded[name] for name in _TEXTS if name in folded), None)
    label = usual_label(names)
    if len(names) == 2 and (text is None) != (label is None):
        other = next(name for name in names if name not in (text, label))
        if _ABOUT.match(other):
            return None
        text, label = (text or other), (label or other)
    return None if text is None or label is None else Columns(text, label)


def usual_label(names: list[str]) -> str | None:
    """The column of labels by its usual names alone."""
    folded = _folded(names)
    return next((folded[name] for name in _LABELS if name in folded), None)


def _folded(names: list[str]) -> dict[str, str]:
    """Names by what they are without their case; a nested one, ``data.text``, by its end too."""
    ends = {name.casefold().strip().rpartition(".")[2]: name for name in reversed(names)}
    return {**ends, **{name.casefold().strip(): name for name in names}}


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
        if len(values) < max(_LEAST_ROWS, len(sample) // 2) or _ABOUT.match(name):
            continue
        different = len(set(values))
        mean = sum(map(len, values)) / len(values)
        words = sum(map(_words, values)) / len(values)
        if different > len(values) / 2 and words > 1.5 and mean > longest:
            text, longest = name, mean
        short = words <= 6 or (words <= 12 and different <= len(values) / _LEAST_EACH)
        if 2 <= different <= len(values) / 2 and mean <= 60 and short:
            labels.append(name)
    return text, [name for name in labels if name != text]


def _words(text: str) -> float:
    """About how many; scripts without blanks between words have two letters to one."""
    return max(float(len(text.split())), len(NO_BLANKS.findall(text)) / 2)


def _likelier(labels: list[str], sample: list[dict[str, Any]]) -> list[str]:
    """Those of several columns that are labels rather than others.

    What a model predicted is none. One that ends in a usual name, as ``airline_sentiment`` does,
    is the label; many different numbers are prices or counts.
    """
    labels = [name for name in labels if not _PREDICTED.search(name.casefold())] or labels
    for usual in (_LABELS, _RATHER):
        named = [name for name in labels if _END.split(name.casefold())[-1] in usual]
        if len(named) == 1:
            return named
    return [name for name in labels if not _amounts(_counted(name, sample))] or labels


def _counted(name: str, sample: list[dict[str, Any]]) -> Counter[str]:
    return Counter(str(row[name]) for row in sample if row.get(name) not in (None, ""))


def _amounts(values: Counter[str]) -> bool:
    return len(values) > _MOST_NUMBERS and all(map(NUMBER.fullmatch, values))


def check_kinds(labels: Iterable[str], column: str, where: str) -> None:
    """Raises ``InputError`` where a column holds measures, as a mean of ratings is one."""
    values = Counter(labels)
    broken = [value for value in values if not value.lstrip("+-").isdigit()]
    if len(broken) > len(values) / 2 and _amounts(values):
        shown = ", ".join(sorted(broken)[:3])
        raise InputError(
            "bad-data",
            f"{where}: {column[:60]!r} holds {len(values)} different numbers ({shown}, ...): a "
            "measure, not labels; write what they mean, for example low below 2 and high from 2",
        )


def _shown(name: str, sample: list[dict[str, Any]]) -> str:
    """A column for a message: how many values, and the most frequent of them."""
    values = _counted(name, sample)
    first = ", ".join(value[:20] for value, _ in values.most_common(3))
    more = ", ..." if len(values) > 3 else ""
    return f"{name[:40]} ({len(values)} values: {first}{more})"


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
        if name is None and len(names) == 1 and labelled and asked == usual:
            raise InputError(
                "bad-data",
                f"{where}: no {asked!r}: it has one column, texts without labels; add a column "
                "with a label for each, or a file beside it with a label a line, named alike, as "
                "train_labels.txt to train_text.txt; or describe them: shoal init --describe",
            )
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
    folded = _folded(names)
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
    labels = _likelier(labels, sample)
    if len(labels) > 1:
        choices = "; ".join(_shown(name, sample) for name in labels[:8])
        raise InputError(
            "bad-data",
            f"{where}: several columns could be the label: {choices}; name one with --label",
        )
    return labels[0] if labels else None
