"""The file system as the update engine sees it, and the helpers that make writes durable.

Everything that an update reads or writes goes through :class:`FileSystem`, one method a
system call, so that a test can stand between any two of them. Order is what makes a write
survive a power cut: temporary file, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Final, Protocol

from contracts.bundle import sha256_file

TEMPORARY = ".new"
"""Suffix of files and links that are not yet in place; whatever carries it at start is waste."""

READ_TRIES: Final = 3
"""Times that a file is read which the disk does not give."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_IN_PLACE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class FileSystem(Protocol):
    """What an update does to a disk. Every method may raise :class:`OSError`."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""

    def size(self, path: Path) -> int | None:
        """Bytes of a file or folder entry (links are followed); None when it is missing."""

    def digest(self, path: Path) -> str:
        """Hex sha256 of a file."""

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, sorted; none when it is missing."""

    def link_target(self, path: Path) -> str | None:
        """Where a symbolic link points; None when there is no link."""

    def free_bytes(self, folder: Path) -> int:
        """Bytes that an unprivileged process may still write there."""

    def make_folder(self, path: Path) -> None:
        """Makes one folder; no error when it is there."""

    def write(self, path: Path, data: bytes) -> None:
        """Creates or overwrites a file. Not durable until :meth:`sync`."""

    def append(self, path: Path, data: bytes) -> None:
        """Appends to a file, which is made when missing. Not durable until :meth:`sync`."""

    def sync(self, path: Path) -> None:
        """Makes a file's content durable."""

    def sync_folder(self, folder: Path) -> None:
        """Makes the entries of a folder durable."""

    def rename(self, old: Path, new: Path) -> None:
        """Renames in one step; an existing file or link `new` is replaced."""

    def symlink(self, target: str, path: Path) -> None:
        """Makes a symbolic link."""

    def remove(self, path: Path) -> None:
        """Removes a file, link or empty folder; no error when it is missing."""


class Disk:
    """The real file system."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""
        return path.read_bytes()

    def size(self, path: Path) -> int | None:
        """Bytes of a file (links are followed); None when it is missing."""
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def digest(self, path: Path) -> str:
        """Hex sha256 of a file."""
        return sha256_file(path)

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, sorted."""
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208  # names, not paths
        except (FileNotFoundError, NotADirectoryError):
            return []

    def link_target(self, path: Path) -> str | None:
        """Where a symbolic link points."""
        try:
            return os.readlink(path)  # noqa: PTH115  # the text of the link, not a path
        except FileNotFoundError:
            return None

    def free_bytes(self, folder: Path) -> int:
        """Bytes that an unprivileged process may still write there."""
        return shutil.disk_usage(folder).free

    def make_folder(self, path: Path) -> None:
        """Makes one folder."""
        path.mkdir(exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """Creates a file, or overwrites one in place: its blocks stay, and nothing is freed."""
        with open(os.open(path, _IN_PLACE, 0o666), "wb") as stream:  # noqa: PTH123  # a handle
            stream.write(data)
            stream.truncate()

    def append(self, path: Path, data: bytes) -> None:
        """Appends to a file."""
        with path.open("ab") as stream:
            stream.write(data)

    def sync(self, path: Path) -> None:
        """Makes a file's content durable."""
        _fsync(path, os.O_RDONLY)

    def sync_folder(self, folder: Path) -> None:
        """Makes the entries of a folder durable."""
        _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)

    def rename(self, old: Path, new: Path) -> None:
        """Renames in one step."""
        old.replace(new)

    def symlink(self, target: str, path: Path) -> None:
        """Makes a symbolic link."""
        path.symlink_to(target)

    def remove(self, path: Path) -> None:
        """Removes a file, link or empty folder."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(path.lstat().st_mode):
                path.rmdir()
            else:
                path.unlink()


def _fsync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: OSError) -> bool:
    """Whether a disk refuses for lack of room, which there may be later."""
    return error.errno in _FULL


def read_if_given(fs: FileSystem, path: Path) -> bytes | None:
    """A file's bytes; None where the disk does not give them after some tries: they are lost.

    Raises:
        OSError: another reason than an input/output error.
    """
    for _ in range(READ_TRIES):
        try:
            return fs.read(path)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
    return None


def write_durably(fs: FileSystem, path: Path, data: bytes) -> None:
    """Replaces `path` by `data` so that a crash leaves the old or the new content, whole."""
    temporary = path.with_name(path.name + TEMPORARY)
    fs.write(temporary, data)
    fs.sync(temporary)
    fs.rename(temporary, path)
    fs.sync_folder(path.parent)


def link_durably(fs: FileSystem, target: str, path: Path) -> None:
    """Points the link `path` at `target` so that a crash leaves the old or the new link."""
    if fs.link_target(path) == target:
        fs.sync_folder(path.parent)  # an earlier try may have died before it did
        return
    temporary = path.with_name(path.name + TEMPORARY)
    fs.remove(temporary)
    fs.symlink(target, temporary)
    fs.rename(temporary, path)
    fs.sync_folder(path.parent)


def make_folders(fs: FileSystem, folder: Path) -> None:
    """Makes a folder and its parents, durably."""
    if fs.size(folder) is not None:
        return
    make_folders(fs, folder.parent)
    fs.make_folder(folder)
    fs.sync_folder(folder.parent)


def remove_tree(fs: FileSystem, folder: Path) -> None:
    """Removes a folder of files and links (one level), and the folder."""
    for name in fs.names(folder):
        fs.remove(folder / name)
    fs.remove(folder)
