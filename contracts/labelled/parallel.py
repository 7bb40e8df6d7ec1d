"""Texts in one file and their labels in another, line by line, as research corpora are kept.

``train_text.txt`` beside ``train_labels.txt``, ``seq.in`` beside ``label``, ``X.txt`` beside
``y.txt``. They are a pair by their names, and by having as many lines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contracts.errors import InputError
from contracts.labelled import delimited
from contracts.labelled.rows import Log, Record

_PARTS: Final = re.compile(r"[^0-9a-z]+")
_OF_LABELS: Final = frozenset(
    (
        *("label", "labels", "target", "targets", "intent", "intents", "class", "classes", "y"),
        *("category", "categories", "topic", "topics", "sentiment", "sentiments", "gold"),
    )
)
_OF_TEXTS: Final = frozenset(
    (
        *("text", "texts", "sentence", "sentences", "content", "contents", "title", "titles", "x"),
        *("seq", "utterance", "utterances", "question", "questions", "query", "queries", "input"),
        *("inputs", "comment", "comments", "review", "reviews", "tweet", "tweets", "doc", "docs"),
        *("document", "documents", "message", "messages", "data"),
    )
)
_MEANINGLESS: Final = frozenset(("", "txt", "in", "raw", "tok"))
_MEANINGS: Final = ("mapping.txt", "label_map.txt", "label_mapping.txt", "id2label.txt")
"""Files that have a number and what it means in each line, beside the labels or above them."""

_TEXTS: Final = ("", ".txt", ".in", ".text", ".texts")
_MOST_FILES: Final = 200
_LEAST_EACH: Final = 2
"""Lines a label, on the mean, from which a file holds labels."""


def _kind(path: Path) -> tuple[frozenset[str], bool, bool]:
    """What a file's name says: of what it is one, that it holds labels, that it holds texts."""
    parts = frozenset(_PARTS.split(path.name.casefold())) - _MEANINGLESS
    return (
        parts - _OF_LABELS - _OF_TEXTS,
        bool(parts & _OF_LABELS),
        bool(parts & _OF_TEXTS),
    )


def _beside(path: Path) -> list[Path]:
    try:
        found = [item for item in path.parent.iterdir() if item != path and item.name[0] != "."]
    except OSError:  # a folder of which only what one can name may be read
        return []
    kinds = (*_TEXTS, ".label", ".labels", ".y")
    files = sorted(item for item in found if item.suffix.casefold() in kinds and item.is_file())
    return files[:_MOST_FILES]


def labels_of(path: Path) -> Path | None:
    """The file with the labels of the texts in `path`; None: there is none beside it.

    Raises:
        InputError: ``bad-data``; by their names they are a pair, and they have not as many lines;
            or `path` is itself the file of labels.
    """
    what, labels, texts = _kind(path)
    alike = [
        (item, is_of_texts)
        for item in _beside(path)
        for its, is_of_labels, is_of_texts in [_kind(item)]
        if its == what and is_of_labels != labels
    ]
    if labels:
        named = [item for item, is_of_texts in alike if is_of_texts]
        if named and _are_labels(_lines(path)):
            raise InputError(
                "bad-data", f"{path} has the labels of {named[0].name}; name that file instead"
            )
        return None
    own = _lines(path) if alike else []
    if not alike or _is_table(own):
        return None
    found = [(item, _lines(item)) for item, _ in alike]
    found = [(item, lines) for item, lines in found if _are_labels(lines)]
    fitting = [item for item, lines in found if _paired(own, lines) is not None]
    if found and not fitting and texts:
        item, lines = found[0]
        raise InputError(
            "bad-data",
            f"{path} has {len(own)} lines and {item.name} {len(lines)}: the labels of these texts "
            "need a line for each",
        )
    return next((item for item in fitting if item.stem == path.stem), next(iter(fitting), None))


def texts_in(folder: Path) -> list[Path]:
    """The files of texts in a folder that have their labels beside them.

    Raises:
        InputError: as :func:`labels_of`.
    """
    items = [item for item in folder.iterdir() if item.name[0] != "." and item.is_file()]
    if len(items) > _MOST_FILES or not any(_kind(item)[1] for item in items):
        return []
    found = (item for item in sorted(items) if item.suffix.casefold() in _TEXTS)
    return [item for item in found if not _kind(item)[1] and labels_of(item) is not None]


def rows_of(path: Path, labels: Path, log: Log) -> Iterator[Record]:
    """Each line of `path` with the same line of `labels`."""
    pairs = _paired(_lines(path, log), _lines(labels)) or []
    meanings, source = _meanings(labels)
    whence = ""
    if meanings and all(label in meanings for _, label in pairs):
        pairs = [(text, meanings[label]) for text, label in pairs]
        whence = f", what they mean from {source}"
    log.note(f"the labels of {path.name} were read from {labels.name}{whence}")
    for number, (text, label) in enumerate(pairs, 1):
        yield f"line {number}", {"text": text, "label": label}


def _paired(texts: list[str], labels: list[str]) -> list[tuple[str, str]] | None:
    """Each text with its label; None: they are not as many.

    Blank lines at the end of either count as far as the other has lines: a text may be empty.
    """
    short, long = sorted((texts, labels), key=len)
    if any(long[len(short) :]):
        return None
    return list(zip(texts, labels, strict=False))


def _lines(path: Path, log: Log | None = None) -> list[str]:
    """The lines without their ends; none of what cannot be read."""
    try:
        text = delimited.decoded(path, log or Log())
    except (InputError, OSError):
        return []
    return [line.strip() for line in delimited.lines_of(text)]


def _are_labels(lines: list[str]) -> bool:
    different = Counter(filter(None, lines))
    return 2 <= len(different) <= len(lines) / _LEAST_EACH and "\t" not in "".join(different)


def _is_table(lines: list[str]) -> bool:
    """Whether nearly every line has cells of its own, so that labels beside it are its own too."""
    return sum("\t" in line for line in lines) > 0.9 * len(lines)


def _meanings(labels: Path) -> tuple[dict[str, str], str]:
    """What the numbers of a file of labels mean, if a file tells it, and which."""
    for folder in (labels.parent, labels.parent.parent):
        for name in _MEANINGS:
            if (folder / name).is_file():
                pairs = [line.split("\t") for line in _lines(folder / name)]
                if pairs and all(len(pair) > 1 for pair in pairs):
                    return {pair[0].strip(): pair[1].strip() for pair in pairs}, name
    return {}, ""
