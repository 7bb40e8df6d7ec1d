"""Looking at what changed and what is due does all that looking at everything would do."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from contracts.desired import Desired
from contracts.errors import ErrorInfo, InputError, RefusedError
from contracts.messages import UpdateEvent
from fleet.conductor.look import Change, Look
from fleet.rollout.state import ENDED
from fleet.store import Store, devices, rollouts
from fleet.store.schema import DEVICE, ROLLOUT
from tests.fleet.conductor.test_runner import Small

NAMES = tuple(f"d{index}" for index in range(9))
SPANS = (1.0, 7.0, 21.0, 61.0, 3600.0, 20_000.0, 90_000.0)


class Chance(Small):
    """Devices and people do anything, and time passes."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        super().__init__(folder)
        self.folder = folder
        self.copy = folder / "copy.db"
        self.copied = Store(f"sqlite:///{self.copy}")
        self.rng = rng
        self.seq = 0
        self.created: list[str] = []

    def happen(self) -> str:
        """Something happens; what."""
        name = self.rng.choice(NAMES)
        with self.store.read() as connection:
            known = name in devices.some(connection, [name])
        what = self.rng.choice(
            ["come", "go", "obey", "obey", "obey", "trial", "refuse", "label", "revoke", "create",
             "time", "time", "command", "everybody obeys",
             "everybody obeys", "people see to it"]
        )  # fmt: skip
        if what == "create":
            return f"create {self._create()}"
        if what == "command":
            return self._command()
        if what == "everybody obeys":
            for other in NAMES:
                self._answer(other, "committed")
        elif what == "people see to it":
            self.see_to_it()
        elif what == "time":
            span = self.rng.choice(SPANS)
            self.now += span
            return f"{span} s pass"
        elif not known:
            self.add(name)
        elif what in ("come", "go"):
            self.online(name, online=what == "come")
        elif what == "label":
            with self.store.write() as connection:
                site = {"site": self.rng.choice("ab")}
                devices.relabel(self.store, connection, name, labels=site)
        elif what == "revoke":
            if self.rng.random() < 0.2:
                with self.store.write() as connection:
                    devices.revoke(connection, name, self.now)
        else:
            self._answer(name, {"obey": "committed", "refuse": "refused"}.get(what, what))
        return f"{name}: {what}"

    def see_to_it(self) -> None:
        """Whatever waits for a person goes on, and devices obey; some is given up."""
        for _ in range(4):
            for rollout in self.created:
                what = {"awaiting-approval": "approve", "paused": "resume"}
                if (status := self.status(rollout)) in what:
                    self.runner.command(rollout, what[status], "ann")  # type: ignore[arg-type]
            self.quiet()
            for name in NAMES:
                self._answer(name, "committed")
            self.now += 61.0
        for rollout in self.created:
            if self.status(rollout) in ("running", "paused") and self.rng.random() < 0.5:
                self.runner.command(rollout, "abort", "ann")

    def _create(self) -> str:
        fields = {
            "selector": self.rng.choice(["all", "site=a", "site!=a", "state=online", "d1,d2,d3"]),
            "slot": self.rng.choice(["classify", "classify", "other"]),
            "mode": self.rng.choice(["active", "active", "shadow"]),
            "waves": self.rng.choice(
                [[{"percent": 100}], [{"count": 1}, {"percent": 100}], [{"percent": 30}],
                 [{"count": 2, "approval": True}, {"percent": 60}, {"percent": 100}]]
            ),
            "bake_s": self.rng.choice([0, 20]), "deadline_s": 100, "offline_s": 30,
            "attempts": self.rng.choice([1, 2]), "retry_s": 10,
            "gates": {"max_failure_rate": self.rng.choice([0.2, 1.0])},
            "rollback": self.rng.random() < 0.8,
            "max_in_flight": self.rng.choice([None, None, 2]),
            "windows": self.rng.choice([[], [], [{"start": "02:00", "end": "09:30"}]]),
            "if_busy": self.rng.choice(["refuse", "queue"]),
            "follow_s": self.rng.choice([0, 500, 30 * 86400]),
        }  # fmt: skip
        try:
            self.created.append(self.create(self.rng.choice(["1.0.0", "2.0.0"]), **fields))
        except (InputError, RefusedError) as error:
            return error.code
        return self.created[-1]

    def _command(self) -> str:
        if not self.created:
            return "nothing"
        rollout = self.rng.choice(self.created[-4:])
        what = self.rng.choice(["approve", "approve", "resume", "resume", "pause", "abort"])
        try:
            self.runner.command(rollout, what, "ann")  # type: ignore[arg-type]
        except RefusedError as error:
            return error.code
        return f"{what} {rollout}"

    def _answer(self, name: str, state: str) -> None:
        """A device that is online does, begins or refuses the newest that is asked of it."""
        with self.store.read() as connection:
            device = devices.some(connection, [name]).get(name)
        if device is None or not device.online or not device.desired:
            return
        desired: Desired = device.desired
        for slot, asked in desired.slots.items():
            self.seq += 1
            reason = ErrorInfo("refused", "no") if state == "refused" else None
            event = UpdateEvent(
                "b", self.seq, desired.revision, slot, asked.bundle, state, self.now,  # type: ignore[arg-type]
                reason=reason,
            )  # fmt: skip
            self.hear(name, event)
        if state == "committed":
            self.obey(name)

    def quiet(self) -> None:
        """Ticks until there is nothing to do."""
        for _ in range(40):
            if not self.runner.tick():
                return
        raise AssertionError("the engine never rests")

    def missed(self) -> list[Change]:
        """What looking at everything would do now, on a copy of the database."""
        source = self.folder / "fleet" / "state.db"
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(self.copy)) as other:
            one.backup(other)
        store = self.copied  # one for all looks: it remembers how statements are compiled
        with store.write() as connection:
            connection.execute(DEVICE.update().values(unseen=DEVICE.c.unseen + 1))
            # One that is queued looks now and then whether it may begin; all else is at once.
            live = ROLLOUT.c.follow_until.is_(None) | (ROLLOUT.c.follow_until >= self.now)
            live &= ROLLOUT.c.status != "queued"
            connection.execute(ROLLOUT.update().where(live).values(due=self.now))
        with store.read() as connection:
            look = Look(
                connection, self.now, devices.unseen(connection, "", 1000),
                rollouts.due(connection, self.now),
            )  # fmt: skip
            look.run()
        return [change for change in look.changes if _matters(change)]


def _matters(change: Change) -> bool:
    """Whether more would change than the sentence that says what is waited for."""
    before = change.before.replace(waiting="")
    return bool(change.actions) or change.after.replace(waiting="") != before


@pytest.mark.parametrize("seed", [0, 2, 3, 5])
def test_what_changed_and_what_is_due_is_all_that_there_is_to_do(tmp_path: Path, seed: int) -> None:
    """After anything, in any order, at any time: a look at everything finds nothing more."""
    rng = random.Random(seed)
    chance = Chance(tmp_path, rng)
    chance.add(*NAMES[:6])
    story: list[str] = []
    ended: set[str] = set()
    for step in range(100):
        if step % 12 == 0:
            for name in NAMES[:6]:
                chance.online(name, online=True)
            chance.see_to_it()
        story.append(chance.happen())
        chance.quiet()
        missed = chance.missed()
        assert not missed, (story, [msgspec.to_builtins(change.after) for change in missed])
        ended |= {r for r in chance.created if chance.status(r) in ENDED}
    assert len(ended) > 3, "something was rolled out"
    with chance.store.read() as connection:
        counted = rollouts.phase_counts(connection, chance.created)
        for rollout in chance.created:
            real: dict[int, dict[str, int]] = {}
            for member in rollouts.members_of(connection, rollout).values():
                phases = real.setdefault(member.wave, {})
                phases[member.phase] = phases.get(member.phase, 0) + 1
            assert counted[rollout] == real, "members are counted as they change"
        marked = sa.select(sa.func.count()).select_from(DEVICE).where(DEVICE.c.unseen > 0)
        assert connection.scalar(marked) == 0
    chance.copied.close()
    chance.store.close()
    shutil.rmtree(tmp_path)
