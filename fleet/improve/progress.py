"""How far the next version of a model is, and how it compares: from what is on the disk."""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec

from contracts import codec
from contracts.errors import ShoalError
from contracts.topics import check_name
from fleet.folder import Fleet
from fleet.improve.verdict import Verdict
from fleet.improvements import FOLDER, LOG, VERDICT, Improving, every

_TAIL: Final = 16 * 1024
_CAP: Final = 64 * 1024 * 1024
_SAID: Final = 6


class Progress(msgspec.Struct, frozen=True):
    """How far the next version of a model is.

    Attributes:
        newest: of its improvements; None: there was none.
        said: what the program said, the newest last.
        found: how the two versions compare; None: not yet.
    """

    newest: Improving | None
    said: list[str]
    found: Verdict | None


def progress(fleet: Fleet, model: str) -> Progress:
    """Of one model, from what is on the disk.

    Raises:
        InputError: ``bad-name``.
    """
    home = fleet.folder / FOLDER / check_name(model, "model")
    newest = next((one for one in every(fleet) if one.name == model), None)
    said: list[str] = []
    with contextlib.suppress(OSError):
        with (home / LOG).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL))
            lines = stream.read().decode("utf-8", "replace").splitlines()
        said = [line for line in lines if line.strip() and not line.startswith("{")][-_SAID:]
    found: Verdict | None = None
    if newest is not None:
        with contextlib.suppress(ShoalError, OSError):
            file = home / newest.version / VERDICT
            found = codec.decode(file.read_bytes(), Verdict, what=str(file), cap=_CAP)
    return Progress(newest, said, found)
