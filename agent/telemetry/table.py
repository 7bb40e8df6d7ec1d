"""The spool's messages in one SQLite database: bounded by bytes and age, drops counted.

Whatever is dropped is counted by place, in the same transaction. A message that tells of drops
and is dropped itself gives back what it told: each drop is told exactly once.

Over 400 lines: the statements on one table, which keep its counts true together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.system.clock import EARLIEST
from agent.system.log import logger
from agent.telemetry import held
from agent.telemetry.held import Key, Row
from contracts import codec, drops
from contracts.messages import Ack

log = logger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    precious INTEGER NOT NULL,
    created REAL NOT NULL,
    boot TEXT NOT NULL DEFAULT '',
    seq INTEGER NOT NULL DEFAULT -1,
    items INTEGER NOT NULL DEFAULT 1,
    told TEXT NOT NULL DEFAULT '',
    taken INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""

_NEW_COLUMNS: Final = {
    "boot": "TEXT NOT NULL DEFAULT ''",
    "seq": "INTEGER NOT NULL DEFAULT -1",
    "items": "INTEGER NOT NULL DEFAULT 1",
    "told": "TEXT NOT NULL DEFAULT ''",
    "taken": "INTEGER NOT NULL DEFAULT 0",
}
"""What a file of an agent before ``ack`` lacks."""

_INDEX = "CREATE UNIQUE INDEX IF NOT EXISTS number ON message (topic, boot, seq) WHERE seq >= 0"

_COLUMNS = (
    "id, topic, payload, boot, seq, coalesce((SELECT max(lower.seq) FROM message lower "
    "WHERE lower.topic = message.topic AND lower.boot = message.boot "
    "AND lower.seq >= 0 AND lower.seq < message.seq), -1)"
)

_DROPPED = "id, length(payload), items, told, taken FROM message"

_MOVED = "topic, payload, precious, created, boot, seq, items, told, taken"

_FIRST_IN_MEMORY: Final = 1 << 62
"""Ids in memory begin behind this, so that none is ever one of the file too."""

_DROP: Final = "drop:"
"""Facts of this prefix count what was dropped and is not told yet, by place."""

_ACKNOWLEDGED: Final = "acknowledged"

UNUSABLE: Final = (sqlite3.Error, UnicodeDecodeError)
"""What a database raises that cannot be used: of a damaged one the text may not be UTF-8."""

_DAMAGE: Final = frozenset({1, 11, 26})
"""SQLite's codes ERROR, CORRUPT and NOTADB: what damaged content gives. ERROR is wrong SQL, and
ours is right: the tables of a damaged file have other columns, or its format is none. A disk that
refuses gives other codes. (sqlite.org/rescode.html)"""

_WRONG_SQL: Final = ("SQL logic error", "no such ", "table ", "near ")
"""How the messages of ERROR begin."""


def is_damage(error: Exception) -> bool:
    """Whether the content of the file is at fault, and not the disk that it is on."""
    if isinstance(error, UnicodeDecodeError):
        return True
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _DAMAGE
    # Python 3.10 says the code by the class alone; what a disk refuses is operational, too.
    if isinstance(error, sqlite3.OperationalError):
        return str(error).startswith(_WRONG_SQL)
    return type(error) is sqlite3.DatabaseError


class Entry(msgspec.Struct, frozen=True):
    """A message to be put.

    Attributes:
        topic: where it goes.
        payload: what goes there, from what was dropped and is not told yet; all of that counts
            as told by it.
        tells: whether it tells.
        boot, seq: its number.
        precious: dropped only when nothing else is left to drop.
        items: how much is lost with it.
    """

    topic: str
    payload: Callable[[dict[str, int]], bytes]
    tells: bool
    boot: str
    seq: int
    precious: bool
    items: int


class Table:
    """The messages of one database, and how many they are. For one thread at a time.

    Args:
        path: of the file; None: in memory.
        max_bytes: of payloads.
        max_age_s: of a message.

    Attributes:
        untold: what was dropped and no message tells, by place.
        acknowledged: whether the controller has ever acknowledged.

    Raises:
        sqlite3.Error: it cannot be read or cannot be written.
        UnicodeDecodeError: it is damaged.
    """

    def __init__(self, path: Path | None, max_bytes: int, max_age_s: float) -> None:
        self.max_bytes = max_bytes
        self.count = 0
        self.taken = 0
        self.bytes = 0
        self.newest = 0
        self.untold: dict[str, int] = {}
        self.acknowledged = False
        self.protected: frozenset[int] = frozenset()
        self._max_age_s = max_age_s
        self._oldest = float("inf")
        self._of_earlier_runs = 0
        self._clock_found: float | None = None
        self._db = sqlite3.connect(
            path or ":memory:", isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            self._open(in_memory=path is None)
        except BaseException:
            self._db.close()
            raise

    def _open(self, *, in_memory: bool) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-256")
        self._db.execute("PRAGMA journal_size_limit=1048576")
        self._db.executescript(_SCHEMA)
        there = {row[1] for row in self._db.execute("PRAGMA table_info(message)")}
        for name, kind in _NEW_COLUMNS.items():
            if name not in there:
                self._db.execute(f"ALTER TABLE message ADD COLUMN {name} {kind}")
        self._db.execute(_INDEX)
        self._add("opened", 1)  # what a kill leaves can be read on a disk that takes nothing
        if in_memory:
            self._db.execute(
                "INSERT INTO sqlite_sequence VALUES ('message', ?)", (_FIRST_IN_MEMORY,)
            )
        # What an agent before counted without a place.
        self._db.execute(
            "UPDATE OR IGNORE fact SET name = ? WHERE name = 'dropped'", (_DROP + drops.FULL,)
        )
        self._measure()
        self._of_earlier_runs = self.newest

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def _measure(self) -> None:
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0), coalesce(max(id), 0), "
            "coalesce(sum(taken), 0) FROM message"
        )
        self.count, self.bytes, self.newest, self.taken = row.fetchone()
        facts = {str(k): int(v) for k, v in self._db.execute("SELECT name, value FROM fact")}
        self.acknowledged = bool(facts.get(_ACKNOWLEDGED))
        self.untold = {
            name.removeprefix(_DROP): value
            for name, value in facts.items()
            if name.removeprefix(_DROP) in drops.ON_DEVICES and value > 0
        }
        self._find_oldest()

    def _find_oldest(self) -> None:
        """When the oldest message that may be dropped by age was put, or earlier."""
        row = self._db.execute(
            "SELECT min(CAST(created AS REAL)) FROM message WHERE precious = 0"  # if damaged, text
        ).fetchone()
        self._oldest = float("inf") if row[0] is None else row[0]

    # Putting. -------------------------------------------------------------------------------

    def put(self, entry: Entry, now: float, also: dict[str, int]) -> bool:
        """Appends a message; drops others, too old or too many.

        Args:
            entry: the message. One whose number is there already is not put again.
            now: seconds since the epoch.
            also: what was dropped elsewhere and is to be told too, or else to be kept.

        Returns:
            False: it is larger than all messages together may be, and nothing was done.
        """
        tells = dict(self.untold) if entry.tells else {}
        if entry.tells:
            held.add(tells, also)
        payload = entry.payload(tells)
        if len(payload) > self.max_bytes:
            return False
        crowded = self.bytes + len(payload) > self.max_bytes
        too_old = self._oldest < now - self._max_age_s and now >= EARLIEST
        if not crowded and not too_old and not tells and (entry.tells or not also):
            self._insert(entry, now, payload, tells)
            return True
        self._db.execute("BEGIN IMMEDIATE")
        if self._insert(entry, now, payload, tells) and entry.tells:
            self._tell()
        else:
            self._count_untold(also)
        if crowded or too_old:
            self._make_room(now)
        self._db.execute("COMMIT")
        return True

    def _tell(self) -> None:
        self._db.execute("DELETE FROM fact WHERE name LIKE ?", (_DROP + "%",))
        self.untold = {}

    def _insert(self, entry: Entry, now: float, payload: bytes, tells: dict[str, int]) -> bool:
        told = codec.encode(tells).decode() if tells else ""
        return self._insert_row(
            (entry.topic, payload, int(entry.precious), now, entry.boot, entry.seq,
             entry.items, told, 0)
        )  # fmt: skip

    def _insert_row(self, values: Sequence[Any]) -> bool:
        added = self._db.execute(
            f"INSERT OR IGNORE INTO message ({_MOVED}) "  # noqa: S608  # constant names
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        if not added.rowcount:
            return False
        payload, precious, created = values[1:4]
        self.newest = added.lastrowid or 0
        self.count += 1
        self.taken += values[8]
        self.bytes += len(payload)
        if not precious:
            self._oldest = min(self._oldest, created)
        return True

    def roll_back(self) -> None:
        """After something that raised: what is there counts."""
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._measure()
        except UNUSABLE as error:
            log.error("spool cannot be read", reason=str(error))

    # Dropping. ------------------------------------------------------------------------------

    def _make_room(self, now: float) -> None:
        """Within the caller's transaction: drops by age, then the oldest by bytes.

        What the broker took while nobody acknowledges goes first. What is on its way goes after
        its like: nobody can say whether it is lost. The newest stays, also when all others are
        precious: a spool full of those must not refuse everything that comes.
        """
        on_the_way = f"id IN ({','.join(map(str, sorted(self.protected)))})"
        if now >= EARLIEST:
            found = self._db.execute(
                "UPDATE message SET created = ? WHERE created < ?", (now, EARLIEST)
            )
            if found.rowcount:
                self._clock_found = now
            self._drop(
                drops.OLD,
                f"SELECT {_DROPPED} WHERE created < ? AND precious = 0 AND NOT {on_the_way}",
                (now - self._max_age_s,),
            )
        while self.bytes > self.max_bytes and self._drop(
            drops.FULL,
            f"SELECT {_DROPPED} WHERE id != ? "
            f"ORDER BY taken DESC, precious, {on_the_way}, id LIMIT 1",
            (self.newest,),
        ):
            pass
        self._find_oldest()

    def _drop(self, place: str, query: str, values: tuple[Any, ...]) -> bool:
        """Drops what a query finds; whether there was anything."""
        rows = self._db.execute(query, values).fetchall()
        for number, size, items, told, taken in rows:
            self._db.execute("DELETE FROM message WHERE id = ?", (number,))
            self.count -= 1
            self.bytes -= size
            self.taken -= taken
            if not taken:
                lost = _read(told)
                held.add(lost, {place: items})
                self._count_untold(lost)
        return bool(rows)

    def _count_untold(self, lost: dict[str, int]) -> None:
        for place, number in lost.items():
            self._add(_DROP + place, number)
        held.add(self.untold, lost)

    def _add(self, fact: str, number: int) -> None:
        if number:
            self._db.execute(
                "INSERT INTO fact VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (fact, number),
            )

    def take_over(self, other: Table, now: float) -> dict[int, int]:
        """Appends all that another has, which is left as it was; all of it, or it raises.

        Returns:
            The new id of each of its messages by the old one.
        """
        moved: dict[int, int] = {}
        self._db.execute("BEGIN IMMEDIATE")
        for old, *message in other._db.execute(
            f"SELECT id, {_MOVED} FROM message ORDER BY id"  # noqa: S608  # constant names
        ):
            if self._insert_row(message):
                moved[old] = self.newest
        on_the_way = self.protected | other.protected
        self.protected = frozenset(moved.get(old, old) for old in on_the_way)
        self._count_untold(other.untold)
        if other.acknowledged and not self.acknowledged:
            self._set_acknowledged(True)
        self._make_room(now)
        self._db.execute("COMMIT")
        return moved

    # The clock. -----------------------------------------------------------------------------

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

    def readdress(self, above: str, device: str) -> None:
        """Messages to topics of another device below `above` go to those of `device`."""
        self._db.execute(
            "UPDATE OR IGNORE message SET topic = ?1 || ?2 || "
            "substr(topic, length(?1) + instr(substr(topic, length(?1) + 1), '/')) "
            "WHERE substr(topic, 1, length(?1)) = ?1 "
            "AND substr(topic, 1, length(?1 || ?2) + 1) <> ?1 || ?2 || '/'",
            (above, device),
        )

    # Sending. -------------------------------------------------------------------------------

    def after(self, last_id: int, limit: int, skip: Collection[str]) -> list[Row]:
        """At most `limit` messages behind `last_id`, in order, that nobody took."""
        marks = ",".join("?" * len(skip))
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM message "  # noqa: S608  # marks and constant names
            f"WHERE id > ? AND taken = 0 AND topic NOT IN ({marks}) ORDER BY id LIMIT ?",
            (last_id, *skip, limit),
        ).fetchall()
        return [Row(*row) for row in rows]

    def row(self, key: Key) -> Row | None:
        """One message by its number."""
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM message "  # noqa: S608  # constant names
            "WHERE topic = ? AND boot = ? AND seq = ?",
            key,
        ).fetchone()
        return None if found is None else Row(*found)

    def before(self, key: Key) -> int:
        """The highest number below a message's, of the same topic and boot; -1: none."""
        found = self._db.execute(
            "SELECT coalesce(max(seq), -1) FROM message "
            "WHERE topic = ? AND boot = ? AND seq >= 0 AND seq < ?",
            key,
        ).fetchone()
        return int(found[0])

    def remove(self, ids: Sequence[int]) -> None:
        """Forgets messages by id."""
        marks = ",".join("?" * len(ids))
        self._forget(f"id IN ({marks})", ids)

    def forget(self, topic: str, ack: Ack) -> None:
        """Forgets what an acknowledgement covers."""
        whole = [(-1, ack.seq), *((first - 1, last) for first, last in ack.ahead)]
        for below, last in whole:
            self._forget(
                "topic = ? AND boot = ? AND seq >= 0 AND seq > ? AND seq <= ?",
                (topic, ack.boot, below, last),
            )

    def _forget(self, where: str, values: Sequence[Any]) -> None:
        rows = self._db.execute(
            f"DELETE FROM message WHERE {where} RETURNING length(payload), taken",  # noqa: S608
            values,
        ).fetchall()
        self.count -= len(rows)
        self.bytes -= sum(row[0] for row in rows)
        self.taken -= sum(row[1] for row in rows)

    def took(self, keys: Sequence[Key]) -> None:
        """Marks messages that the broker took while nobody acknowledges."""
        for key in keys:
            done = self._db.execute(
                "UPDATE message SET taken = 1 "
                "WHERE topic = ? AND boot = ? AND seq = ? AND taken = 0",
                key,
            )
            self.taken += done.rowcount

    def set_acknowledged(self, value: bool) -> None:
        """Notes whether the controller acknowledges."""
        self._db.execute("BEGIN IMMEDIATE")
        self._set_acknowledged(value)
        self._db.execute("COMMIT")

    def _set_acknowledged(self, value: bool) -> None:
        self._db.execute("DELETE FROM fact WHERE name = ?", (_ACKNOWLEDGED,))
        if value:
            self._add(_ACKNOWLEDGED, 1)
            self._db.execute("UPDATE message SET taken = 0 WHERE taken = 1")
            self.taken = 0
        self.acknowledged = value


def _read(told: str) -> dict[str, int]:
    """What a message told; of a damaged one, nothing."""
    if not told:
        return {}
    try:
        found = codec.decoder(dict[str, int]).decode(told)
    except msgspec.DecodeError:
        return {}
    return {place: number for place, number in found.items() if place in drops.ON_DEVICES}
