"""A spool in memory, for devices that have no disk: simulated ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from agent.telemetry import held
from agent.telemetry.held import Key, Row
from contracts import drops
from contracts.messages import Ack

MAX_BYTES: Final = 16 * 1024 * 1024
"""Bytes of payloads, as a device's spool keeps without a setting."""


class _Kept(msgspec.Struct):
    topic: str
    payload: bytes
    boot: str
    seq: int
    precious: bool
    items: int
    told: dict[str, int]
    taken: bool = False


class MemorySpool:
    """What :class:`agent.telemetry.spool.Spool` is, without disk, ages and threads.

    Args:
        max_bytes: of payloads.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.newest = 0
        self.acknowledged = False
        self.payload_bytes = 0
        self.untold: dict[str, int] = {}
        self._kept: dict[int, _Kept] = {}
        self._ids: dict[Key, int] = {}
        self._protected: frozenset[int] = frozenset()
        self._numbered: dict[held.Stream, int] = {}

    @property
    def depth(self) -> int:
        """Messages that wait."""
        return sum(not kept.taken for kept in self._kept.values())

    @property
    def in_memory(self) -> bool:
        """Never for want of a disk: there is none."""
        return False

    @property
    def in_memory_s(self) -> float | None:
        """As `in_memory`."""
        return None

    def settle(self) -> dict[int, int] | None:
        """There is no disk to move to."""
        return None

    # Putting. -------------------------------------------------------------------------------

    def put(
        self,
        topic: str,
        payload: bytes,
        *,
        boot: str = "",
        seq: int = held.UNNUMBERED,
        precious: bool = False,
        items: int = 1,
    ) -> bool:
        """Appends a message; see :meth:`agent.telemetry.spool.Spool.put`."""
        return self._put(_Kept(topic, payload, boot, seq, precious, items, {}))

    def tell(
        self,
        topic: str,
        payload: Callable[[dict[str, int]], bytes],
        *,
        boot: str,
        seq: int,
        items: int,
    ) -> bool:
        """Appends what tells of drops; see :meth:`agent.telemetry.spool.Spool.tell`."""
        told = dict(self.untold)
        kept = self._put(_Kept(topic, payload(told), boot, seq, False, items, told))
        if kept:
            for place, number in told.items():
                self.untold[place] -= number
            self.untold = {place: number for place, number in self.untold.items() if number}
        return kept

    def count_dropped(self, place: str, number: int = 1) -> None:
        """Counts what was dropped elsewhere."""
        held.add(self.untold, {place: number})

    def _put(self, kept: _Kept) -> bool:
        if len(kept.payload) > self.max_bytes:
            self.count_dropped(drops.LARGE, kept.items)
            return False
        key = (kept.topic, kept.boot, kept.seq)
        held.note_number(self._numbered, key[:2], kept.seq)
        if kept.boot and key in self._ids:
            return True
        self.newest += 1
        self._kept[self.newest] = kept
        if kept.boot:
            self._ids[key] = self.newest
        self.payload_bytes += len(kept.payload)
        while self.payload_bytes > self.max_bytes:
            self._drop_one()
        return True

    def _drop_one(self) -> None:
        def order(number: int) -> tuple[bool, bool, bool, int]:
            one = self._kept[number]
            return (not one.taken, one.precious, number in self._protected, number)

        number = min((number for number in self._kept if number != self.newest), key=order)
        kept = self._pop(number)
        if not kept.taken:
            held.add(self.untold, kept.told)
            held.add(self.untold, {drops.FULL: kept.items})

    def _pop(self, number: int) -> _Kept:
        kept = self._kept.pop(number)
        self._ids.pop((kept.topic, kept.boot, kept.seq), None)
        self.payload_bytes -= len(kept.payload)
        return kept

    # Sending. -------------------------------------------------------------------------------

    def set_acknowledged(self, value: bool) -> None:
        """Notes whether the controller acknowledges."""
        self.acknowledged = value
        if value:
            for kept in self._kept.values():
                kept.taken = False

    def numbered(self, topic: str, boot: str) -> int | None:
        """The highest number that was put; of a device without disk, of earlier runs too."""
        return self._numbered.get((topic, boot))

    def after(self, last_id: int, limit: int, skip: Collection[str] = ()) -> list[Row]:
        """At most `limit` messages behind `last_id`, in order, that nobody took."""
        found: list[Row] = []
        for number, kept in self._kept.items():
            if number > last_id and not kept.taken and kept.topic not in skip:
                found.append(self._row(number, kept))
                if len(found) == limit:
                    break
        return found

    def row(self, key: Key) -> Row | None:
        """One message; None when it is not held any more."""
        number = self._ids.get(key)
        return None if number is None else self._row(number, self._kept[number])

    def _row(self, number: int, kept: _Kept) -> Row:
        before = kept.seq - 1
        if kept.boot and (kept.topic, kept.boot, before) not in self._ids:
            before = max(
                (
                    seq
                    for topic, boot, seq in self._ids
                    if (topic, boot) == (kept.topic, kept.boot) and seq < kept.seq
                ),
                default=-1,
            )
        return Row(number, kept.topic, kept.payload, kept.boot, kept.seq, before)

    def protect(self, ids: Collection[int]) -> None:
        """Messages that are on their way: they are dropped after their like."""
        self._protected = frozenset(ids)

    def remove(self, ids: Sequence[int]) -> None:
        """Forgets messages."""
        for number in ids:
            if number in self._kept:
                self._pop(number)

    def forget(self, topic: str, ack: Ack) -> None:
        """Forgets what the controller has."""
        for key, number in list(self._ids.items()):
            if key[:2] == (topic, ack.boot) and ack.covers(key[2]):
                self._pop(number)

    def took(self, keys: Sequence[Key]) -> None:
        """The broker took messages, and nobody acknowledges."""
        for key in keys:
            if key in self._ids:
                self._kept[self._ids[key]].taken = True
