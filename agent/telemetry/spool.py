"""The spool: messages that must reach the controller, on disk until the broker has them.

SQLite with a write-ahead log. Bounded by bytes and by age; the oldest telemetry goes first,
update events last, and what was dropped is counted.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.log import logger

log = logger(__name__)

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

_DAMAGED = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged database raises: its own message may not be UTF-8."""


class Row(msgspec.Struct, frozen=True):
    """A spooled message."""

    id: int
    topic: str
    payload: bytes


class Spool:
    """Messages in the order in which they were put. Safe from any thread.

    Args:
        path: of the database; a damaged one is set aside.
        max_bytes: of payloads.
        max_age_s: of a message.
        time: seconds since the epoch.
    """

    def __init__(
        self, path: Path, max_bytes: int, max_age_s: float, time: Callable[[], float]
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._time = time
        self._lock = threading.Lock()
        self._lost = 0
        self._newest = 0
        self._oldest = float("inf")
        try:
            self._open()
        except _DAMAGED as error:
            log.error("spool unreadable, set aside", reason=str(error))
            for suffix in ("", "-wal", "-shm"):
                file = path.with_name(path.name + suffix)
                if file.exists():
                    file.replace(file.with_name(file.name + ".bad"))
            self._open()

    def _open(self) -> None:
        self._db = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-256")
        self._db.execute("PRAGMA journal_size_limit=1048576")
        self._db.executescript(_SCHEMA)
        self._measure()

    def _measure(self) -> None:
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0), coalesce(max(id), 0) FROM message"
        )
        self._count, self._bytes, self._newest = row.fetchone()
        self._find_oldest()

    def _find_oldest(self) -> None:
        """When the oldest message that may be dropped by age was put, or earlier."""
        row = self._db.execute(
            "SELECT min(CAST(created AS REAL)) FROM message WHERE precious = 0"  # if damaged, text
        ).fetchone()
        self._oldest = float("inf") if row[0] is None else row[0]

    @property
    def depth(self) -> int:
        """Messages that wait."""
        return int(self._count)

    @property
    def payload_bytes(self) -> int:
        """Bytes of their payloads."""
        return int(self._bytes)

    @property
    def newest(self) -> int:
        """The id of the message that was put last; 0: there was none."""
        return self._newest

    def put(self, topic: str, payload: bytes, *, precious: bool = False) -> bool:
        """Appends a message; False when the disk would not take it (it counts as dropped).

        Args:
            topic: where it goes.
            payload: what goes there.
            precious: dropped only when nothing else is left to drop.
        """
        with self._lock:
            now = self._time()
            crowded = self._bytes + len(payload) > self._max_bytes
            try:
                if crowded or self._oldest < now - self._max_age_s:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._insert(topic, payload, precious, now)
                    self._make_room()
                    self._find_oldest()
                    self._db.execute("COMMIT")
                else:
                    self._insert(topic, payload, precious, now)
            except _DAMAGED as error:
                self._roll_back()
                self._lost += 1
                log.error("spool refused a message", reason=str(error))
                return False
        return True

    def _insert(self, topic: str, payload: bytes, precious: bool, now: float) -> None:
        added = self._db.execute(
            "INSERT INTO message (topic, payload, precious, created) VALUES (?, ?, ?, ?)",
            (topic, payload, precious, now),
        )
        self._newest = added.lastrowid or 0
        self._count += 1
        self._bytes += len(payload)
        if not precious:
            self._oldest = min(self._oldest, now)

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._measure()
        except _DAMAGED as error:
            log.error("spool cannot be read", reason=str(error))

    def _make_room(self) -> None:
        """Within the caller's transaction: drops by age, then the oldest by bytes."""
        dropped = 0
        old = self._time() - self._max_age_s
        for row in self._db.execute(
            "SELECT id, length(payload) FROM message WHERE created < ? AND precious = 0", (old,)
        ).fetchall():
            dropped += self._drop(row)
        while self._bytes > self._max_bytes:
            row = self._db.execute(
                "SELECT id, length(payload) FROM message ORDER BY precious, id LIMIT 1"
            ).fetchone()
            if row is None:
                break
            dropped += self._drop(row)
        if dropped:
            self._db.execute(
                "INSERT INTO fact VALUES ('dropped', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (dropped,),
            )

    def _drop(self, row: tuple[int, int]) -> int:
        self._db.execute("DELETE FROM message WHERE id = ?", (row[0],))
        self._count -= 1
        self._bytes -= row[1]
        return 1

    def take_dropped(self) -> int:
        """Messages dropped since the last call."""
        with self._lock:
            lost, self._lost = self._lost, 0
            try:
                row = self._db.execute("DELETE FROM fact WHERE name = 'dropped' RETURNING value")
                rows = row.fetchall()
            except _DAMAGED:
                rows = []
            return lost + (int(rows[0][0]) if rows else 0)

    def after(self, last_id: int, limit: int) -> list[Row]:
        """At most `limit` messages behind `last_id`, in order."""
        with self._lock:
            try:
                rows = self._db.execute(
                    "SELECT id, topic, payload FROM message WHERE id > ? ORDER BY id LIMIT ?",
                    (last_id, limit),
                ).fetchall()
            except _DAMAGED as error:
                log.error("spool cannot be read", reason=str(error))
                return []
        return [Row(*row) for row in rows]

    def remove(self, ids: list[int]) -> None:
        """Forgets messages that the broker has."""
        if not ids:
            return
        with self._lock:
            marks = ",".join("?" * len(ids))
            try:
                rows = self._db.execute(
                    f"DELETE FROM message WHERE id IN ({marks}) "  # noqa: S608  # marks only
                    "RETURNING length(payload)",
                    ids,
                ).fetchall()
            except _DAMAGED as error:  # they are sent again, and counted once
                log.error("spool refused to forget", reason=str(error))
                return
            self._count -= len(rows)
            self._bytes -= sum(row[0] for row in rows)

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()
