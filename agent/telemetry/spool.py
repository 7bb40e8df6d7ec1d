"""The spool: messages that must reach the controller, on disk until it has committed them.

SQLite with a write-ahead log. Bounded by bytes and by age; the oldest telemetry goes first,
update events last, and what was dropped is counted by place and told. While the file cannot be
opened (the disk is full or read-only), and from when the disk takes no more on, messages wait in
memory; they move to the file once it can be written.

A board without a clock of its own does not know how old a message is until its clock is set:

- What this run put, in file or memory, moves with its clock when that is set, forward or back:
  its age is what the monotonic clock says. Time in which the board sleeps does not count.
- What an earlier run put while the clock was not set (before
  :data:`agent.system.clock.EARLIEST`) counts
  as put at the moment at which a later run has a clock that can be right. Until then nothing is
  dropped by age.
- What an earlier run put with a clock that was wrong and could be right keeps that time. If that
  was behind, it is dropped early; if it was ahead, late, or when there is no room.

Bytes are bounded all the time.

Over 400 lines: one queue, whose rules hold over the file and the memory together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agent.system.log import logger
from agent.telemetry import held
from agent.telemetry.held import Key, Row
from agent.telemetry.table import UNUSABLE, Entry, Table, is_damage
from contracts import drops
from contracts.messages import Ack

log = logger(__name__)

MAX_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""Bytes of payloads that wait in memory at most, however much a file may hold."""

STEP_SHARE: Final = 0.01
"""Share of the age limit by which the wall clock may leave the monotonic clock before the
messages of this run are written anew, with other times: no age depends on less, and a board that
sleeps often does not wear its memory card out."""

RETRY_S: Final = 60.0
"""Seconds after which that is tried again when the disk would not take it."""


class Spool:
    """Messages in the order in which they were put. Safe from any thread.

    Args:
        path: of the database. A damaged one is set aside; while the disk does not let it be
            opened or written, messages wait in memory, and :meth:`settle` moves them.
        max_bytes: of payloads; in memory at most :data:`MAX_MEMORY_BYTES`.
        max_age_s: of a message.
        time: seconds since the epoch.
        monotonic: seconds that only grow; None: nobody sets the clock during this run.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        max_age_s: float,
        time: Callable[[], float],
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._time = time
        self._monotonic = monotonic or time
        self._ahead = self._time() - self._monotonic()
        self._move_due = 0.0
        self._lock = threading.Lock()
        self._lost: dict[str, int] = {}
        self._without_file = False
        self._beside: Table | None = None
        self._memory_since: float | None = None
        self._unforgotten: dict[tuple[str, str], Ack] = {}
        self._numbered: dict[held.Stream, int] = {}
        try:
            self._table = self._open()
        except (*UNUSABLE, OSError) as error:
            log.error(
                "spool kept in memory, lost if the power fails: its file cannot be opened",
                file=str(path),
                reason=str(error),
            )
            self._without_file = True
            self._table = self._new_in_memory()

    @property
    def in_memory(self) -> bool:
        """Whether what is put now waits in memory."""
        return self._without_file or self._beside is not None

    @property
    def in_memory_s(self) -> float | None:
        """For how many seconds it does; None: it does not."""
        since = self._memory_since
        return self._monotonic() - since if self.in_memory and since is not None else None

    def _new_in_memory(self) -> Table:
        self._memory_since = self._monotonic()
        return Table(None, min(self._max_bytes, MAX_MEMORY_BYTES), self._max_age_s)

    def _tables(self) -> list[Table]:
        """In the order in which they were filled."""
        return [self._table] if self._beside is None else [self._table, self._beside]

    def _open(self) -> Table:
        """The table in the file; raises what the disk, or a database on it, raises."""
        try:
            return Table(self._path, self._max_bytes, self._max_age_s)
        except UNUSABLE as error:
            if not is_damage(error):
                raise
            log.error("spool unreadable, set aside", file=str(self._path), reason=str(error))
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.replace(file.with_name(file.name + ".bad"))
        held.add(self._lost, {drops.DAMAGED: 1})
        return Table(self._path, self._max_bytes, self._max_age_s)

    def settle(self) -> dict[int, int] | None:
        """Moves what waits in memory to the file, behind what is there, if it can be opened now.

        Returns:
            The new id of each moved message by the old one; None: everything is where it was.
        """
        with self._lock:
            if not self.in_memory:
                return None
            waits = self._tables()[-1]
            try:
                file = self._open() if self._without_file else self._table
            except (*UNUSABLE, OSError):
                return None
            try:
                moved = file.take_over(waits, self._now())
            except UNUSABLE:
                file.close() if self._without_file else file.roll_back()
                return None
            waits.close()
            self._table, self._beside, self._without_file = file, None, False
            for (topic, _), ack in self._unforgotten.items():
                self._try(file, partial(Table.forget, topic=topic, ack=ack))
            self._unforgotten.clear()
        log.info("spool moved from memory to its file", file=str(self._path), messages=len(moved))
        return moved

    def _now(self) -> float:
        """The time, by the clock by which the messages of this run are stamped."""
        now, running = self._time(), self._monotonic()
        step = now - running - self._ahead
        if abs(step) < STEP_SHARE * self._max_age_s:
            return now
        if running < self._move_due:
            return now - step
        try:
            self._table.clock_moved(step)
            if self._beside is not None:
                self._beside.clock_moved(step)
        except UNUSABLE as error:
            self._table.roll_back()
            self._move_due = running + RETRY_S
            log.error("spool not moved with the clock", reason=str(error))
            return now - step
        self._ahead += step
        log.info("spool moved with the clock", seconds=round(step, 1))
        return now

    @property
    def depth(self) -> int:
        """Messages that wait."""
        return sum(table.count - table.taken for table in self._tables())

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads that are kept."""
        return sum(table.bytes for table in self._tables())

    @property
    def newest(self) -> int:
        """The id of the message that was put last; 0: there was none."""
        return max(table.newest for table in self._tables())

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
        """Appends a message.

        Args:
            topic: where it goes.
            payload: what goes there.
            boot: in which it was numbered.
            seq: its number; one that is there already is not put again.
            precious: dropped only when nothing else is left to drop.
            items: how much is lost with it.

        Returns:
            Whether it was kept; else it counts as dropped: it is larger than all messages together
            may be.
        """
        return self._put(Entry(topic, lambda _: payload, False, boot, seq, precious, items))

    def tell(
        self,
        topic: str,
        payload: Callable[[dict[str, int]], bytes],
        *,
        boot: str,
        seq: int,
        items: int,
    ) -> bool:
        """Appends a message that tells what was dropped; each drop is told by one.

        Args:
            topic: where it goes.
            payload: what goes there, made from what was dropped by place.
            boot: in which it was numbered.
            seq: its number.
            items: how much is lost with it.

        Returns:
            Whether it was kept, as :meth:`put`.
        """
        return self._put(Entry(topic, payload, True, boot, seq, False, items))

    def _put(self, entry: Entry) -> bool:
        kept: bool | None
        with self._lock:
            try:
                kept = self._tables()[-1].put(entry, self._now(), self._lost)
            except UNUSABLE as error:
                self._tables()[-1].roll_back()
                kept = self._put_beside(entry, error)
                if kept is None:
                    return False
            if not kept:
                held.add(self._lost, {drops.LARGE: entry.items})
                log.error("message larger than the spool", topic=entry.topic)
                return False
            self._lost = {}
            held.note_number(self._numbered, (entry.topic, entry.boot), entry.seq)
        return True

    def _put_beside(self, entry: Entry, error: Exception) -> bool | None:
        """The disk takes no more: from now on messages wait in memory; None: not even there."""
        if not self.in_memory:
            log.error(
                "spool goes on in memory, lost if the power fails: its file takes no more",
                file=str(self._path),
                reason=str(error),
            )
            try:
                self._beside = self._new_in_memory()
                return self._beside.put(entry, self._now(), self._lost)
            except UNUSABLE as failure:
                error = failure
        held.add(self._lost, {drops.REFUSED: entry.items})
        log.error("spool refused a message", reason=str(error))
        return None

    def count_dropped(self, place: str, number: int = 1) -> None:
        """Counts what was dropped elsewhere on the device, to be told."""
        with self._lock:
            held.add(self._lost, {place: number})

    @property
    def untold(self) -> dict[str, int]:
        """What was dropped and no message tells, by place."""
        with self._lock:
            counts = dict(self._lost)
            for table in self._tables():
                held.add(counts, table.untold)
            return counts

    # Sending. -------------------------------------------------------------------------------

    @property
    def acknowledged(self) -> bool:
        """Whether the controller has ever acknowledged; kept over restarts."""
        return self._table.acknowledged

    def set_acknowledged(self, value: bool) -> None:
        """Notes it. On ``True`` nothing counts as taken any more."""
        with self._lock:
            for table in self._tables():
                try:
                    table.set_acknowledged(value)
                except UNUSABLE as error:
                    table.roll_back()
                    table.acknowledged = value
                    log.error("spool refused a note", reason=str(error))

    def numbered(self, topic: str, boot: str) -> int | None:
        """The highest number of a topic and boot that was put during this run; None: none was."""
        return self._numbered.get((topic, boot))

    def after(self, last_id: int, limit: int, skip: Collection[str] = ()) -> list[Row]:
        """At most `limit` messages behind `last_id`, in order.

        Without those on topics to skip and those that the broker took.
        """
        with self._lock:
            try:
                rows = self._of_file(last_id, limit, skip)
                if self._beside is not None and len(rows) < limit:
                    more = self._beside.after(last_id, limit - len(rows), skip)
                    rows += [self._follows(row) for row in more]
                return rows
            except UNUSABLE as error:
                log.error("spool cannot be read", reason=str(error))
                return []

    def row(self, key: Key) -> Row | None:
        """One message; None when it is not held any more."""
        with self._lock:
            try:
                row = self._table.row(key)
                if row is None and self._beside is not None:
                    row = self._beside.row(key)
                    row = row and self._follows(row)
                return None if row is None or self._is_forgotten(row) else row
            except UNUSABLE as error:
                log.error("spool cannot be read", reason=str(error))
                return None

    def _of_file(self, last_id: int, limit: int, skip: Collection[str]) -> list[Row]:
        """As :meth:`after`, of the file alone, without what it could not forget."""
        found: list[Row] = []
        while True:
            wanted = limit - len(found)
            rows = self._table.after(last_id, wanted, skip)
            found += [row for row in rows if not self._is_forgotten(row)]
            if len(rows) < wanted or len(found) == limit:
                return found
            last_id = rows[-1].id

    def _is_forgotten(self, row: Row) -> bool:
        ack = self._unforgotten.get((row.topic, row.boot))
        return ack is not None and row.seq >= 0 and ack.covers(row.seq)

    def _follows(self, row: Row) -> Row:
        """A message in memory, with the one before it that may be in the file."""
        if row.before >= 0 or not row.boot:
            return row
        return msgspec.structs.replace(row, before=self._table.before(row.key))

    def protect(self, ids: Collection[int]) -> None:
        """Messages that are on their way: they are dropped after their like."""
        for table in self._tables():
            table.protected = frozenset(ids)

    def remove(self, ids: Sequence[int]) -> None:
        """Forgets messages."""
        if ids:
            self._changed(lambda table: table.remove(ids))

    def forget(self, topic: str, ack: Ack) -> None:
        """Forgets what the controller has; what a full disk keeps is not given any more."""
        if not self._changed(lambda table: table.forget(topic, ack)):
            with self._lock:
                self._unforgotten[topic, ack.boot] = ack

    def took(self, keys: Sequence[Key]) -> None:
        """The broker took messages, and nobody acknowledges.

        They are dropped before all others, and are not counted then.
        """
        self._changed(lambda table: table.took(keys))

    def readdress(self, above: str, device: str) -> None:
        """What was put under another name of this device goes out under its own.

        The broker takes nothing else from it after the device was renamed.

        Args:
            above: what topics of devices begin with, ``shoal/v1/FLEET/d/``.
            device: its name.
        """
        self._changed(lambda table: table.readdress(above, device))

    def _changed(self, change: Callable[[Table], None]) -> bool:
        with self._lock:
            done = [self._try(table, change) for table in self._tables()]
            return all(done)

    def _try(self, table: Table, change: Callable[[Table], None]) -> bool:
        try:
            change(table)
        except UNUSABLE as error:  # they are sent again, and counted once
            table.roll_back()
            log.error("spool refused to forget", reason=str(error))
            return False
        return True

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            if self.in_memory and self._tables()[-1].count:
                lost = self._tables()[-1].count
                log.error("spool lost with the memory that it was in", messages=lost)
            for table in self._tables():
                table.close()
