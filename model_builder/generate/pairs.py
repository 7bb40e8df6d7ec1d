"""Prompts with their completions: reading, checking, splitting."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from contracts import limits, wording
from contracts.errors import InputError
from model_builder.generate.forms import refuse_judged

MAX_PAIRS = 2_000_000

_PROMPTS: Final = ("prompt", "instruction", "question", "query", "input", "user")
_MORE: Final = ("input", "context")
"""What belongs to an instruction, as Alpaca's and Dolly's rows have it beside one."""

_COMPLETIONS: Final = ("completion", "output", "response", "answer", "target", "assistant")


class Pair(msgspec.Struct, frozen=True):
    """A prompt and what should follow.

    Attributes:
        prompt, completion: texts.
        group: pairs of one group never fall into different splits; empty: its own group.
    """

    prompt: str
    completion: str = ""
    group: str = ""


class Split(msgspec.Struct, frozen=True):
    """Pairs to train with, to stop early by, and to measure with."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]


class Answers:
    """The first answer to each prompt of a file.

    Args:
        first: other answers to a prompt are left out; else they are an error.
    """

    def __init__(self, first: bool) -> None:
        self._first = first
        self._seen: dict[str, tuple[int, str]] = {}
        self._others: list[tuple[int, int]] = []

    def takes(self, row: int, pair: Pair) -> bool:
        """Whether a row's pair is used: its prompt has no other answer before it."""
        before, answer = self._seen.setdefault(pair.prompt, (row, pair.completion))
        if answer == pair.completion:
            return True
        self._others.append((row, before))
        return False

    def check(self, path: Path, remedy: str) -> None:
        """Raises ``InputError`` ``bad-data`` where a prompt has two answers."""
        if not self._others or self._first:
            return
        row, before = self._others[0]
        more = f" ({len(self._others) - 1} more rows are such)" if len(self._others) > 1 else ""
        raise InputError(
            "bad-data",
            f"{path}, row {row}: the prompt of row {before} with another completion{more}; "
            f"{remedy}",
        )


def read_pairs(
    path: Path,
    check: Callable[[Pair], Pair] = lambda pair: pair,
    *,
    first: bool = False,
    remedy: str = "keep one of them",
) -> list[Pair]:
    """Pairs of a JSONL, JSON or CSV file: ``prompt`` and ``completion``, or as others call them.

    Args:
        path: of the file.
        check: gives each pair as it is to be used, or raises ``InputError``.
        first: of several answers to a prompt, the first is used; else they are an error.
        remedy: what that error says to do.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the row, from 1.
    """
    if not path.is_file():
        raise InputError("no-such-file", f"{path}: no such data file")
    if path.suffix not in (".jsonl", ".json", ".csv"):
        raise InputError("bad-data", f"{path}: expected a name ending in .jsonl, .json or .csv")
    pairs = []
    answers = Answers(first)
    number = 0
    try:
        # Spreadsheets put a byte order mark first.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = _csv_rows(stream) if path.suffix == ".csv" else json_rows(path, stream)
            for number, row in enumerate(rows, 1):
                if row is None:
                    continue
                pair = check(_pair(row))
                if answers.takes(number, pair):
                    pairs.append(pair)
                if len(pairs) > MAX_PAIRS:
                    raise InputError("too-large", f"more than {MAX_PAIRS} rows")
    except InputError as error:
        raise InputError(error.code, f"{path}, row {number}: {error}") from None
    except (UnicodeError, csv.Error, ValueError, RecursionError) as error:
        raise InputError(
            "bad-data", f"{path}, at or after row {number + 1}: broken: {error}"
        ) from None
    except OSError as error:
        raise InputError("bad-data", f"{path} cannot be read: {error.strerror}") from None
    answers.check(path, remedy)
    if not pairs:
        raise InputError("bad-data", f"{path} has no rows")
    return pairs


def json_rows(path: Path, stream: TextIO) -> Iterator[object]:
    """Rows of a ``.jsonl`` file, one a line and None for an empty one; of ``.json``, its list."""
    if path.suffix != ".json":
        yield from (json.loads(line) if line.strip() else None for line in stream)
        return
    rows = json.load(stream)
    if not isinstance(rows, list):
        raise ValueError("expected a list of rows")
    yield from rows


def _csv_rows(stream: Iterable[str]) -> Iterator[object]:
    rows = csv.DictReader(stream, strict=True)
    if rows.fieldnames is not None and _first(_folded(rows.fieldnames), _PROMPTS) is None:
        raise csv.Error("the first line names no column 'prompt'")
    return rows


def _folded(names: Iterable[str]) -> dict[str, str]:
    return {name.strip().casefold(): name for name in names}


def _first(names: dict[str, str], usual: tuple[str, ...]) -> str | None:
    return next((names[name] for name in usual if name in names), None)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its prompt and completion under these names.

    Alpaca's ``instruction``, ``input`` and ``output`` and Dolly's ``context`` and ``response`` are
    known, and a question with its answer. Of an instruction its input is a part.
    """
    if "prompt" in row:
        return {"completion": row.get(_first(_folded(row), _COMPLETIONS) or "", ""), **row}
    names = _folded(row)
    asked = _first(names, _PROMPTS)
    if asked is None:
        return row
    prompt = row[asked]
    more = _first(names, _MORE)
    if more not in (None, asked) and isinstance(prompt, str) and isinstance(row[more], str):
        prompt = f"{prompt}\n\n{row[more]}".rstrip()
    return {**row, "prompt": prompt, "completion": row.get(_first(names, _COMPLETIONS) or "", "")}


def _pair(row: object) -> Pair:
    if isinstance(row, dict) and None in row:
        raise InputError("bad-data", "more fields than the first line names")
    if isinstance(row, dict):
        refuse_judged(row)
        row = _named(row)
        if "prompt" not in row:
            found = ", ".join(str(name)[:40] for name in list(row)[:8]) or "nothing"
            raise InputError(
                "bad-data",
                f"no prompt: expected prompt and completion, instruction and output, question "
                f"and answer, or messages; found {found}",
            )
    try:
        pair = msgspec.convert(row, Pair)
    except msgspec.ValidationError as error:
        raise InputError("bad-data", wording.of(error)) from None
    for what in ("prompt", "completion"):
        try:
            size = len(getattr(pair, what).encode())
        except UnicodeEncodeError as error:
            raise InputError("bad-data", f"the {what} is no text: {error}") from None
        if size > limits.MAX_TEXT_BYTES:
            raise InputError("bad-data", f"the {what} is over {limits.MAX_TEXT_BYTES} bytes")
    if not pair.prompt:
        raise InputError("bad-data", "no prompt")
    return pair


def split_pairs(pairs: list[Pair], seed: int, share: float = 0.1) -> Split:
    """Splits by group; `share` of the groups each for validation and test."""
    groups = sorted({pair.group or pair.prompt for pair in pairs})
    random.Random(seed).shuffle(groups)
    size = max(1, int(len(groups) * share))
    test, validation = set(groups[:size]), set(groups[size : 2 * size])
    split = Split([], [], [])
    for pair in pairs:
        group = pair.group or pair.prompt
        where = split.test if group in test else split.train
        (split.validation if group in validation else where).append(pair)
    if not split.train or not split.validation:
        raise InputError(
            "bad-data",
            f"{len(groups)} prompts or groups of prompts are too few to split: "
            "training, validation and test need one each",
        )
    return split
