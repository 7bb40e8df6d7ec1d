"""Releases of the agent for boards with MicroPython: a signed list of files.

The list is the target ``agent/{version}/{code}-mpy{NN}.json``: `code` is mpy-cross's name of the
native code, `NN` the version of ``.mpy`` files and of native code in them (63: 6.3). Each file is
also the repository's ``blobs/{sha256}``, which boards fetch one by one.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from contracts import limits
from contracts.messages import Sha256, Version

MAX_LIST_BYTES: Final = 16 * limits.KIB
"""What a board reads of a list."""

FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]{1,40}\.(mpy|py)\Z")]


class MicroFile(msgspec.Struct, frozen=True):
    """A file of the package ``micro``."""

    file: FileName
    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=1, le=128 * limits.KIB)]


class MicroRelease(msgspec.Struct, frozen=True):
    """The list.

    Attributes:
        platform: mpy-cross's name of the native code, for example ``xtensawin``.
        python: ``mpy63``.
        files: of the package ``micro``.
    """

    format: Annotated[int, msgspec.Meta(ge=1, le=1)]
    name: Literal["shoal-agent"]
    version: Version
    platform: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{2,16}\Z")]
    python: Annotated[str, msgspec.Meta(pattern=r"^mpy[0-9]{2}\Z")]
    files: Annotated[list[MicroFile], msgspec.Meta(min_length=1, max_length=80)]

    @property
    def target(self) -> str:
        """Its name as a signed target."""
        return f"agent/{self.version}/{self.platform}-{self.python}.json"
