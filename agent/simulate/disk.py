"""A disk in memory. What many devices have is there once, by its digest."""

from __future__ import annotations

import errno
import weakref
from pathlib import Path
from typing import Any, Final, Protocol, cast

from contracts.bundle import Bundle, sha256_of

FREE_BYTES: Final = 8_000_000_000
"""What every such disk has left."""

SHARED_BYTES: Final = 4096
"""Files from this size on are shared."""


class Content:
    """Bytes that many files may have.

    Args:
        data: the bytes.
        sha256: of them.
    """

    __slots__ = ("__weakref__", "data", "sha256")

    def __init__(self, data: bytes, sha256: str) -> None:
        self.data = data
        self.sha256 = sha256


class Contents:
    """The files of all disks of a process, by digest; what no disk has any more is let go."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[str, Content] = weakref.WeakValueDictionary()

    def of(self, data: bytes) -> Content:
        """The one copy of some bytes, whose digest is worked out here."""
        sha256 = sha256_of(data)
        found = self._known.get(sha256)
        if found is None:
            found = self._known[sha256] = Content(data, sha256)
        return found


class _Link(str):
    """Where a symbolic link points."""

    __slots__ = ()


_Folder = dict[str, Any]
"""Entries by name: a folder, a link, bytes that are the file's own, or shared content."""


class MemoryDisk:
    """A disk of one simulated device (:class:`agent.system.filesystem.FileSystem`).

    Everything is durable at once: power cuts have their own tests, on real folders.

    Args:
        contents: of all disks of the process.
    """

    __slots__ = ("_contents", "_root", "free")

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._root: _Folder = {}
        self.free = FREE_BYTES

    def _node(self, path: Path, *, follow: bool = True) -> Any:
        node: Any = self._root
        parts = [part for part in path.parts if part != "/"]
        for number, part in enumerate(parts):
            if not isinstance(node, dict) or part not in node:
                return None
            node = node[part]
            if isinstance(node, _Link) and (follow or number < len(parts) - 1):
                there = Path(*parts[:number]).joinpath(node)
                node = self._node(_plain(there))
        return node

    def _folder(self, path: Path) -> _Folder:
        node = self._node(path)
        if not isinstance(node, dict):
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path))
        return node

    def _file(self, path: Path) -> bytes | bytearray | Content:
        node = self._node(path)
        if node is None or isinstance(node, dict):
            raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
        return cast("bytes | bytearray | Content", node)

    # The interface. ---------------------------------------------------------------------

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""
        node = self._file(path)
        return node.data if isinstance(node, Content) else bytes(node)

    def size(self, path: Path) -> int | None:
        """Bytes of a file or folder entry; None when it is missing."""
        node = self._node(path)
        if isinstance(node, Content):
            return len(node.data)
        return None if node is None else len(node)

    def digest(self, path: Path) -> str:
        """Hex sha256 of a file; of a large one it is worked out once for all that have it."""
        node = self._file(path)
        if isinstance(node, Content):
            return node.sha256
        if len(node) < SHARED_BYTES:
            return sha256_of(bytes(node))
        content = self._contents.of(bytes(node))
        self._folder(path.parent)[path.name] = content
        return content.sha256

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, sorted; none when it is missing."""
        node = self._node(folder)
        return sorted(node) if isinstance(node, dict) else []

    def link_target(self, path: Path) -> str | None:
        """Where a symbolic link points; None when there is no link."""
        node = self._node(path, follow=False)
        return str(node) if isinstance(node, _Link) else None

    def free_bytes(self, folder: Path) -> int:
        """What is left, by the device's own account."""
        del folder
        return self.free

    def make_folder(self, path: Path) -> None:
        """Makes one folder; no error when it is there."""
        self._folder(path.parent).setdefault(path.name, {})

    def write(self, path: Path, data: bytes) -> None:
        """Creates or overwrites a file."""
        self._folder(path.parent)[path.name] = data

    def append(self, path: Path, data: bytes) -> None:
        """Appends to a file, which is made when missing."""
        folder = self._folder(path.parent)
        there = folder.get(path.name)
        if there is None:
            folder[path.name] = data
        elif isinstance(there, bytearray):
            there += data
        else:
            folder[path.name] = bytearray(self.read(path)) + data

    def sync(self, path: Path) -> None:
        """It is durable already."""
        self._file(path)

    def sync_folder(self, folder: Path) -> None:
        """It is durable already."""
        self._folder(folder)

    def rename(self, old: Path, new: Path) -> None:
        """Renames in one step."""
        source = self._folder(old.parent)
        if old.name not in source:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", str(old))
        self._folder(new.parent)[new.name] = source.pop(old.name)

    def symlink(self, target: str, path: Path) -> None:
        """Makes a symbolic link."""
        self._folder(path.parent)[path.name] = _Link(target)

    def remove(self, path: Path) -> None:
        """Removes a file, link or empty folder; no error when it is missing."""
        parent = self._node(path.parent)
        if not isinstance(parent, dict):
            return
        node = parent.get(path.name)
        if isinstance(node, dict) and node:
            raise OSError(errno.ENOTEMPTY, "the folder is not empty", str(path))
        parent.pop(path.name, None)

    def bundle(self, folder: Path) -> Bundle:
        """Opens a bundle's folder on this disk, as :meth:`contracts.bundle.Bundle.open`."""
        return Bundle.open(cast(Path, _Place(self, folder)))


def _plain(path: Path) -> Path:
    """Without ``..``: all folders here are real ones."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)


class _Stat(Protocol):
    st_size: int


class _Place:
    """A path on such a disk, as far as a bundle's reader uses one.

    Args:
        disk: the disk.
        path: on it.
    """

    __slots__ = ("_disk", "_path", "st_size")

    def __init__(self, disk: MemoryDisk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def __truediv__(self, name: str) -> _Place:
        return _Place(self._disk, self._path / name)

    def __str__(self) -> str:
        return str(self._path)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return isinstance(self._disk._node(self._path), dict)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._disk._node(self._path) is not None and not self.is_dir()

    def stat(self) -> _Stat:
        """Its size."""
        self.st_size = self._disk.size(self._path) or 0
        return self

    def read_bytes(self) -> bytes:
        """Its bytes."""
        return self._disk.read(self._path)
