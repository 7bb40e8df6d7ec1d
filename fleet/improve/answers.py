"""What versions answer: the agent's program runs a bundle on texts, here."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from contracts import codec, interpreter
from contracts.bundle import Bundle
from contracts.errors import UnavailableError
from contracts.messages import BundleRef
from fleet import durable
from fleet.improve.verdict import Answered
from fleet.repository import paths
from fleet.repository.repository import Repository

MAX_ROWS: Final = 5000
"""Rows on which two versions are compared; of more, as many at equal distances."""

_RUN_S: Final = 1800.0
_PIECE: Final = 4 * 1024 * 1024


def taken_out(repository: Repository, ref: BundleRef, folder: Path) -> Bundle:
    """A published bundle as a folder, as a device would have it.

    Raises:
        InputError: ``no-such-path``, and what opening and verifying a bundle raise.
    """
    durable.make_folder(folder)
    durable.write(folder / "manifest.json", _whole(repository, paths.manifest(ref)))
    bundle = Bundle.open(folder)
    for entry in bundle.manifest.files:
        durable.make_folder((folder / entry.path).parent)
        durable.write(folder / entry.path, _whole(repository, paths.blob(entry.sha256)))
    bundle.verify()
    return bundle


def _whole(repository: Repository, path: str) -> bytes:
    parts: list[bytes] = []
    offset, total = 0, 1
    while offset < total:
        block = repository.read(path, offset, _PIECE)
        parts.append(block.data)
        offset, total = offset + len(block.data), block.total
        if not block.data:
            break
    return b"".join(parts)


class Given(msgspec.Struct, frozen=True):
    """What a bundle answers. `best`: the label that won, where it is below the threshold."""

    label: str
    confidence: float
    best: str | None = None


def labels(bundle: Path, texts: Sequence[str]) -> list[str]:
    """The label that a bundle gives to each text.

    Raises:
        UnavailableError: ``program-failed``.
    """
    return [one.label for one in given(bundle, texts)]


def given(bundle: Path, texts: Sequence[str]) -> list[Given]:
    """What a bundle answers to each text; raises as :func:`labels`."""
    lines = [" ".join(text.split()) for text in texts]
    command = interpreter.module("agent", "classify", str(bundle), "--json", "--top", "1")
    done = subprocess.run(
        command,
        input="".join(f"{line}\n" for line in lines).encode("utf-8", "replace"),
        capture_output=True,
        timeout=_RUN_S,
        check=False,
    )
    found = [
        codec.decode(line, Given, what="an answer")
        for line in done.stdout.splitlines()
        if line.strip()
    ]
    if done.returncode != 0 or len(found) != len(lines):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UnavailableError(
            "program-failed", f"{bundle.name} cannot be run: {said[-1][-300:] if said else '?'}"
        )
    return found


def answered(old: Path, new: Path, rows: Sequence[tuple[str, str]]) -> list[Answered]:
    """Both versions on rows of text and label."""
    if not rows:
        return []
    texts = [text for text, _ in rows]
    pairs = zip(rows, labels(old, texts), labels(new, texts), strict=True)
    return [Answered(label, before, after) for (_, label), before, after in pairs]


def read_rows(path: Path) -> list[tuple[str, str]]:
    """Text and label of each line; of too many rows a part that stays the same."""
    found = []
    for line in path.read_bytes().splitlines():
        row = codec.decode(line, dict[str, object], what=path.name)
        text = " ".join(str(row["text"]).split())
        if text:
            found.append((text, str(row["label"])))
    if len(found) > MAX_ROWS:
        step = len(found) / MAX_ROWS
        found = [found[int(place * step)] for place in range(MAX_ROWS)]
    return found
