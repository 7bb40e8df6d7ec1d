"""Files that somebody named: reading small ones, and what to say where a file gives an error."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Final

from contracts import limits
from contracts.errors import InputError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Whether a disk, or what somebody may use of it, is full."""
    return error.errno in _FULL


def reason(error: OSError) -> str:
    """What went wrong with which file, and what to do, for people."""
    where = f"{error.filename}: " if error.filename else ""
    hint = "; make room and run it again" if is_full(error) else ""
    return f"{where}{error.strerror or error}{hint}"


def typed(path: Path | str) -> str:
    """A path as it is typed into a shell: in quotes where it has blanks or the like."""
    return shlex.quote(str(path))


def read_small(
    path: Path,
    *,
    cap: int = limits.MAX_CONFIG_BYTES,
    what: str = "",
    hint: str = "",
    code: str = "no-such-file",
) -> bytes:
    """All bytes of a file. It may be a pipe, or a device without an end.

    Args:
        path: the file.
        cap: bytes that it may have.
        what: it is, for the message ("the recipe").
        hint: what to do where it cannot be read, for the message.
        code: of the error where it cannot be read.

    Raises:
        InputError: ``too-large``, or `code`.
    """
    named = f"{what} {path}".strip()
    try:
        with path.open("rb") as stream:
            text = stream.read(cap + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        ending = f"; {hint}" if hint else ""
        raise InputError(code, f"cannot read {named}: {reason}{ending}") from None
    if len(text) > cap:
        raise InputError("too-large", f"{named} is over {cap} bytes")
    return text
