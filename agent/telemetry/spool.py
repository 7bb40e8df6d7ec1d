"""The spool: messages that must reach the controller, on disk until the broker has them.

SQLite with a write-ahead log. Bounded by bytes and by age; the oldest telemetry goes first,
update events last, and what was dropped is counted. While the file cannot be opened (the disk
is full or read-only) messages wait in memory; they move to the file once it can.

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
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.system.clock import EARLIEST
from agent.system.log import logger

log = logger(__name__)

MAX_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""Bytes of payloads that wait in memory at most, however much a file may hold."""

STEP_SHARE: Final = 0.01
"""Share of the age limit by which the wall clock may leave the monotonic clock before the
messages of this run are written anew, with other times: no age depends on less, and a board that
sleeps often does not wear its memory card out."""

RETRY_S: Final = 60.0
"""Seconds after which that is tried again when the disk would not take it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    precious INTEGER NOT NULL,
    created REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""

_FIRST_IN_MEMORY: Final = 1 << 62
"""Ids in memory begin behind this, so that none is ever one of the file too."""

_REFUSED: Final = (sqlite3.Error, UnicodeDecodeError)
"""What a database raises that cannot be used: of a damaged one the text may not be UTF-8."""

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""What damaged content gives. ``SQLITE_ERROR`` is wrong SQL, and ours is right: the tables of a
damaged file have other columns, or its format is none. A disk that refuses gives other codes."""


def _is_damage(error: Exception) -> bool:
    """Whether the content of the file is at fault, and not the disk that it is on."""
    if isinstance(error, UnicodeDecodeError):
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


class Row(msgspec.Struct, frozen=True):
    """A spooled message."""

    id: int
    topic: str
    payload: bytes


class _Table:
    """The messages of one database, and how many they are. For one thread at a time.

    Args:
        path: of the file; None: in memory.
        max_bytes: of payloads.
        max_age_s: of a message.

    Raises:
        sqlite3.Error: it cannot be read or cannot be written.
        UnicodeDecodeError: it is damaged.
    """

    def __init__(self, path: Path | None, max_bytes: int, max_age_s: float) -> None:
        self.max_bytes = max_bytes
        self._max_age_s = max_age_s
        self.count = 0
        self.bytes = 0
        self.newest = 0
        self._oldest = float("inf")
        self._of_earlier_runs = 0
        self._clock_found: float | None = None
        self._db = sqlite3.connect(
            path or ":memory:", isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-256")
            self._db.execute("PRAGMA journal_size_limit=1048576")
            self._db.executescript(_SCHEMA)
            self._add("opened", 1)  # what a kill leaves can be read on a disk that takes nothing
            if path is None:
                self._db.execute(
                    "INSERT INTO sqlite_sequence VALUES ('message', ?)", (_FIRST_IN_MEMORY,)
                )
            self._measure()
            self._of_earlier_runs = self.newest
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def _measure(self) -> None:
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0), coalesce(max(id), 0) FROM message"
        )
        self.count, self.bytes, self.newest = row.fetchone()
        self._find_oldest()

    def _find_oldest(self) -> None:
        """When the oldest message that may be dropped by age was put, or earlier."""
        row = self._db.execute(
            "SELECT min(CAST(created AS REAL)) FROM message WHERE precious = 0"  # if damaged, text
        ).fetchone()
        self._oldest = float("inf") if row[0] is None else row[0]

    def put(self, topic: str, payload: bytes, precious: bool, now: float) -> None:
        """Appends a message, not larger than all may be; drops others, too old or too many."""
        crowded = self.bytes + len(payload) > self.max_bytes
        if not crowded and (self._oldest >= now - self._max_age_s or now < EARLIEST):
            self._insert(topic, payload, precious, now)
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._insert(topic, payload, precious, now)
        self._make_room(now)
        self._db.execute("COMMIT")

    def clock_moved(self, seconds: float) -> None:
        """The clock was set during this run: what was put by it moves along."""
        found = self._clock_found
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "UPDATE message SET created = created + ? WHERE id > ? OR created = ?",
            (seconds, self._of_earlier_runs, found),
        )
        self._db.execute("COMMIT")
        if found is not None:
            self._clock_found = found + seconds
        self._find_oldest()

    def _insert(self, topic: str, payload: bytes, precious: bool, created: float) -> int:
        added = self._db.execute(
            "INSERT INTO message (topic, payload, precious, created) VALUES (?, ?, ?, ?)",
            (topic, payload, precious, created),
        )
        self.newest = added.lastrowid or 0
        self.count += 1
        self.bytes += len(payload)
        if not precious:
            self._oldest = min(self._oldest, created)
        return self.newest

    def roll_back(self) -> None:
        """After a :meth:`put` that raised: what is there counts."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._measure()
        except _REFUSED as error:
            log.error("spool cannot be read", reason=str(error))

    def _make_room(self, now: float) -> None:
        """Within the caller's transaction: drops by age, then the oldest by bytes.

        The newest stays, also when all others are precious: a spool full of those must not
        refuse everything that comes.
        """
        dropped = 0
        if now >= EARLIEST:
            found = self._db.execute(
                "UPDATE message SET created = ? WHERE created < ?", (now, EARLIEST)
            )
            if found.rowcount:
                self._clock_found = now
            for row in self._db.execute(
                "SELECT id, length(payload) FROM message WHERE created < ? AND precious = 0",
                (now - self._max_age_s,),
            ).fetchall():
                dropped += self._drop(row)
        while self.bytes > self.max_bytes:
            row = self._db.execute(
                "SELECT id, length(payload) FROM message WHERE id != ? "
                "ORDER BY precious, id LIMIT 1",
                (self.newest,),
            ).fetchone()
            if row is None:
                break
            dropped += self._drop(row)
        self._add("dropped", dropped)
        self._find_oldest()

    def _drop(self, row: tuple[int, int]) -> int:
        self._db.execute("DELETE FROM message WHERE id = ?", (row[0],))
        self.count -= 1
        self.bytes -= row[1]
        return 1

    def _add(self, fact: str, number: int) -> None:
        if number:
            self._db.execute(
                "INSERT INTO fact VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (fact, number),
            )

    def take_dropped(self) -> int:
        """Messages dropped since the last call."""
        row = self._db.execute("DELETE FROM fact WHERE name = 'dropped' RETURNING value")
        rows = row.fetchall()
        return int(rows[0][0]) if rows else 0

    def take_over(self, other: _Table, now: float) -> dict[int, int]:
        """Appends all that another has, which is left as it was; all of it, or it raises.

        Returns:
            The new id of each of its messages by the old one.
        """
        moved: dict[int, int] = {}
        self._db.execute("BEGIN IMMEDIATE")
        for old, *message in other._db.execute(
            "SELECT id, topic, payload, precious, created FROM message ORDER BY id"
        ):
            moved[old] = self._insert(*message)
        for (dropped,) in other._db.execute("SELECT value FROM fact WHERE name = 'dropped'"):
            self._add("dropped", dropped)
        self._make_room(now)
        self._db.execute("COMMIT")
        return moved

    def after(self, last_id: int, limit: int) -> list[Row]:
        """At most `limit` messages behind `last_id`, in order."""
        rows = self._db.execute(
            "SELECT id, topic, payload FROM message WHERE id > ? ORDER BY id LIMIT ?",
            (last_id, limit),
        ).fetchall()
        return [Row(*row) for row in rows]

    def remove(self, ids: list[int]) -> None:
        """Forgets messages."""
        marks = ",".join("?" * len(ids))
        rows = self._db.execute(
            f"DELETE FROM message WHERE id IN ({marks}) "  # noqa: S608  # marks only
            "RETURNING length(payload)",
            ids,
        ).fetchall()
        self.count -= len(rows)
        self.bytes -= sum(row[0] for row in rows)


class Spool:
    """Messages in the order in which they were put. Safe from any thread.

    Args:
        path: of the database. A damaged one is set aside; while the disk does not let it be
            opened, messages wait in memory, and :meth:`settle` moves them.
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
        self._lost = 0
        self.in_memory = False
        try:
            self._table = self._open()
        except (*_REFUSED, OSError) as error:
            log.error(
                "spool kept in memory, lost if the power fails: its file cannot be opened",
                file=str(path),
                reason=str(error),
            )
            self.in_memory = True
            self._table = _Table(None, min(max_bytes, MAX_MEMORY_BYTES), max_age_s)

    def _open(self) -> _Table:
        """The table in the file; raises what the disk, or a database on it, raises."""
        try:
            return _Table(self._path, self._max_bytes, self._max_age_s)
        except _REFUSED as error:
            if not _is_damage(error):
                raise
            log.error("spool unreadable, set aside", file=str(self._path), reason=str(error))
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.replace(file.with_name(file.name + ".bad"))
        return _Table(self._path, self._max_bytes, self._max_age_s)

    def settle(self) -> dict[int, int] | None:
        """Moves what waits in memory to the file, behind what is there, if it can be opened now.

        Returns:
            The new id of each moved message by the old one; None: everything is where it was.
        """
        with self._lock:
            if not self.in_memory:
                return None
            try:
                file = self._open()
            except (*_REFUSED, OSError):
                return None
            try:
                moved = file.take_over(self._table, self._now())
            except _REFUSED:
                file.close()
                return None
            self._table.close()
            self._table = file
            self.in_memory = False
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
        except _REFUSED as error:
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
        return int(self._table.count)

    @property
    def payload_bytes(self) -> int:
        """Bytes of their payloads."""
        return int(self._table.bytes)

    @property
    def newest(self) -> int:
        """The id of the message that was put last; 0: there was none."""
        return self._table.newest

    def put(self, topic: str, payload: bytes, *, precious: bool = False) -> bool:
        """Appends a message.

        Args:
            topic: where it goes.
            payload: what goes there.
            precious: dropped only when nothing else is left to drop.

        Returns:
            Whether it was kept; else it counts as dropped: the disk would not take it, or it is
            larger than all messages together may be.
        """
        with self._lock:
            if len(payload) > self._table.max_bytes:
                self._lost += 1
                log.error("message larger than the spool", topic=topic, bytes=len(payload))
                return False
            try:
                self._table.put(topic, payload, precious, self._now())
            except _REFUSED as error:
                self._table.roll_back()
                self._lost += 1
                log.error("spool refused a message", reason=str(error))
                return False
        return True

    def take_dropped(self) -> int:
        """Messages dropped since the last call."""
        with self._lock:
            lost, self._lost = self._lost, 0
            try:
                return lost + self._table.take_dropped()
            except _REFUSED:
                return lost

    def count_dropped(self, number: int) -> None:
        """Counts messages that :meth:`take_dropped` gave and nobody was told of."""
        with self._lock:
            self._lost += number

    def after(self, last_id: int, limit: int) -> list[Row]:
        """At most `limit` messages behind `last_id`, in order."""
        with self._lock:
            try:
                return self._table.after(last_id, limit)
            except _REFUSED as error:
                log.error("spool cannot be read", reason=str(error))
                return []

    def remove(self, ids: list[int]) -> None:
        """Forgets messages that the broker has."""
        if not ids:
            return
        with self._lock:
            try:
                self._table.remove(ids)
            except _REFUSED as error:  # they are sent again, and counted once
                log.error("spool refused to forget", reason=str(error))

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            if self.in_memory and self._table.count:
                log.error("spool lost with the memory that it was in", messages=self._table.count)
            self._table.close()
