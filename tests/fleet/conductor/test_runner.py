"""The runner on a real database: which rollouts it steps, in which order, and what it reads.

Over 400 lines: every case is one of the same small fleet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from contracts.messages import BundleRef, Reported, SlotReport, Status, UpdateEvent
from fleet.conductor.look import Look
from fleet.conductor.runner import Runner
from fleet.folder import Fleet, FleetConfig
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from fleet.rollout.selector import parse
from fleet.rollout.spec import RolloutSpec
from fleet.store import Store, departures, desired, devices, rollouts, selection
from fleet.store.schema import DEVICE, ROLLOUT, TRAIT
from tests.support.bundles import noise_bundle

VERSIONS = ("1.0.0", "2.0.0")


class Small:
    """A controller's store and runner; devices do what a test says, by the test's clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet.init(folder / "fleet", FleetConfig("home"))
        self.refs: dict[str, BundleRef] = {}
        for version in VERSIONS:
            self.publish(version)
        self.store: Store = self.fleet.open_store()
        self.now = 1_000_000.0
        self.runner = Runner(self.store, clock=lambda: self.now)
        self.writer = Writer(self.store)
        self.session = 0

    def publish(self, version: str) -> None:
        """Publishes a version."""
        bundle = noise_bundle(self.folder / version, version=version, seed=len(self.refs))
        self.refs[version] = self.fleet.publish(bundle.path)[0]

    def abort(self, rollout: str) -> None:
        """A person aborts a rollout, and the devices obey."""
        self.runner.command(rollout, "abort", "ann")

    def report(self, name: str, **slots: SlotReport) -> None:
        """A device says what its slots have."""
        self.hear(name, self._reported(self.device(name), slots))

    def _reported(self, device: devices.Device, slots: dict[str, SlotReport]) -> Reported:
        return Reported(
            device.id, "b", "1.0.0", "raspberry-pi-5", "tflite", self.now,
            slots=slots, desired_revision=device.desired_revision,
        )  # fmt: skip

    def add(self, *names: str) -> None:
        """Devices that are online and have no model."""
        with self.store.write() as connection:
            for name in names:
                devices.enroll(self.store, connection, name, "raspberry-pi-5", {}, [], self.now)
        for name in names:
            self.online(name, online=True)
        self.obey(*names)

    def online(self, name: str, *, online: bool) -> None:
        """A device comes or goes."""
        self.session += 1
        state = "online" if online else "offline"
        self.hear(name, Status(state, "b", self.session, self.now))

    def device(self, name: str) -> devices.Device:
        """What the store knows of a device."""
        with self.store.read() as connection:
            return devices.some(connection, [name])[name]

    def obey(self, *names: str) -> None:
        """Devices report that they have what they are asked for."""
        with self.store.read() as connection:
            found = devices.some(connection, names)
        said = [Message(name, self._done(found[name]), b"") for name in names]
        self.writer.write(said, self.now)

    def _done(self, device: devices.Device) -> Reported:
        """What a device says that has all that it is asked for."""
        slots = device.desired.slots if device.desired else {}
        had = device.reported.slots if device.reported else {}
        reports = {
            slot: SlotReport(
                active=asked.active or had.get(slot, SlotReport()).active, shadow=asked.shadow
            )
            for slot, asked in slots.items()
        }
        return self._reported(device, reports)

    def hear(self, name: str, said: Reported | Status | UpdateEvent) -> None:
        """What a device says, as ingest stores it."""
        self.writer.write([Message(name, said, b"")], self.now)

    def active(self, name: str) -> str | None:
        """The version that a device says it runs."""
        reported = self.device(name).reported
        slot = reported.slots.get("classify") if reported else None
        return slot.active.version if slot and slot.active else None

    def create(self, version: str, **fields: object) -> str:
        """A rollout of a version to all devices."""
        document = {
            "bundle": "noise", "version": version, "waves": [{"percent": 100}], "bake_s": 0,
        }  # fmt: skip
        spec = RolloutSpec.model_validate(document | fields)
        return self.runner.create(spec, "ann").state.id

    def status(self, rollout: str) -> str:
        """Where a rollout is."""
        with self.store.read() as connection:
            return rollouts.get(connection, rollout, members=False).state.header.status

    def settle(self, *names: str, ticks: int = 6) -> list[str | None]:
        """Ticks, with devices doing all that is asked; what the first one was asked for."""
        asked: list[str | None] = []
        for _ in range(ticks):
            self.runner.tick()
            desired = self.device(names[0]).desired
            slot = desired.slots.get("classify") if desired else None
            asked.append(slot.bundle.version if slot else None)
            self.obey(*names)
            self.now += 1
        return asked


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    """A fleet with two versions of one bundle."""
    found = Small(tmp_path)
    yield found
    found.store.close()


def test_a_late_joiner_of_a_rollout_that_nobody_follows_any_more_is_free(small: Small) -> None:
    """It went away in the middle of joining; the next rollout takes it when it is back."""
    small.add("a")
    first = small.create("1.0.0", follow_s=1000)
    small.settle("a")
    assert small.status(first) == "succeeded"
    small.add("late")
    small.runner.tick()
    assert small.device("late").rollout == first
    small.online("late", online=False)
    small.now += 2000
    small.online("late", online=True)
    small.obey("late")
    second = small.create("2.0.0")
    small.settle("a", "late", ticks=8)
    assert small.status(second) == "succeeded"
    assert small.active("late") == "2.0.0"
    assert small.device("late").rollout is None


def test_a_late_joiner_gets_the_newest_version_first(small: Small) -> None:
    """Never the one that was superseded, which may be why it was."""
    small.add("a")
    for version in VERSIONS:
        rollout = small.create(version)
        small.settle("a")
        assert small.status(rollout) == "succeeded"
    small.add("late")
    assert small.settle("late") == ["2.0.0"] * 6
    assert small.active("late") == "2.0.0"
    assert small.device("late").rollout is None


def test_a_late_joiner_waits_for_the_newest_version_to_be_in_its_windows(small: Small) -> None:
    """An older rollout without windows does not serve it meanwhile."""
    small.add("a")
    small.create("1.0.0")
    small.settle("a")
    small.now = 20 * 86400 + 2.5 * 3600
    second = small.create("2.0.0", windows=[{"start": "02:00", "end": "04:00"}])
    small.settle("a")
    assert small.status(second) == "succeeded"
    small.now += 4 * 3600
    small.add("late")
    assert small.settle("late") == [None] * 6
    small.now += 20 * 3600
    assert small.settle("late") == ["2.0.0"] * 6


def test_a_rollout_in_shadow_mode_keeps_no_late_joiner_from_its_model(small: Small) -> None:
    """The older one gives it a model that answers."""
    small.add("a")
    small.create("1.0.0")
    small.settle("a")
    second = small.create("2.0.0", mode="shadow")
    small.settle("a")
    assert small.status(second) == "succeeded"
    small.add("late")
    assert small.settle("late", ticks=1) == ["1.0.0"]


def test_the_end_of_a_shadow_rollout_leaves_the_model_that_answers(small: Small) -> None:
    """Also on a device of which nothing was desired before: what is not named, it empties."""
    small.add("a")
    active = small.refs["1.0.0"]
    small.report("a", classify=SlotReport(active=active))
    rollout = small.create("2.0.0", mode="shadow")
    small.runner.tick()
    desired = small.device("a").desired
    assert desired is not None
    assert desired.slots["classify"].beside == active
    small.obey("a")
    small.abort(rollout)
    small.settle("a")
    assert small.status(rollout) == "aborted"
    reported = small.device("a").reported
    assert reported is not None
    assert reported.slots["classify"] == SlotReport(active=active)


def test_a_device_with_a_shadow_gets_both_of_its_bundles_back(small: Small) -> None:
    """A wish for a shadow alone would leave the version that failed in service."""
    small.add("a")
    small.publish("3.0.0")
    for version, mode in (("1.0.0", "active"), ("2.0.0", "shadow")):
        rollout = small.create(version, mode=mode)
        small.settle("a")
        assert small.status(rollout) == "succeeded"
    rollout = small.create("3.0.0")
    small.runner.tick()
    small.obey("a")
    assert small.active("a") == "3.0.0"
    small.abort(rollout)
    small.settle("a")
    assert small.status(rollout) == "aborted"
    reported = small.device("a").reported
    assert reported is not None
    both = SlotReport(active=small.refs["1.0.0"], shadow=small.refs["2.0.0"])
    assert reported.slots["classify"] == both


def test_the_first_document_of_a_device_keeps_what_its_other_slots_have(small: Small) -> None:
    """A new database knows nothing of them; the device does."""
    small.add("a")
    other = BundleRef("stories", "1.0.0", "5" * 64)
    small.report("a", generate=SlotReport(active=other), ears=SlotReport(problem=None))
    small.create("1.0.0")
    small.runner.tick()
    desired = small.device("a").desired
    assert desired is not None
    assert set(desired.slots) == {"classify", "generate"}
    assert desired.slots["generate"].bundle == other


def _selected(small: Small, text: str) -> list[str]:
    with small.store.read() as connection:
        return devices.ids(connection, selection.means(parse(text)))


def test_a_slot_that_a_device_says_it_has_is_kept_but_not_given(small: Small) -> None:
    """Its first document names the slot, so that nothing is emptied: it is selected by none."""
    small.add("liar")
    claimed = BundleRef("stories", "1.0.0", "5" * 64)
    small.report("liar", generate=SlotReport(active=claimed))
    small.create("1.0.0")
    small.settle("liar")
    desired = small.device("liar").desired
    assert desired is not None
    assert desired.slots["generate"].kept and not desired.slots["classify"].kept
    assert _selected(small, "task=classify") == ["liar"]
    assert _selected(small, "task=generate") == []
    assert not small.device("liar").matches(parse("task=generate"))


def test_what_a_device_gets_back_by_its_own_word_is_not_given_either(small: Small) -> None:
    """An aborted rollout leaves the slot as the device said it was."""
    small.add("liar")
    claimed = BundleRef("stories", "1.0.0", "5" * 64)
    small.report("liar", classify=SlotReport(active=claimed))
    rollout = small.create("1.0.0")
    small.runner.tick()
    assert _selected(small, "task=classify") == ["liar"]
    small.abort(rollout)
    small.settle("liar")
    desired = small.device("liar").desired
    assert desired is not None
    assert desired.slots["classify"].bundle == claimed
    assert _selected(small, "task=classify") == []


def test_a_device_that_runs_the_version_already_is_given_it_without_an_update(
    small: Small,
) -> None:
    """A new database has not asked for it; the rollout does, also when the device comes later."""
    active = SlotReport(active=small.refs["1.0.0"])
    for name in ("early", "late", "other"):
        small.add(name)
    small.report("early", classify=active)
    small.report("late", classify=active)
    small.online("late", online=False)
    rollout = small.create("1.0.0", selector="early,late")
    small.settle("early")
    assert small.status(rollout) == "succeeded"
    assert _selected(small, "task=classify") == ["early", "late"]
    with small.store.read() as connection:
        assert rollouts.members_of(connection, rollout) == {}, "nothing moved"
    small.add("new")
    rollout = small.create("1.0.0", selector="device!=other")
    small.settle("new")
    small.add("later")
    small.report("later", classify=active)
    small.settle("later")
    assert _selected(small, "task=classify") == ["early", "late", "later", "new"]
    device = small.device("later")
    assert device.desired is not None and device.desired.slots["classify"].bundle == active.active
    assert device.rollout is None


def test_a_member_that_leaves_the_fleet_is_missed_at_once(small: Small) -> None:
    """It leaves no row that could change: the rollout does not wait for its deadline."""
    small.add("a", "b")
    rollout = small.create("1.0.0", deadline_s=5000)
    small.runner.tick()
    small.obey("a")
    while small.runner.tick():
        pass
    assert small.status(rollout) == "running"
    with small.store.write() as connection:
        departures.retire(small.store, connection, "b", "ann", small.now)
    small.settle("a", ticks=3)
    assert small.status(rollout) == "succeeded"


def test_a_document_that_became_newer_meanwhile_is_not_written_over(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest raised its revision behind the look: the device would ignore the engine's."""
    small.add("a")
    small.create("1.0.0")
    small.settle("a")
    second = small.create("2.0.0")
    whole = Look.run
    raised: list[int] = []

    def run(look: Look) -> None:
        whole(look)
        if not raised:
            raised.append(small.device("a").desired_revision + 50)
            claim = Reported("a", "b", "1", "raspberry-pi-5", "x", 0.0, desired_revision=raised[0])
            with small.store.write() as connection:
                desired.answer(small.store, connection, "a", claim, small.now)

    monkeypatch.setattr(Look, "run", run)
    while small.runner.tick():
        pass
    device = small.device("a")
    assert raised and device.desired_revision > raised[0] + 1
    assert device.desired is not None and device.desired.revision == device.desired_revision
    assert device.desired.slots["classify"].bundle == small.refs["2.0.0"]
    small.settle("a")
    assert small.status(second) == "succeeded"


def test_an_upgrade_goes_on_where_the_version_before_stood(small: Small) -> None:
    """Rollouts that were under way, that are followed, that ended: cursors, counts, moments."""
    small.add("a", "b")
    old = small.create("1.0.0", follow_s=10)
    small.settle("a", "b")
    small.now += 100
    followed = small.create("2.0.0")
    small.settle("a", "b")
    small.add("c")
    small.online("c", online=False)
    small.create("1.0.0", waves=[{"count": 1}, {"percent": 100}], offline_s=2)
    small.runner.tick()

    def known() -> list[list[Any]]:
        skip = {"due", "unseen", "version"}
        found = []
        with small.store.read() as connection:
            for table in (DEVICE, ROLLOUT, TRAIT):
                columns = [column for column in table.c if column.name not in skip]
                query = sa.select(*columns).order_by(*table.primary_key)
                found.append([tuple(row) for row in connection.execute(query)])
        return found

    before = known()
    with small.store.engine.connect() as connection, connection.begin():
        config = small.store._alembic()
        config.attributes["connection"] = connection
        command.downgrade(config, "0120")
    small.store.migrate()
    assert known() == before
    small.settle("a", "b", ticks=10)
    assert [small.status(r) for r in (old, followed, "r3")] == ["succeeded"] * 3
    small.online("c", online=True)
    assert small.settle("c") == ["1.0.0"] * 6
