"""The journal: what says where this device's updates are.

Two files take turns. A write overwrites the older one in place and syncs it: one sync, and no
new file, where a replacement costs a file, a rename and the sync of the folder besides. What a
crash leaves of a half-written file is known by its checksum, and the other file still has what
was written before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from agent.system.filesystem import FileSystem, read_if_given
from agent.system.log import logger
from agent.update.machine import Settled, Update
from contracts import codec, limits
from contracts.bundle import sha256_of
from contracts.desired import Desired
from contracts.errors import InputError
from contracts.messages import Count, UpdateEvent

log = logger(__name__)

NAMES: Final = ("journal.0", "journal.1")
"""The two files; a record with an even number is in the first."""

MAX_BYTES: Final = 4 * limits.MIB
"""Bytes of a record."""


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


class Record(msgspec.Struct, frozen=True):
    """A file of the journal, behind a line with the sha256 of this.

    Attributes:
        number: of the write; the higher one counts.
        journal: what was written.
    """

    number: Count
    journal: Journal


class JournalFiles:
    """The journal of one device on its disk. For one thread.

    Args:
        fs: the disk.
        folder: the state folder, which must exist.
    """

    def __init__(self, fs: FileSystem, folder: Path) -> None:
        self._fs = fs
        self._folder = folder
        self._number = 0
        self._made: set[str] = set()

    def load(self) -> Journal:
        """The newest journal that is whole on disk; a new one when there is none.

        A file that is not whole was being written when the device stopped. When both are
        unreadable (an older agent, a damaged disk) they are set aside: the links still say
        what runs, and the retained desired document says what is wanted. Every work of an
        update can be done again, so that the record before is as good.

        Raises:
            OSError: the disk refuses for another reason than damage.
        """
        records: list[Record] = []
        damaged: dict[str, InputError] = {}
        for name in NAMES:
            size = self._fs.size(self._folder / name)
            if size is None:
                continue
            self._made.add(name)
            try:
                if size > MAX_BYTES:
                    raise InputError("too-large", f"{name} has {size} bytes")
                records.append(_decoded(self._read(name)))
            except InputError as error:
                damaged[name] = error
        if records:
            for name, reason in damaged.items():
                log.warning(
                    "journal not whole, the one before counts", file=name, reason=str(reason)
                )
            newest = max(records, key=lambda record: record.number)
            self._number = newest.number
            return newest.journal
        for name, reason in damaged.items():
            log.error("journal unreadable, set aside", file=name, reason=str(reason))
            if reason.code != "unreadable":
                self._set_aside(name)
        return Journal()

    def _read(self, name: str) -> bytes:
        data = read_if_given(self._fs, self._folder / name)
        if data is None:
            self._set_aside(name)
            raise InputError("unreadable", f"the disk does not give {name}")
        return data

    def _set_aside(self, name: str) -> None:
        """Moves a damaged file out of the way, with its blocks, which may be bad."""
        try:
            self._fs.rename(self._folder / name, self._folder / f"{name}.bad")
            self._made.discard(name)
            self._fs.sync_folder(self._folder)
        except OSError as error:  # it must not keep the agent from serving
            log.error("journal not set aside", file=name, reason=str(error))

    def save(self, journal: Journal) -> None:
        """Writes the journal durably. When it raises, the one before is still on disk.

        Raises:
            OSError: the disk refuses.
        """
        record = codec.encode(Record(self._number + 1, journal))
        name = NAMES[(self._number + 1) % 2]
        path = self._folder / name
        self._fs.write(path, f"{sha256_of(record)}\n".encode() + record)
        self._fs.sync(path)
        if name not in self._made:
            self._fs.sync_folder(self._folder)
            self._made.add(name)
        self._number += 1


def _decoded(data: bytes) -> Record:
    checksum, _, record = data.partition(b"\n")
    if sha256_of(record).encode() != checksum:
        raise InputError("bad-journal", "the checksum does not fit: it was not written to its end")
    return codec.decode(record, Record, what="the journal", cap=MAX_BYTES)
