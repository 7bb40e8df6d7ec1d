"""The journal: the one file that says where this device's updates are."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.filesystem import FileSystem, write_durably
from agent.log import logger
from agent.update.machine import Settled, Update
from contracts import codec, limits
from contracts.errors import InputError
from contracts.messages import Count, Desired, UpdateEvent

log = logger(__name__)


class Journal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What must survive a power cut.

    Attributes:
        desired: the newest desired document that was accepted.
        reached: the newest revision whose every slot has ended, one way or the other.
        update: the running update, or the last one.
        settled: failed wishes by slot.
        event_seq: number of the next update event.
        last_event: the newest update event.
    """

    desired: Desired | None = None
    reached: Count = 0
    update: Update | None = None
    settled: dict[str, Settled] = {}
    event_seq: Count = 0
    last_event: UpdateEvent | None = None


def load(fs: FileSystem, path: Path) -> Journal:
    """The journal on disk; a new one when there is none.

    A journal that cannot be decoded (an older agent, a damaged disk) is set aside: the links
    still say what runs, and the retained desired document says what is wanted.
    """
    size = fs.size(path)
    if size is None:
        return Journal()
    try:
        if size > 4 * limits.MIB:
            raise InputError("too-large", f"{path} has {size} bytes")
        return codec.decode(fs.read(path), Journal, what="the journal", cap=4 * limits.MIB)
    except InputError as error:
        log.error("journal unreadable, set aside", reason=str(error))
        fs.rename(path, path.with_name(path.name + ".bad"))
        fs.sync_folder(path.parent)
        return Journal()


def save(fs: FileSystem, path: Path, journal: Journal) -> None:
    """Writes the journal durably."""
    write_durably(fs, path, codec.encode(journal))
