"""What must arrive of a device that is killed.

All that it had on disk; and no more is lost than came since it last wrote its figures down. Read
without the product: `sqlite3` and `json`, of copies of its files.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from tests.soak.sea import SETTLE_S, TELEMETRY_S, RealAgent
from tests.soak.witness import Asker, Key, batches_of, count, requests_of


def spooled(folder: Path, device: str) -> dict[Key, bytes]:
    """The batches of telemetry in a spool on disk, of an agent that does not run."""
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("spool.db", "spool.db-wal"):
            if (folder / name).exists():
                shutil.copy(folder / name, temporary)
        db = sqlite3.connect(Path(temporary) / "spool.db")
        try:
            rows = db.execute(
                "SELECT boot, seq, payload FROM message WHERE topic LIKE '%/telemetry'"
            ).fetchall()
        finally:
            db.close()
    return {(device, boot, seq): payload for boot, seq, payload in rows}


def windows(payloads: list[bytes]) -> list[float]:
    """How long the windows of time of some batches of one boot were, each once."""
    found: dict[float, float] = {}
    for payload in payloads:
        for sample in json.loads(payload)["samples"]:
            found[sample["at"]] = sample["window_s"]
    return list(found.values())


class Killed(msgspec.Struct):
    """What a kill took.

    Attributes:
        lost: requests that were asked and were neither stored nor on disk; of this kill alone.
        at_most: requests that were asked since the last window of time that was on disk.
        blind_s: how long that is.
        may_s: how long it may be.
    """

    lost: int
    at_most: int
    blind_s: float
    may_s: float

    @property
    def holds(self) -> bool:
        """It took no more than what it may."""
        return 0 <= self.lost <= self.at_most and self.blind_s <= self.may_s

    def __str__(self) -> str:
        return (
            f"{self.lost} of {self.at_most} requests of the last {self.blind_s:.1f} s "
            f"(at most {self.may_s:.1f} s)"
        )


class Account:
    """What is known of one agent: what it was asked, and what it had safe when it was killed.

    Args:
        agent: whose.
        asker: who asks it.
        database: the controller's.
    """

    def __init__(self, agent: RealAgent, asker: Asker, database: Path) -> None:
        self.agent, self.asker = agent, asker
        self.kept: dict[Key, bytes] = {}
        self.kills: list[Killed] = []
        self.tries = 0
        self._database = database
        self._safe = self._asked = 0
        self._lock = threading.Lock()

    def killed(self) -> None:
        """The agent was killed just now, and has not been started again."""
        with self._lock:
            now = time.monotonic()
            asked = self.asker.asked
            held = spooled(self.agent.folder / "state", self.agent.device)
            there = batches_of(self._database, self.agent.device) | held
            safe = sum(count(json.loads(payload)) for payload in there.values())
            boot = self.agent.boot
            seen = windows([p for (_, b, _), p in there.items() if b == boot])
            blind_s = max(0.0, now - self.agent.started_at - sum(seen))
            # It takes a while to start, and a turn is as late as others of this run were.
            first = self.asker.first_since(self.agent.started_at)
            may_s = (first or now) - self.agent.started_at + TELEMETRY_S + max([TELEMETRY_S, *seen])
            full = self.agent.full_until
            if full is not None and now < full + 2 * SETTLE_S:
                # What came since its disk was full is in memory, as it says itself.
                may_s += now - self.agent.full_since
            lost = (asked - self._asked) - (safe - self._safe)
            self.kills.append(Killed(lost, self.asker.since(now - blind_s), blind_s, may_s))
            self.kept |= held
            self._safe, self._asked = safe, asked

    def outstanding(self) -> int:
        """Requests that are to come; of batches that were dropped, it never gets less."""
        return max(0, self.expected(0) - requests_of(self._database, self.agent.device))

    def expected(self, dropped: int) -> int:
        """Requests that must be stored once all is quiet; each over the API is one that answered.

        Args:
            dropped: those in batches that were on disk and that the device says it dropped.
        """
        return self._safe + self.asker.asked - self._asked + min(1, self.tries) - dropped
