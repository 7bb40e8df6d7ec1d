"""Writes a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from contracts.errors import InputError


def check_folder(path: Path) -> None:
    """Whether `path` is a folder that can be written to, or can be made one.

    Raises:
        InputError: ``bad-folder``.
    """
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise InputError("bad-folder", f"cannot write to {path}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError("bad-folder", f"cannot write to {path}: no permission")


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary file beside `path`, flushed to disk, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
