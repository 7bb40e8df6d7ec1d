"""A whole folder put in the place of another: a bundle built again, a board's files."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_HERE: Final = -100
_EXCHANGE: Final = 2
"""``AT_FDCWD`` and ``RENAME_EXCHANGE`` of renameat2(2)."""


def put_folder(new: Path, place: Path) -> None:
    """Puts the folder `new` where `place` is, and deletes what was there.

    At no moment is there nothing at `place`, where the system can exchange two names in one
    step (Linux); elsewhere the old folder comes back when the new one cannot take its place.

    Args:
        new: a folder beside `place`, whole.
        place: a folder, or nothing.

    Raises:
        OSError: `place` is as it was.
    """
    if not place.exists():
        new.rename(place)
    elif _exchanged(new, place):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.old."))
        place.rename(old / place.name)
        try:
            new.rename(place)
        except OSError:
            (old / place.name).rename(place)
            raise
        finally:
            if place.exists():
                shutil.rmtree(old, ignore_errors=True)
    _sync(place.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False where the system or the file system cannot."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if exchange(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
