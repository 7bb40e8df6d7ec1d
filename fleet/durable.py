"""Durable writes: temp file in the same folder, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Makes renames and removals in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Makes `folder` and its parents, durably; nothing when it is there."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=mode, exist_ok=True)
        sync_folder(each.parent)


class Staged:
    """A new file beside the one whose place it is to take: whole on the disk before the swap."""

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        self._mode = mode
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")

    def write(self, data: bytes) -> None:
        """Writes all of it, durably."""
        self.write_all([data])

    def write_all(self, parts: Iterable[bytes]) -> None:
        """Writes one part after another, durably."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(self._temporary, flags, self._mode), "wb") as stream:
            os.fchmod(stream.fileno(), self._mode)
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())

    def swap(self, *, overwrite: bool = True, sync: bool = True) -> None:
        """Puts it in its place.

        Args:
            overwrite: False: refuse to replace an existing file.
            sync: make that durable; False: another swap in the same folder follows at once.

        Raises:
            FileExistsError: the place is taken and `overwrite` is False.
        """
        if overwrite:
            self._temporary.replace(self._path)
        else:
            os.link(self._temporary, self._path)
        if sync:
            sync_folder(self._path.parent)


@contextmanager
def staged(path: Path, *, mode: int = 0o644) -> Iterator[Staged]:
    """A file that replaces `path` when the block says so, and else leaves no trace.

    For what must not be lost when something between fails: write the new, do the rest, swap.

    Args:
        path: the file; its folder must exist.
        mode: permissions, exact (the umask does not apply).
    """
    file = Staged(path, mode)
    try:
        yield file
    finally:
        file._temporary.unlink(missing_ok=True)


def write(path: Path, data: bytes, *, mode: int = 0o644, overwrite: bool = True) -> None:
    """Writes a whole file: after a crash `path` holds the old bytes or the new ones.

    Args:
        path: the file; its folder must exist.
        data: its new bytes.
        mode: permissions, exact (the umask does not apply).
        overwrite: False: refuse to replace an existing file.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
    """
    with staged(path, mode=mode) as file:
        file.write(data)
        file.swap(overwrite=overwrite)


def takes_writes(folder: Path) -> bool:
    """Whether the disk of a folder takes a few bytes now: it may be full, or read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError:
        return False
    return True
