"""Who asked for hard examples, what the owner said, and every text that left: on the device.

A row is on the disk before its text leaves. Texts are locked with the key of the examples: what
erases those makes them unreadable here too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from agent.serving.examples import KEY
from agent.system.sealed import Seal, read_key
from contracts.errors import InputError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

DATABASE: Final = "sharing.db"

ASK_S: Final = 7 * 24 * 3600.0
"""Seconds for which a request waits for the owner, and for which an approval holds."""

MAX_WAITING: Final = 100
"""Requests that wait for the owner; the oldest goes first."""

MAX_LEFT: Final = 10_000
"""Leavings that are remembered; the oldest that the fleet has confirmed go first."""

State = Literal["waiting", "approved", "refused"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS ask (
    name TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    most INTEGER NOT NULL,
    requester TEXT NOT NULL,
    why TEXT NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL,
    decided_at REAL
);
CREATE TABLE IF NOT EXISTS leaving (
    ask TEXT NOT NULL,
    mark TEXT NOT NULL,
    at REAL NOT NULL,
    times INTEGER NOT NULL,
    requester TEXT NOT NULL,
    model TEXT NOT NULL,
    consent TEXT NOT NULL,
    data BLOB NOT NULL,
    kept_at REAL,
    PRIMARY KEY (ask, mark)
);
CREATE INDEX IF NOT EXISTS leaving_mark ON leaving (mark);
"""


class Ask(msgspec.Struct, frozen=True):
    """A request for hard examples, and what the owner said to it."""

    name: str
    model: str
    most: int
    requester: str
    why: str
    at: float
    state: State
    decided_at: float | None = None


class Left(msgspec.Struct, frozen=True):
    """One text that left.

    Attributes:
        at: when it left last.
        times: how often it was sent, until the fleet had it.
        text: as it left; None: the key is gone.
        kept_at: when the fleet said that it has it.
    """

    at: float
    ask: str
    requester: str
    model: str
    consent: str
    text: str | None
    times: int
    kept_at: float | None


class Ledger:
    """The database; a context manager. The agent and the owner's commands may use it at once.

    Args:
        folder: the state folder.
        make: make it where there is none.

    Raises:
        UnavailableError: ``no-requests``; there is none, or it cannot be read.
    """

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        path = folder / DATABASE
        if not make and not path.exists():
            raise UnavailableError(
                "no-requests", f"nobody has asked for hard examples of {folder} yet"
            )
        self._key = folder / KEY
        try:
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=5, check_same_thread=False
            )
            path.chmod(0o600)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-128"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise UnavailableError(
                "no-requests", f"{path} cannot be used: {type(error).__name__}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    # Requests. ------------------------------------------------------------------------------

    def asks(self, now: float) -> list[Ask]:
        """Those that are not too old, the newest first."""
        rows = self._db.execute(
            "SELECT name, model, most, requester, why, at, state, decided_at FROM ask "
            "WHERE coalesce(decided_at, at) > ? ORDER BY at DESC, name",
            (now - ASK_S,),
        )
        return [Ask(*row) for row in rows]

    def note(self, ask: Ask) -> State:
        """Remembers a request that waits for the owner; what was said to it, if it is known.

        Raises:
            InputError: ``id-in-use``; another request has that name.
        """
        known = next((one for one in self.asks(ask.at) if one.name == ask.name), None)
        if known is not None:
            if (known.model, known.most) != (ask.model, ask.most):
                raise InputError(
                    "id-in-use", f"the request {ask.name} asked for something else before"
                )
            return known.state
        self._db.execute(
            "INSERT OR REPLACE INTO ask VALUES (?, ?, ?, ?, ?, ?, 'waiting', NULL)",
            (ask.name, ask.model, ask.most, ask.requester, ask.why, ask.at),
        )
        self._db.execute("DELETE FROM ask WHERE coalesce(decided_at, at) <= ?", (ask.at - ASK_S,))
        self._db.execute(
            "DELETE FROM ask WHERE state = 'waiting' AND name NOT IN (SELECT name FROM ask "
            "WHERE state = 'waiting' ORDER BY at DESC LIMIT ?)",
            (MAX_WAITING,),
        )
        return "waiting"

    def decide(self, name: str, state: State, now: float) -> Ask:
        """What the owner says to a request.

        Raises:
            InputError: ``no-such-request``.
        """
        known = next((one for one in self.asks(now) if one.name == name), None)
        if known is None:
            raise InputError("no-such-request", f"no request {name[:64]!r} waits: see `requests`")
        self._db.execute(
            "UPDATE ask SET state = ?, decided_at = ? WHERE name = ?", (state, now, name)
        )
        return msgspec.structs.replace(known, state=state, decided_at=now)

    # Leavings. ------------------------------------------------------------------------------

    def sent(self, ask: str) -> dict[str, bool]:
        """What left for a request, by mark, and whether the fleet has it."""
        rows = self._db.execute("SELECT mark, kept_at FROM leaving WHERE ask = ?", (ask,))
        return {mark: kept is not None for mark, kept in rows}

    def kept(self) -> set[str]:
        """What the fleet has, by mark: it does not leave again."""
        rows = self._db.execute("SELECT DISTINCT mark FROM leaving WHERE kept_at IS NOT NULL")
        return {mark for (mark,) in rows}

    def confirm(self, marks: Iterable[str], now: float) -> None:
        """The fleet says that it has them; what never left is passed over."""
        self._db.executemany(
            "UPDATE leaving SET kept_at = ? WHERE mark = ? AND kept_at IS NULL",
            [(now, mark) for mark in marks],
        )

    def leaves(self, ask: Ask, consent: str, texts: Sequence[tuple[str, str]], now: float) -> None:
        """Writes that texts leave, given as (mark, text as it leaves). They may then.

        Raises:
            RefusedError: ``not-written``; they may not.
        """
        key = read_key(self._key)
        if key is None:
            raise RefusedError("not-written", "the key of the hard examples is gone")
        seal = Seal(key)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for mark, text in texts:
                data = seal.lock(text.encode("utf-8", "surrogatepass"), mark.encode())
                self._db.execute(
                    "INSERT INTO leaving VALUES (?, ?, ?, 1, ?, ?, ?, ?, NULL) "
                    "ON CONFLICT (ask, mark) DO UPDATE SET at = excluded.at, times = times + 1, "
                    "data = excluded.data, requester = excluded.requester",
                    (ask.name, mark, now, ask.requester, ask.model, consent, data),
                )
            self._db.execute(
                "DELETE FROM leaving WHERE rowid IN (SELECT rowid FROM leaving "
                "ORDER BY kept_at IS NULL DESC, at DESC LIMIT -1 OFFSET ?)",
                (MAX_LEFT,),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise RefusedError(
                "not-written",
                f"what leaves cannot be written down ({type(error).__name__}): nothing leaves",
            ) from None

    def left(self) -> list[Left]:
        """All that left, the newest first."""
        key = read_key(self._key)
        seal = Seal(key) if key is not None else None
        rows = self._db.execute(
            "SELECT at, ask, requester, model, consent, mark, data, times, kept_at FROM leaving "
            "ORDER BY at DESC, mark"
        )
        found = []
        for at, ask, requester, model, consent, mark, data, times, kept_at in rows.fetchall():
            text = seal.open(data, mark.encode()) if seal is not None else None
            shown = None if text is None else text.decode("utf-8", "surrogatepass")
            found.append(Left(at, ask, requester, model, consent, shown, times, kept_at))
        return found
