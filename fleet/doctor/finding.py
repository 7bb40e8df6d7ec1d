"""What the doctor finds: what is wrong, and the one command or setting that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from contracts.files import typed
from fleet.folder import Fleet

Level = Literal["broken", "soon"]


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong.

    Attributes:
        part: of the fleet, as ``broker``.
        code: stable, for programs.
        message: what was expected and what was found.
        cure: a command to run, or the setting to change.
        level: ``soon``: it works still.
    """

    part: str
    code: str
    message: str
    cure: str
    level: Level = "broken"


class Patient(msgspec.Struct, frozen=True):
    """A fleet to look at.

    Attributes:
        fleet: its folder.
        clock: seconds since the epoch.
        free: bytes free, and in all, where a path is.
        files: files that a program may open here.
    """

    fleet: Fleet
    clock: Callable[[], float]
    free: Callable[[Path], tuple[int, int]]
    files: Callable[[], int]

    @property
    def here(self) -> str:
        """The option that names this folder in a command."""
        return f"--dir {typed(self.fleet.folder)}"

    @property
    def restart(self) -> str:
        """What makes anew all that is generated."""
        return f"shoal fleet up {self.here} (or restart what runs `shoal fleet serve`)"


Check = Callable[[Patient], Iterator[Finding]]
