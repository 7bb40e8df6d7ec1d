"""Folders as tables: of texts by label, of a data set's files, of a chat bot's intents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from contracts import limits
from contracts.errors import InputError
from contracts.labelled import delimited
from contracts.labelled.documents import text_of
from contracts.labelled.rows import Log, Record

MAX_FILES: Final = 1_000_000
"""Files in a folder with a folder for each label."""

_TRAIN: Final = "train"
_SPLITS: Final = frozenset(
    (_TRAIN, "test", "dev", "val", "valid", "validation", "eval", "unsupervised")
)
_BOTS: Final = (
    ("intents/*_usersays_*.json", "Dialogflow"),
    ("intents/*/trainingPhrases/*.json", "Dialogflow CX"),
    ("**/Intents/*/Intent.json", "Lex"),
)
"""Where the exports of chat bots have the examples of an intent, and whose."""


def tables_in(path: Path, suffixes: tuple[str, ...], log: Log) -> list[Path]:
    """The files of a data set that a folder holds, to learn from; none: it is no data set.

    A folder saved by Hugging Face's ``datasets``, a clone of one from its hub, or one with a
    single table. Of several splits, that to train on.

    Raises:
        InputError: ``bad-data``; it has several tables, and nothing tells which is meant.
    """
    if (path / "dataset_dict.json").is_file():
        log.note(f"of the data set {path.name} its split {_TRAIN!r} was read")
        path = path / _TRAIN
    if (path / "state.json").is_file() or (path / "dataset_info.json").is_file():
        return sorted(path.glob("*.arrow"))
    kinds = tuple(suffix for suffix in suffixes if suffix != ".txt")
    for folder in (path, path / "data"):
        if folder != path and any(item.is_dir() for item in path.iterdir() if item != folder):
            continue
        tables = [item for item in _visible(folder) if item.suffix.lower() in kinds]
        if not tables or (folder == path and any(item.is_dir() for item in _visible(path))):
            continue
        train = [item for item in tables if item.stem.lower().startswith(_TRAIN)]
        if len(tables) > 1 and not train:
            found = ", ".join(item.name[:40] for item in tables[:8])
            raise InputError("bad-data", f"{path} has several tables; name one of {found}")
        read = train or tables
        log.note(f"of {path.name} was read: {', '.join(item.name for item in read[:4])}")
        return read
    return []


def _visible(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.name[0] != ".") if path.is_dir() else []


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


def rows_of(path: Path, suffixes: tuple[str, ...], log: Log) -> Iterator[Record]:
    """``LABEL/FILE``: a text a file; or ``LABEL.txt``: a text a line.

    Raises:
        InputError: ``bad-data``; it has neither. ``too-large``.
    """
    folders = [item for item in _visible(path) if item.is_dir()]
    names = {folder.name.lower() for folder in folders}
    if _TRAIN in names and names <= _SPLITS and any(map(Path.is_dir, _visible(path / _TRAIN))):
        log.note(f"of {path.name} its folder {_TRAIN!r} was read")
        path = path / _TRAIN
        folders = [item for item in _visible(path) if item.is_dir()]
    files = sorted(item for item in path.iterdir() if item.suffix == ".txt" and item.is_file())
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
                yield f"{item.name} line {number}", {"text": line, "label": item.stem}
