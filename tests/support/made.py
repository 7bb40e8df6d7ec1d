"""What several tests begin with and none of them tests: made once a run, by who needs it first.

The workers of a run share a folder; it goes when the run ends, so nothing is taken from an
earlier one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_FOLDER = "SHOAL_TESTS_MADE"


def begin() -> str | None:
    """Makes the folder that this process and its workers share; None: it is another's."""
    if _FOLDER in os.environ:
        return None
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="shoal-made-")
    return os.environ[_FOLDER]


def end(folder: str) -> None:
    """Removes it."""
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.pop(_FOLDER, None)


def once(what: str, make: Callable[[Path], object], folder: Path) -> None:
    """Fills `folder` with a copy of what `make` writes.

    Args:
        what: names it, with all that it depends on.
        make: writes it into an empty folder.
        folder: the caller's own; made where it is missing.
    """
    shared = os.environ.get(_FOLDER)
    if shared is None:  # outside of a run
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
        return
    kept = Path(shared) / hashlib.sha256(what.encode()).hexdigest()
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            making = Path(tempfile.mkdtemp(dir=shared))
            make(making)
            making.rename(kept)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
