"""Folders as tables: of texts by label, of a data set's files, of a chat bot's intents."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import limits
from contracts.errors import InputError
from contracts.labelled import delimited, parallel
from contracts.labelled.columns import usual_label
from contracts.labelled.documents import text_of
from contracts.labelled.rows import Log, Record

MAX_FILES: Final = 1_000_000
"""Files in a folder with a folder for each label."""

_KINDS: Final = (".pos", ".neg", ".neu", ".spam", ".ham")
"""Suffixes that are labels, as in Cornell's ``rt-polarity.neg``."""

_CELLS: Final = (".csv", ".tsv", ".tab")
_MOST_SETS: Final = 100
"""Folders, and names in one, that are looked at for splits."""

_WORDS: Final = re.compile(r"[^a-z]+")
_DIGITS: Final = re.compile(r"[0-9]+")
_ABOUT: Final = frozenset(
    ("readme", "license", "licence", "notice", "changelog", "requirements", "citation")
)
"""Names of files that come along with texts and are none."""

_TRAIN: Final = "train"
_SPLITS: Final = frozenset(
    (_TRAIN, "test", "dev", "val", "valid", "validation", "eval", "unsupervised")
)
TO_LEARN: Final = (_TRAIN,)
TO_JUDGE: Final = ("test", "eval", "validation", "valid", "val", "dev", _TRAIN)
"""Splits by how they are called, those that are rather meant first."""
_BOTS: Final = (
    ("intents/*_usersays_*.json", "Dialogflow"),
    ("intents/*/trainingPhrases/*.json", "Dialogflow CX"),
    ("**/Intents/*/Intent.json", "Lex"),
)
"""Where the exports of chat bots have the examples of an intent, and whose."""


class Tables(msgspec.Struct, frozen=True):
    """Files that are read as one table.

    Attributes:
        paths: of them.
        by_label: each has the texts of one label, which is its name.
        constant: then, a column that is left out: it looks like a label, and never changes.
    """

    paths: list[Path] = []
    by_label: bool = False
    constant: str = ""


def inner(path: Path, log: Log) -> Path:
    """The folder that is meant: the only thing in one, as where an archive was unpacked."""
    while True:
        items = _visible(path)
        if len(items) != 1 or not items[0].is_dir() or items[0].name.lower() in (*_SPLITS, "data"):
            return path
        inside = _visible(items[0])
        if inside and all(_is_text(item) for item in inside):
            return path  # texts of one label
        log.note(f"of {path.name} its folder {items[0].name!r} was read")
        path = items[0]


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".txt"


def tables_in(
    path: Path, suffixes: tuple[str, ...], log: Log, splits: tuple[str, ...] = TO_LEARN
) -> Tables:
    """The files of a data set that a folder holds; none: it is no data set.

    A folder saved by Hugging Face's ``datasets``, a clone of one from its hub, one with a single
    table or the parts of one, or one with texts and labels in files beside each other. Of several
    splits, the first of `splits` that there is.

    Raises:
        InputError: ``bad-data``; it has several tables, and nothing tells which is meant.
    """
    if (path / "dataset_dict.json").is_file():
        chosen = _first(_visible(path), splits) or path / _TRAIN
        log.note(f"of the data set {path.name} its split {chosen.name!r} was read")
        path = chosen
    if (path / "state.json").is_file() or (path / "dataset_info.json").is_file():
        return Tables(sorted(path.glob("*.arrow")))
    inside = [item for item in _visible(path) if item.is_dir()]
    if inside and {item.name.lower() for item in inside} <= _SPLITS:
        split = _first(inside, splits)
        found = tables_in(split, suffixes, log, splits) if split else Tables()
        if split and found.paths:
            log.note(f"of {path.name} its folder {split.name!r} was read")
            return found
    found = _texts_in(path, log, splits)
    if found.paths:
        return found
    kinds = tuple(suffix for suffix in suffixes if suffix != ".txt")
    for folder in (path, path / "data"):
        if folder != path and any(item.is_dir() for item in path.iterdir() if item != folder):
            continue
        tables = [item for item in _visible(folder) if item.suffix.lower() in kinds]
        if not tables or (folder == path and any(item.is_dir() for item in _visible(path))):
            continue
        return _meant(path, tables, log, splits)
    return Tables()


def _first(items: list[Path], splits: tuple[str, ...]) -> Path | None:
    """The first of folders by the splits that they are called."""
    by_name = {item.name.lower(): item for item in items if item.is_dir()}
    return next((by_name[split] for split in splits if split in by_name), None)


def _of_split(items: list[Path], splits: tuple[str, ...]) -> list[Path]:
    """Files of the first of splits that there is, by how their names begin."""
    for split in splits:
        named = [item for item in items if split in _words(item)]
        begun = [item for item in items if item.stem.lower().startswith(split)]
        found = begun if split == _TRAIN and begun else named
        if found and (found is begun or split != _TRAIN or len(found) == 1 or _are_parts(found)):
            return found
    return []


def _meant(path: Path, tables: list[Path], log: Log, splits: tuple[str, ...]) -> Tables:
    """Those of several tables that are meant: of splits the first; all parts of one.

    Raises:
        InputError: ``bad-data``; nothing tells which.
    """
    split = _of_split(tables, splits)
    found = Tables(split)
    of_splits = any(_SPLITS & _words(item) for item in tables)
    if not split and (len(tables) == 1 or (_are_parts(tables) and not of_splits)):
        found = Tables(tables)
    elif not split:
        found = _of_labels(tables) or found
    if not found.paths:
        shown = ", ".join(item.name[:40] for item in tables[:8])
        raise InputError("bad-data", f"{path} has several tables; name one of {shown}")
    _say(path, found, log)
    return found


def _say(path: Path, found: Tables, log: Log) -> None:
    names = ", ".join(item.name for item in found.paths[:4])
    more = f" and {len(found.paths) - 4} more" if len(found.paths) > 4 else ""
    named = ", each as the texts of the label that it is called" if found.by_label else ""
    log.note(f"of {path.name} was read: {names}{more}{named}")


def _are_parts(tables: list[Path]) -> bool:
    """Whether tables are called the same but for a number, as the parts of one are."""
    return len({(_DIGITS.sub("#", item.stem), item.suffix.lower()) for item in tables}) == 1


def _of_labels(tables: list[Path]) -> Tables | None:
    """Tables of which each has the texts of one label; None: they are something else.

    A column tells the label, or, where it says the same in several of them, or there is none, what
    the file is called.
    """
    if len(tables) < 2 or any(_SPLITS & _words(item) for item in tables):
        return None
    columns: set[tuple[str, ...]] = set()
    values: list[str] = []
    for item in tables:
        names, rows = _rows(item) if item.suffix.lower() in _CELLS else ([], [])
        columns.add(tuple(names))
        label = usual_label(names)
        found = {row[names.index(label)] for row in rows} if label is not None else set()
        if not names or len(columns) > 1 or len(found) > 1:
            return None
        if label is None and len(names) > 1:  # one of them may be the label
            return None
        values += found
    if label is not None and len(set(values)) == len(tables):
        return Tables(tables)
    return Tables(tables, by_label=True, constant=label or "")


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header of a text file with cells, and its whole rows; nothing: it is none."""
    try:
        lines = delimited.lines_of(delimited.decoded(path, Log()))
        rows = [row.cells for row in delimited.rows_of(lines, delimited.sniff(lines))]
    except (InputError, csv.Error):
        return [], []
    names = [name.strip() for name in rows[0]] if rows else []
    return names, [row for row in rows[1:] if len(row) == len(names)]


def _texts_in(path: Path, log: Log, splits: tuple[str, ...]) -> Tables:
    """The text files of a folder that are tables, or have their labels beside them."""
    found = parallel.texts_in(path)
    if found:
        return _meant(path, found, log, splits)
    texts = [item for item in _visible(path) if item.suffix.lower() == ".txt" and item.is_file()]
    texts = [item for item in texts if not _is_about(item)]
    if len(texts) > 1 and all(_SPLITS & _words(item) for item in texts):
        return _meant(path, texts, log, splits)
    if any(item.is_dir() for item in _visible(path)):
        return Tables()
    tables = [item for item in texts if _has_cells(item)]
    if 1 < len(tables) < len(texts):  # their names are no labels, and not all is a table
        return _meant(path, texts, log, splits)
    if tables and len(tables) == len(texts):
        _say(path, Tables(tables), log)
        return Tables(tables)
    return Tables()


def _is_about(path: Path) -> bool:
    """Whether a file's name says that it tells of the others."""
    return path.stem.lower() in _ABOUT


def _has_cells(path: Path) -> bool:
    """Whether a text file is a table: nearly each line has as many cells, and some column recurs.

    Numbers before texts do not.
    """
    try:
        lines = delimited.lines_of(delimited.decoded(path, Log()))
    except InputError:
        return False
    rows = [line.rstrip("\r\n").split("\t") for line in lines if line.strip()]
    width, count = max(Counter(map(len, rows)).items(), key=lambda item: item[1], default=(1, 0))
    whole = [row for row in rows if len(row) == width]
    few = any(2 * len(set(column)) <= count for column in zip(*whole, strict=True))
    return width > 1 and count >= 0.9 * len(rows) and few


def _visible(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.name[0] != ".") if path.is_dir() else []


def _check_no_sets(path: Path, folders: list[Path]) -> None:
    """Raises ``InputError`` where folders hold data sets, each with its splits, and no texts."""
    sets = []
    for folder in folders[:_MOST_SETS]:
        words = {word for item in _visible(folder)[:_MOST_SETS] for word in _words(item)}
        if _TRAIN in words and len(words & _SPLITS) > 1:
            sets.append(folder.name)
    if sets:
        raise InputError(
            "bad-data",
            f"{path} has folders that are data sets of their own, with files to train on and to "
            f"test; name one: {', '.join(str(path / name) for name in sets[:8])}",
        )


def _words(item: Path) -> set[str]:
    return set(_WORDS.split(item.stem.lower()))


def bot(path: Path, log: Log) -> list[Record]:
    """The examples of the intents that a chat bot's exported folder holds; none: it is none."""
    rows: list[Record] = []
    for pattern, whose in _BOTS:
        for item in sorted(path.glob(pattern)):
            try:
                document = json.loads(item.read_bytes())
                found = document if isinstance(document, list) else _examples(document)
            except (ValueError, RecursionError, InputError):
                log.problem(path.name, f"file {item.relative_to(path)}", "not JSON")
                continue
            texts = [text_of(one) for one in found if isinstance(one, dict)]
            rows += [
                (f"file {item.relative_to(path)}", {"text": text, "label": _intent(item)})
                for text in texts
                if text
            ]
        if rows:
            log.note(f"{path.name} was read as the export of a bot of {whose}")
            break
    return rows


def _intent(path: Path) -> str:
    """What an intent is called, by where its examples are."""
    if "_usersays_" in path.name:
        return path.name.rpartition("_usersays_")[0]
    return path.parents[1 if path.parent.name == "trainingPhrases" else 0].name


def _examples(document: dict[str, Any]) -> list[Any]:
    return next(
        (document[name] for name in ("trainingPhrases", "sampleUtterances") if document.get(name)),
        [],
    )


def rows_of(
    path: Path, suffixes: tuple[str, ...], log: Log, splits: tuple[str, ...] = TO_LEARN
) -> Iterator[Record]:
    """``LABEL/FILE``: a text a file; or ``LABEL.txt``, or ``NAME.pos``: a text a line.

    Raises:
        InputError: ``bad-data``; it has neither. ``too-large``.
    """
    folders = [item for item in _visible(path) if item.is_dir()]
    if len(folders) == 1 and any(map(Path.is_dir, _visible(folders[0]))):
        log.note(f"of {path.name} its folder {folders[0].name!r} was read")
        path = folders[0]
        folders = [item for item in _visible(path) if item.is_dir()]
    split = _first(folders, splits)
    called = {folder.name.lower() for folder in folders} <= _SPLITS
    if split is not None and called:
        log.note(f"of {path.name} its folder {split.name!r} was read")
        path = split
        folders = [item for item in _visible(path) if item.is_dir()]
    files = sorted(item for item in path.iterdir() if item.suffix == ".txt" and item.is_file())
    files = [item for item in files if not _is_about(item)]
    kinds = [item for item in _visible(path) if item.suffix.lower() in _KINDS and item.is_file()]
    if len({item.suffix.lower() for item in kinds}) > 1 and not folders:
        log.note(f"of {path.name} was read: {', '.join(item.name for item in kinds[:8])}")
        files = kinds
    _check_no_sets(path, folders)
    if not folders and not files:
        raise InputError(
            "bad-data", f"{path}: expected a folder for each label with a file for each text in it"
        )
    count = 0
    for folder in folders:
        for item in sorted(folder.rglob("*")):
            if not item.is_file() or item.name.startswith("."):
                continue
            count += 1
            if count > MAX_FILES:
                raise InputError("too-large", f"{path} has more than {MAX_FILES} files")
            place = f"file {item.relative_to(path)}"
            if item.suffix.lower() in suffixes and item.suffix.lower() != ".txt":
                log.problem(path.name, place, "a table, not a text")
                continue
            if item.stat().st_size > 16 * limits.MAX_TEXT_BYTES:
                log.problem(path.name, place, f"longer than {limits.MAX_TEXT_BYTES} bytes")
                continue
            try:
                text = delimited.decoded(item, log)
            except InputError:
                log.problem(path.name, place, "no text file")
                continue
            yield place, {"text": text, "label": folder.name}
    for item in [] if folders else files:
        for number, line in enumerate(delimited.lines_of(delimited.decoded(item, log)), 1):
            if line.strip():
                label = item.suffix[1:] if files is kinds else item.stem
                yield f"{item.name} line {number}", {"text": line, "label": label}
