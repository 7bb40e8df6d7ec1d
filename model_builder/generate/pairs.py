"""Prompts with their completions: reading, checking, splitting."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import msgspec

from contracts import limits
from contracts.errors import InputError

MAX_PAIRS = 2_000_000


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


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a JSONL or CSV file with ``prompt`` and ``completion``.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the row.
    """
    if not path.is_file():
        raise InputError("no-such-file", f"{path}: no such data file")
    if path.suffix not in (".jsonl", ".csv"):
        raise InputError("bad-data", f"{path}: expected a name ending in .jsonl or .csv")
    pairs = []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream) if path.suffix == ".csv" else map(_parsed, stream)
            for number, row in enumerate(rows, 1):
                if row is None:
                    continue
                try:
                    pair = msgspec.convert(row, Pair)
                except msgspec.ValidationError as error:
                    raise InputError("bad-data", f"{path}, row {number}: {error}") from None
                if not pair.prompt or len(pair.prompt.encode()) > limits.MAX_TEXT_BYTES:
                    raise InputError("bad-data", f"{path}, row {number}: no prompt, or too long")
                pairs.append(pair)
                if len(pairs) > MAX_PAIRS:
                    raise InputError("too-large", f"{path} has more than {MAX_PAIRS} rows")
    except (UnicodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise InputError("bad-data", f"{path} is broken: {error}") from None
    if not pairs:
        raise InputError("bad-data", f"{path} has no rows")
    return pairs


def _parsed(line: str) -> object:
    return json.loads(line) if line.strip() else None


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
        raise InputError("bad-data", f"{len(groups)} groups of pairs are too few to split")
    return split
