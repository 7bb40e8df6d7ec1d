"""A lock on an output folder, so that two builds do not mix their files."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import InputError, UnavailableError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, which is made when it is missing.

    Raises:
        InputError: ``bad-folder``.
        UnavailableError: ``folder-busy``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError("bad-folder", f"cannot write to {folder}: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UnavailableError(
                "folder-busy", f"another build writes to {folder}; wait, or choose another --out"
            ) from None
        yield
