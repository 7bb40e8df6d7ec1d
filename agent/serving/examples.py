"""Texts with which a model has a hard time: kept on the device for its owner alone, encrypted.

Nothing is kept unless ``agent.yaml`` says so. What is hard: an answer of which the model was not
sure, or nearly was not, one that the shadow gives otherwise, and one that somebody corrected.

The worker only puts examples into a list; the reporter's thread writes it, many in one go. The key
is a file beside the database: it protects a copy of that, not from somebody with root.
"""

from __future__ import annotations

import collections
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.system.log import logger
from agent.system.sealed import KEY_BYTES, Seal, read_key, write_key
from contracts import codec
from contracts.answers import Classified, HardReason
from contracts.config import ExamplesConfig
from contracts.errors import InputError, UnavailableError
from contracts.messages import BundleRef

log = logger(__name__)

DATABASE: Final = "examples.db"
KEY: Final = "examples.key"

MAX_WAITING: Final = 64
"""Examples that wait for the disk; more are dropped, and counted."""

_PAGE: Final = 4096
_OVERHEAD: Final = 128
"""Bytes of a row beside its text, roughly."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS example (
    id INTEGER PRIMARY KEY,
    mark BLOB NOT NULL UNIQUE,
    rank INTEGER NOT NULL,
    at REAL NOT NULL,
    data BLOB NOT NULL
);
"""

_RANK: Final[dict[HardReason, int]] = {
    "low-confidence": 0,
    "near-threshold": 0,
    "shadow-disagrees": 1,
    "corrected": 2,
}
"""Where there is no room, those of the lowest rank go first, and of those the oldest."""


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One text, with what was answered.

    Attributes:
        at: when, seconds since the epoch.
        reasons: why it is hard.
        meant: the right label, where somebody said it.
        best: the label that won, where `label` is ``unknown``.
        sources: where the text came from, all of them; empty name, or none: somebody asked.
        times: how often it was kept.
    """

    at: float
    slot: str
    text: str
    label: str
    confidence: float
    bundle: BundleRef
    reasons: list[HardReason]
    meant: str | None = None
    best: str | None = None
    sources: list[str] = []
    times: int = 1

    def joined(self, newer: Example) -> Example:
        """One example of both: the same text came again."""
        ranked = max(self, newer, key=lambda one: (rank(one), one.at))
        return msgspec.structs.replace(
            ranked,
            at=newer.at,
            meant=newer.meant or self.meant,
            sources=sorted({*(self.sources or [""]), *(newer.sources or [""])}),
            times=self.times + ("corrected" not in newer.reasons),  # that answer was counted
        )


def rank(example: Example) -> int:
    """What stays where there is no room."""
    return max(_RANK[reason] for reason in example.reasons)


class Examples:
    """Keeps hard examples. Any thread may give them; one thread writes.

    Args:
        folder: the state folder.
        config: what is kept.
        now: seconds since the epoch.
        dropped: told of each example that could not be kept.
    """

    def __init__(
        self,
        folder: Path,
        config: ExamplesConfig,
        now: Callable[[], float],
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._config = config
        self._now = now
        self._dropped = dropped
        self._lock = threading.Lock()
        self._waiting: collections.deque[Example] = collections.deque()
        self._vault: _Vault | None = None
        self._complained = False

    def consider(
        self,
        slot: str,
        text: str,
        answer: Classified,
        threshold: float,
        hidden: str | None,
        source: str = "",
    ) -> None:
        """Keeps a text if its answer was hard.

        Args:
            slot: that answered.
            text: what was asked.
            answer: what was answered.
            threshold: below which it would have been ``unknown``.
            hidden: what the shadow says, whole; None: there is no shadow.
            source: that the text came from; empty: somebody asked.
        """
        reasons: list[HardReason] = []
        if answer.confidence < self._config.below:
            reasons.append("low-confidence")
        if threshold and abs(answer.confidence - threshold) <= self._config.near:
            reasons.append("near-threshold")
        if hidden is not None and hidden != answer.whole:
            reasons.append("shadow-disagrees")
        if reasons:
            self._put(
                Example(
                    self._now(),
                    slot,
                    text,
                    answer.label,
                    answer.confidence,
                    answer.bundle,
                    reasons,
                    best=answer.best,
                    sources=[source],
                )
            )

    def corrected(
        self,
        slot: str,
        text: str,
        label: str,
        confidence: float,
        bundle: BundleRef,
        meant: str | None,
        source: str = "",
    ) -> None:
        """Keeps a text of which somebody said that its answer was wrong."""
        self._put(
            Example(
                self._now(),
                slot,
                text,
                label,
                confidence,
                bundle,
                ["corrected"],
                meant,
                sources=[source],
            )
        )

    def _put(self, example: Example) -> None:
        with self._lock:
            full = len(self._waiting) >= MAX_WAITING
            if not full:
                self._waiting.append(example)
        if full:
            self._dropped()

    def flush(self) -> None:
        """Writes what waits. What the disk does not take is dropped, counted, and said once."""
        with self._lock:
            examples = list(self._waiting)
            self._waiting.clear()
        if not examples:
            return
        try:
            if self._vault is None:
                self._vault = _Vault.open(self._folder)
            self._vault.add(examples, self._now(), self._config)
            self._complained = False
        except (OSError, sqlite3.Error) as error:
            self.close()
            for _ in examples:
                self._dropped()
            if not self._complained:
                self._complained = True
                log.error("hard examples not kept", reason=type(error).__name__)

    def close(self) -> None:
        """Closes the database."""
        vault, self._vault = self._vault, None
        if vault is not None:
            vault.close()


def read(folder: Path) -> list[Example]:
    """What is kept in a state folder, the newest first; raises as :func:`marked`."""
    return list(marked(folder).values())


def marked(folder: Path) -> dict[str, Example]:
    """What is kept, by a mark of the text, the newest first; also while an agent runs on it.

    Raises:
        UnavailableError: ``no-examples``; nothing is kept there, or it cannot be read.
        InputError: ``bad-key``; the key is another one's.
    """
    if not (folder / DATABASE).exists():
        raise UnavailableError(
            "no-examples", f"no hard examples are kept below {folder}: see examples in agent.yaml"
        )
    try:
        vault = _Vault.open(folder, make=False)
    except (OSError, sqlite3.Error) as error:
        raise UnavailableError(
            "no-examples", f"the hard examples below {folder} cannot be read: {error}"
        ) from None
    try:
        return vault.all()
    except sqlite3.Error as error:
        raise UnavailableError(
            "no-examples", f"the hard examples below {folder} cannot be read: {error}"
        ) from None
    finally:
        vault.close()


def erase(folder: Path) -> bool:
    """Removes the key first: without it nothing can be read. False: there was none."""
    names = (KEY, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")
    there = any((folder / name).exists() for name in names)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return there


class _Vault:
    """The database, and its key."""

    def __init__(self, db: sqlite3.Connection, key: bytes) -> None:
        self._db = db
        self._seal = Seal(key)

    @classmethod
    def open(cls, folder: Path, *, make: bool = True) -> _Vault:
        """Opens it; with `make` it is made, and made anew where key or database are damaged."""
        key = read_key(folder / KEY)
        if key is None and not make:
            raise OSError("its key is missing or damaged")
        if key is None:
            erase(folder)  # nobody can read what another key has locked
            key = os.urandom(KEY_BYTES)
            write_key(folder / KEY, key)
        try:
            return cls(_connect(folder / DATABASE, make=make), key)
        except sqlite3.DatabaseError as error:
            if not make or isinstance(error, sqlite3.OperationalError):
                raise
            log.error("hard examples were damaged: begun anew")
            erase(folder)
            write_key(folder / KEY, key)
            return cls(_connect(folder / DATABASE, make=True), key)

    def add(self, examples: list[Example], now: float, config: ExamplesConfig) -> None:
        """Adds examples, a text once, and makes room for them."""
        # Twice: the index, and pages that are not full.
        pages = 2 * config.max_bytes // _PAGE + 16
        self._db.execute(f"PRAGMA max_page_count={pages}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for one in examples:
                self._put(one)
            self._db.execute("DELETE FROM example WHERE at < ?", (now - config.max_age_s,))
            self._make_room(config.max_bytes)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put(self, one: Example) -> None:
        name = f"{one.slot}\0{one.text}".encode("utf-8", "surrogatepass")
        mark = self._seal.mark(name)
        row = self._db.execute("SELECT data FROM example WHERE mark = ?", (mark,)).fetchone()
        before = self._open(row[0], mark) if row is not None else None
        if before is not None:
            one = before.joined(one)
        self._db.execute(
            "INSERT INTO example (mark, rank, at, data) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (mark) DO UPDATE SET rank = excluded.rank, at = excluded.at, "
            "data = excluded.data",
            (mark, rank(one), one.at, self._seal.lock(codec.encode(one), mark)),
        )

    def _open(self, data: bytes, mark: bytes) -> Example | None:
        opened = self._seal.open(data, mark)
        if opened is None:
            return None
        try:
            return codec.decode(opened, Example, what="a hard example")
        except InputError:
            return None

    def _make_room(self, most: int) -> None:
        (size,) = self._db.execute(
            "SELECT coalesce(sum(length(data) + ?), 0) FROM example", (_OVERHEAD,)
        ).fetchone()
        while size > most:
            row = self._db.execute(
                "SELECT id, length(data) FROM example ORDER BY rank, at, id LIMIT 1"
            ).fetchone()
            self._db.execute("DELETE FROM example WHERE id = ?", (row[0],))
            size -= row[1] + _OVERHEAD

    def all(self) -> dict[str, Example]:
        """Everything that can be read by its mark, the newest first."""
        rows = self._db.execute("SELECT mark, data FROM example ORDER BY at DESC, id DESC")
        found, locked = {}, 0
        for mark, data in rows.fetchall():
            one = self._open(data, mark)
            if one is None:
                locked += 1
            else:
                found[mark.hex()] = one
        if locked and not found:
            raise InputError("bad-key", f"none of {locked} examples can be read with this key")
        return found

    def close(self) -> None:
        """Closes the database."""
        self._db.close()


def _connect(path: Path, *, make: bool) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={'rwc' if make else 'ro'}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        if make:
            os.chmod(path, 0o600)  # noqa: PTH101 - it is there since it was connected
            _pragmas(db)
            db.executescript(_SCHEMA)
        db.execute("SELECT count(*) FROM example").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _pragmas(db: sqlite3.Connection) -> Any:
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-128"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("PRAGMA journal_size_limit=262144")
