"""Why pip fetched nothing, in one line, out of what it writes."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

_CRASHED: Final = "ERROR: Exception:"
"""Before a traceback, whose last line says why."""

_UNREACHED: Final = re.compile(
    r"name resolution|NameResolutionError|Name or service not known|NewConnectionError"
    r"|ConnectTimeout|Network is unreachable"
)


def unreachable(text: str) -> bool:
    """Whether no package index answered: then its last line, that there is no such package, lies.

    Args:
        text: what pip wrote to standard error.
    """
    return _UNREACHED.search(text) is not None


def reason(text: str) -> str:
    """The reason.

    Args:
        text: what pip wrote to standard error.
    """
    if unreachable(text):
        return "the package index cannot be reached: look at the network, and at the name server"
    if os.strerror(errno.ENOSPC) in text:
        return "the disk is full: make room there and in the temporary folder (TMPDIR)"
    written = text.strip().splitlines()
    lines = [line for line in written if line.startswith("ERROR: ") and line != _CRASHED]
    said = (lines or written or ["it said nothing"])[-1]
    return said.removeprefix("ERROR: ")[:300]
