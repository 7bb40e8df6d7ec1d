"""A disk that fails on purpose: the production interface over a real folder.

It keeps beside the real folder what a power cut would leave: a file's content counts from its
last ``sync``, a folder's entries from the last ``sync_folder``. At one operation it dies
(:class:`PowerCut`) or refuses (:class:`OSError`), as real disks do.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Literal

from agent.system.filesystem import Disk

Fault = Literal["killed", "power-cut", "torn", "ENOSPC", "EIO"]
CRASHES: tuple[Fault, ...] = ("killed", "power-cut", "torn")
ERRORS: tuple[Fault, ...] = ("ENOSPC", "EIO")

WRITES = frozenset({"make_folder", "write", "append", "symlink", "rename", "sync", "sync_folder"})


class PowerCut(BaseException):
    """The device lost power, or the process its life. No ``except Exception`` survives it."""


class _File:
    def __init__(self, durable: bytes | None = None) -> None:
        self.durable = durable


class _Link:
    def __init__(self, target: str) -> None:
        self.target = target


class _Folder:
    def __init__(self) -> None:
        self.entries: dict[str, _Node] = {}
        self.durable: dict[str, _Node] = {}


_Node = _File | _Link | _Folder


class FaultyDisk(Disk):
    """A real folder that fails at operation number `at` (from 0) with `fault`.

    Args:
        root: an existing folder, taken as durable as it is.
        at: which operation fails; None: none does.
        fault: how.
    """

    def __init__(self, root: Path, at: int | None = None, fault: Fault = "killed") -> None:
        self.root = root
        self.at = at
        self.fault = fault
        self.operations: list[str] = []
        self.fired = False
        self._tree = self._scan(root)

    def _scan(self, path: Path) -> _Folder:
        folder = _Folder()
        for child in path.iterdir():
            if child.is_symlink():
                folder.entries[child.name] = _Link(str(child.readlink()))
            elif child.is_dir():
                folder.entries[child.name] = self._scan(child)
            else:
                folder.entries[child.name] = _File(child.read_bytes())
        folder.durable = dict(folder.entries)
        return folder

    def _folder(self, path: Path) -> _Folder:
        node: _Node = self._tree
        for part in path.relative_to(self.root).parts:
            assert isinstance(node, _Folder)
            node = node.entries[part]
        assert isinstance(node, _Folder)
        return node

    # Faults. ----------------------------------------------------------------------------

    def _operation(self, name: str, path: Path, data: bytes = b"") -> None:
        number = len(self.operations)
        self.operations.append(name)
        if number != self.at:
            return
        self.fired = True
        if name in ("write", "append") and data and self.fault != "EIO":
            # A write is not atomic: half of it may be there.
            self._put(path, data[: len(data) // 2], extend=name == "append")
        if self.fault in ("ENOSPC", "EIO"):
            code = errno.ENOSPC if self.fault == "ENOSPC" else errno.EIO
            raise OSError(code, self.fault, str(path))
        if self.fault == "power-cut":
            self._write_back(self._tree, self.root, torn=False)
        elif self.fault == "torn":
            self._write_back(self._tree, self.root, torn=True)
        raise PowerCut(f"{self.fault} at operation {number}, {name} {path}")

    def _write_back(self, folder: _Folder, path: Path, *, torn: bool) -> None:
        """Makes the real folder what the power cut leaves of it.

        `torn`: the entries all reached the disk, but of each unsynced content only half of
        what was new; without it nothing unsynced did.
        """
        entries = folder.entries if torn else folder.durable
        contents = {
            name: self._content(node, path / name, torn=torn)
            for name, node in entries.items()
            if isinstance(node, _File)
        }
        existing = {child.name for child in path.iterdir()} if path.is_dir() else set()
        for name in existing - set(entries):
            child = path / name
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
        path.mkdir(exist_ok=True)
        for name, node in entries.items():
            child = path / name
            if isinstance(node, _Folder):
                self._write_back(node, child, torn=torn)
            elif isinstance(node, _Link):
                child.unlink(missing_ok=True)
                child.symlink_to(node.target)
            else:
                child.write_bytes(contents[name])

    @staticmethod
    def _content(node: _File, path: Path, *, torn: bool) -> bytes:
        durable = node.durable or b""
        if not torn or not path.is_file():
            return durable
        now = path.read_bytes()
        if now == durable:
            return durable
        if now.startswith(durable):
            return now[: len(durable) + (len(now) - len(durable)) // 2]
        return now[: len(now) // 2]

    def _put(self, path: Path, data: bytes, *, extend: bool) -> None:
        entries = self._folder(path.parent).entries
        if not isinstance(entries.get(path.name), _File):
            entries[path.name] = _File()
        if extend:
            super().append(path, data)
        else:
            super().write(path, data)

    # The interface. ---------------------------------------------------------------------

    def read(self, path: Path) -> bytes:
        """Counted."""
        self._operation("read", path)
        return super().read(path)

    def size(self, path: Path) -> int | None:
        """Counted."""
        self._operation("size", path)
        return super().size(path)

    def digest(self, path: Path) -> str:
        """Counted."""
        self._operation("digest", path)
        return super().digest(path)

    def names(self, folder: Path) -> list[str]:
        """Counted."""
        self._operation("names", folder)
        return super().names(folder)

    def link_target(self, path: Path) -> str | None:
        """Counted."""
        self._operation("link_target", path)
        return super().link_target(path)

    def free_bytes(self, folder: Path) -> int:
        """Counted."""
        self._operation("free_bytes", folder)
        return super().free_bytes(folder)

    def make_folder(self, path: Path) -> None:
        """Counted."""
        self._operation("make_folder", path)
        super().make_folder(path)
        self._folder(path.parent).entries.setdefault(path.name, _Folder())

    def write(self, path: Path, data: bytes) -> None:
        """Counted; may write half."""
        self._operation("write", path, data)
        self._put(path, data, extend=False)

    def append(self, path: Path, data: bytes) -> None:
        """Counted; may write half."""
        self._operation("append", path, data)
        self._put(path, data, extend=True)

    def sync(self, path: Path) -> None:
        """Counted."""
        self._operation("sync", path)
        node = self._folder(path.parent).entries[path.name]
        assert isinstance(node, _File)
        node.durable = path.read_bytes()

    def sync_folder(self, folder: Path) -> None:
        """Counted."""
        self._operation("sync_folder", folder)
        node = self._folder(folder)
        node.durable = dict(node.entries)

    def rename(self, old: Path, new: Path) -> None:
        """Counted."""
        self._operation("rename", new)
        super().rename(old, new)
        self._folder(new.parent).entries[new.name] = self._folder(old.parent).entries.pop(old.name)

    def symlink(self, target: str, path: Path) -> None:
        """Counted."""
        self._operation("symlink", path)
        super().symlink(target, path)
        self._folder(path.parent).entries[path.name] = _Link(target)

    def remove(self, path: Path) -> None:
        """Counted."""
        self._operation("remove", path)
        super().remove(path)
        try:
            self._folder(path.parent).entries.pop(path.name, None)
        except KeyError:
            return
