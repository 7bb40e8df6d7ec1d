"""Copies a device's folder to its board with mpremote, checks what landed, and restarts it."""

from __future__ import annotations

import hashlib
import itertools
import os
import selectors
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from contracts import interpreter
from contracts.errors import InputError, ShoalError, UnavailableError

# mpremote says a line for each file; the largest takes about ten seconds on a slow port.
SILENCE_S: Final = 60.0

Progress = Callable[[str, int, int], None]


class _SilentError(Exception):
    """Nothing was said for too long."""


def _lines(process: subprocess.Popen[bytes], silence_s: float) -> Iterator[str]:
    """What a program says, line by line.

    Raises:
        _SilentError: `silence_s` seconds without a byte.
    """
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(silence_s):
                raise _SilentError
            data = os.read(process.stdout.fileno(), 4096)
            if not data:
                break
            *whole, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace").rstrip() for line in whole)
    if rest:
        yield rest.decode(errors="replace").rstrip()


class _Mpremote:
    """Runs mpremote on one port and keeps what it said.

    Args:
        port: serial port, or ``auto``.
        silence_s: how long it may say nothing.
    """

    def __init__(self, port: str, silence_s: float) -> None:
        self._port = port
        self._silence_s = silence_s

    def run(
        self, words: list[str], doing: str = "", heard: Callable[[str], str] = lambda _: ""
    ) -> list[str]:
        """What was said.

        Args:
            words: commands.
            doing: what begins, for a message.
            heard: is told of each line, and returns what begins with it.

        Raises:
            UnavailableError: ``board-silent``, ``board-lost``, ``no-mpremote``.
            ShoalError: ``flash-failed``.
        """
        command = interpreter.module("mpremote", "connect", self._port, *words, unbuffered=True)
        said: list[str] = []
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                for line in _lines(process, self._silence_s):
                    said.append(line)
                    doing = heard(line) or doing
            except _SilentError:
                said.append(f"nothing was heard for {self._silence_s:g} s")
                raise self._error(said, doing) from None
            finally:
                process.kill()
        if process.returncode == 0:
            return said
        raise self._error(said, doing)

    def _error(self, said: list[str], doing: str) -> ShoalError:
        last = next((line for line in reversed(said) if line), "it said nothing")
        if "No module named mpremote" in last:
            return UnavailableError("no-mpremote", "mpremote is missing: pip install mpremote")
        refused = last.startswith("mpremote: ")
        if not doing:
            if refused:  # no such port, or one that is in use
                return ShoalError("flash-failed", f"no board on {self._port}: {last}")
            return UnavailableError(
                "board-silent",
                f"the board on {self._port} does not answer: is it the right port, and does the "
                f"board run MicroPython? ({last})",
            )
        if refused:
            return ShoalError("flash-failed", f"{doing} on {self._port}: {last}")
        return UnavailableError(
            "board-lost",
            f"the board on {self._port} stopped answering while {doing} ({last}): connect it and "
            "run the command again; it goes on with the files that are missing",
        )


def _files(folder: Path) -> list[str]:
    """What is copied, in order: the program that starts the agent comes last."""
    parts = ["lib", "shoal", "main.py"]
    if not all((folder / part).exists() for part in parts):
        raise InputError(
            "not-a-board-folder",
            f"{folder} has no {', '.join(parts)}: write it with `shoal boards files`",
        )
    found = [
        path.relative_to(folder).as_posix()
        for part in parts[:2]
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    ]
    return [*found, parts[2]]


def _copy_words(folder: Path, names: list[str]) -> list[str]:
    """The commands that make the folders, copy each file, and print each file's SHA-256."""
    folders = sorted({p.as_posix() for n in names for p in Path(n).parents if p.as_posix() != "."})
    words = ["exec", f"import os\nfor d in {folders}:\n try:os.mkdir(d)\n except OSError:pass"]
    for name in names:
        words += ["+", "fs", "cp", str(folder / name), f":{name}"]
    return [*words, "+", "fs", "sha256sum", *names]


def flash(
    folder: Path,
    port: str,
    *,
    progress: Progress = lambda *_: None,
    silence_s: float = SILENCE_S,
) -> None:
    """Copies what `folder` holds to the root of the board's file system and restarts it.

    Files that are there already are skipped, so a copy that broke off is completed by another
    call. What landed is read back by the board and compared by SHA-256 before the restart.

    Args:
        folder: written by :func:`fleet.boards.folder.write_folder`.
        port: serial port, or ``auto``.
        progress: is told of each file that begins, its number from 0, and how many there are.
        silence_s: how long the board may say nothing.

    Raises:
        InputError: ``not-a-board-folder``.
        UnavailableError: ``board-silent``, ``board-lost``, ``no-mpremote``.
        ShoalError: ``flash-failed``, ``flash-differs``.
    """
    names = _files(folder)
    copies = {f"cp {folder / name} :{name}": number for number, name in enumerate(names)}
    board = _Mpremote(port, silence_s)

    def heard(line: str) -> str:
        if line in copies:
            number = copies[line]
            progress(names[number], number, len(names))
            return f"{names[number]} was copied, file {number + 1} of {len(names)}"
        return f"{line.split(':')[-1]} was read back" if line.startswith("sha256sum :") else ""

    said = board.run(_copy_words(folder, names), heard=heard)
    sums = dict(itertools.pairwise(said))
    for name in names:
        wanted = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if sums.get(f"sha256sum :{name}") != wanted:
            raise ShoalError(
                "flash-differs",
                f"{name} is not on the board as it was sent: the line to {port} spoils data; "
                "use another cable or port and run the command again",
            )
    board.run(["resume", "reset"], doing="it was restarted")
    progress("", len(names), len(names))
