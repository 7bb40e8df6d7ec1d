"""The controller finds what is wrong by its rules, and tells it once, whatever happens to it.

Over 400 lines: one lookout, an example for each rule.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from contracts.bundle import Bundle
from contracts.errors import RefusedError
from contracts.judged import Judged
from contracts.messages import BundleRef, ErrorInfo, UpdateEvent
from fleet.alerts import rule as rules
from fleet.alerts.rule import Rule
from fleet.expiry import Item
from fleet.figures import Figures
from fleet.lookout import commands
from fleet.lookout.lookout import GATHER_S, Lookout
from fleet.lookout.measure import Measurer
from fleet.store import Store, alerts, bundles, mail, rollups, webhooks
from fleet.store.documents import dump
from fleet.store.entries import Actor
from fleet.store.schema import DEVICE, TRAIT
from fleet.store.webhooks import Webhook

NOW = 1_800_000_000.0
DAY_S = 24 * 3600.0
TINY = Path(__file__).parents[2] / "data" / "tiny-classifier-1.0.0"
ANN = Actor("ann", "admin")
BUNDLE = Bundle.open(TINY)


def device(store: Store, name: str, **more: Any) -> None:
    """A device that is online and has what is wanted."""
    values = {"id": name, "state": "online", "state_at": NOW - 30 * DAY_S, "enrolled_at": 1.0}
    with store.write() as connection:
        connection.execute(DEVICE.insert().values(**(values | more)))


def change(store: Store, name: str, **more: Any) -> None:
    """Something becomes of it."""
    with store.write() as connection:
        connection.execute(DEVICE.update().where(DEVICE.c.id == name).values(**more))


def measured(
    store: Store, name: str, figures: Figures, *, slot: str = "classify", bundle: str = "",
    at: float = NOW,
) -> None:  # fmt: skip
    """Figures of a minute, its hour, and of all devices together."""
    keys = (
        (60, name, slot, bundle, int(at) // 60 * 60),
        (3600, name, slot, bundle, int(at) // 3600 * 3600),
        (60, "", slot, bundle, int(at) // 60 * 60),
    )
    with store.write() as connection:
        # What is added becomes what is stored: each row has figures of its own.
        rollups.add(store, connection, {key: copy.deepcopy(figures) for key in keys})


def gauge(store: Store, name: str, **values: float) -> None:
    """A device tells gauges."""
    found = {gauge: (NOW - 60, value) for gauge, value in values.items()}
    measured(store, name, Figures(samples=1, gauges=found), slot="device", at=NOW - 60)


def refused(revision: int) -> str:
    """The newest event of a device that refused what was wanted."""
    ref = BundleRef("m", "1.0.0", "a" * 64)
    reason = ErrorInfo("golden-mismatch", "its answers did not match")
    return dump(UpdateEvent("b", 1, revision, "classify", ref, "refused", NOW, reason=reason))


def publish(store: Store) -> str:
    """A published model with a baseline; sha256 of its manifest."""
    with store.write() as connection:
        manifest = (TINY / "manifest.json").read_bytes()
        bundles.add(store, connection, BUNDLE.ref, 1, manifest, NOW)
    return BUNDLE.ref.manifest_sha256


def found_by(
    store: Store, kind: str, expiring: Sequence[Item] = (), **given: Any
) -> dict[str, bool]:
    """What a rule of a kind finds: subject, and whether it is wrong."""
    rule = rules.new("r", kind, now=NOW, by="ann", **given)
    with store.read() as connection:
        found = Measurer(connection, NOW, lambda: expiring).measure(rule, {}).readings
    return {subject: one.wrong for subject, one in found.items()}


def test_many_errors_are_found(store: Store) -> None:
    """Of devices that were asked enough, in the last minutes, by the selector, that may connect."""
    for name in ("well", "near", "ill", "few", "old", "gone"):
        device(store, name, board="pi" if name != "near" else "jetson")
    change(store, "gone", revoked_at=NOW)
    for name, requests, errors, at in (
        ("well", 100, 5, NOW), ("near", 1000, 95, NOW), ("ill", 100, 20, NOW),
        ("few", 5, 5, NOW), ("old", 100, 50, NOW - 3600), ("gone", 100, 50, NOW),
    ):  # fmt: skip
        measured(store, name, Figures(requests=requests, errors=errors), at=at)
    assert found_by(store, "error-rate") == {"near": False, "ill": True}
    assert found_by(store, "error-rate", selected="board=jetson") == {"near": False}


def test_devices_that_are_offline_are_found(store: Store) -> None:
    """For as long as the threshold says; one that was never seen is not offline."""
    device(store, "here")
    device(store, "away", state="offline", state_at=NOW - 1000)
    device(store, "just", state="offline", state_at=NOW - 100)
    device(store, "never", state="unknown", state_at=None)
    device(store, "left", state="offline", state_at=NOW - 1000, revoked_at=NOW)
    assert found_by(store, "offline") == {"away": True, "just": False}


def test_disks_and_temperatures_are_found_by_the_newest_gauge(store: Store) -> None:
    """One that tells nothing is not known to be well."""
    for name in ("well", "full", "hot", "silent"):
        device(store, name)
    gauge(store, "well", disk_free_bytes=5e9, temperature_c=50.0)
    gauge(store, "full", disk_free_bytes=1e6, temperature_c=50.0)
    gauge(store, "hot", disk_free_bytes=5e9, temperature_c=95.0)
    measured(
        store, "hot", Figures(gauges={"temperature_c": (NOW - 3000, 20.0)}),
        slot="device", at=NOW - 3000,
    )  # fmt: skip
    assert found_by(store, "disk") == {"full": True}
    assert found_by(store, "temperature") == {"hot": True}
    rule = rules.new("r", "temperature", now=NOW, by="ann")
    known = dict.fromkeys(("silent", "well", "nobody"))
    with store.read() as connection:
        found = Measurer(connection, NOW).measure(rule, known)  # type: ignore[arg-type]
    assert found.unknown == {"silent"}


def test_devices_without_their_version_are_found_and_why(store: Store) -> None:
    """Not those that are away, wait for their window, or have had too little time."""
    wanted = {"desired_revision": 2, "reached_revision": 1, "desired_at": NOW - 5000}
    device(store, "well", **(wanted | {"reached_revision": 2}))
    device(store, "stuck", **wanted)
    device(store, "away", **wanted, state="offline")
    device(store, "new", **(wanted | {"desired_at": NOW - 60}))
    device(store, "back", **(wanted | {"state_at": NOW - 60}))
    device(store, "window", **wanted)
    device(store, "full", **wanted)
    device(store, "refuses", **(wanted | {"reached_revision": 2, "update": refused(2)}))
    device(store, "refused", **(wanted | {"reached_revision": 2, "update": refused(1)}))
    with store.write() as connection:
        for name, code in (("window", "window-closed"), ("full", "disk-full")):
            row = {"device": name, "key": "own:waits", "value": code, "source": "own"}
            connection.execute(TRAIT.insert().values(**row))
    found = found_by(store, "stuck")
    assert {name for name, wrong in found.items() if wrong} == {"stuck", "full", "refuses"}
    assert set(found) == {"stuck", "full", "refuses", "away", "new", "back", "window"}
    rule = rules.new("r", "stuck", now=NOW, by="ann")
    with store.read() as connection:
        said = Measurer(connection, NOW).measure(rule, {}).readings
    assert "its answers did not match" in said["refuses"].message
    assert "disk-full" in said["full"].message


@pytest.mark.parametrize("selected", ["all", "board=pi"])
def test_a_model_whose_answers_differ_from_its_test_is_found(store: Store, selected: str) -> None:
    """Over the devices of the selector together, once there are enough answers."""
    device(store, "d1", board="pi")
    bundle = publish(store)
    baseline = BUNDLE.manifest.baseline
    assert baseline is not None
    alike = {label: round(200 * share) for label, share in baseline.labels.items()}
    measured(store, "d1", Figures(labels=alike), bundle=bundle)
    assert found_by(store, "drift", selected=selected) == {}
    assert found_by(store, "drift", selected="board=none") == {}
    rarest = min(baseline.labels, key=lambda label: baseline.labels[label])
    measured(store, "d1", Figures(labels={rarest: 900}), bundle=bundle)
    assert found_by(store, "drift", selected=selected) == {"tiny-classifier 1.0.0": True}


def test_a_model_that_people_say_is_wrong_is_found(store: Store) -> None:
    """When chance does not explain it."""
    bundle = publish(store)
    for number in range(3):
        device(store, f"d{number}")
        measured(store, f"d{number}", Figures(judged=Judged(right=10, wrong=30)), bundle=bundle)
    assert found_by(store, "field-accuracy") == {"tiny-classifier 1.0.0": True}
    assert found_by(store, "field-accuracy", threshold=0.2) == {}


def test_what_runs_out_is_found(store: Store) -> None:
    """But not what lasts a day at all, and not by a rule on other devices."""
    device(store, "d1", board="pi")
    device(store, "d2", board="jetson")
    items = [
        Item("device", "d1", NOW + 3 * DAY_S, 365 * DAY_S, "renew"),
        Item("device", "d2", NOW + 300 * DAY_S, 365 * DAY_S, "renew"),
        Item("role", "timestamp", NOW + 0.9 * DAY_S, DAY_S, "resign"),
        Item("certificate", "API", NOW - DAY_S, 365 * DAY_S, "renew"),
        Item("token", "ci", NOW + DAY_S, 365 * DAY_S, "renew"),
    ]
    found = found_by(store, "expiry", items)
    assert found == {items[0].key: True, items[3].key: True}
    assert set(found_by(store, "expiry", items, selected="board=pi")) == {items[0].key}


# What becomes of it. ---------------------------------------------------------------------------


class Told:
    """One controller after the other on a database, and what people were told."""

    def __init__(self, store: Store, kind: str = "offline", **given: Any) -> None:
        self.store = store
        self.now = NOW
        with store.write() as connection:
            for one in alerts.rules(connection):
                alerts.remove_rule(connection, one.id, NOW)
            self.rule = rules.new("r1", kind, now=NOW, by="ann", **given)
            alerts.add_rule(connection, self.rule)
            webhooks.add(connection, Webhook("w1", "http://h/x", "s" * 32, ["*"], 1.0, 1))
        self.restart()

    def restart(self) -> None:
        """Another process goes on."""
        self.lookout = Lookout(
            self.store, lambda: self.now, to=["ann@example.org"], mails=True, fleet="home",
            url="https://fleet.example.org",
        )  # fmt: skip

    def at(self, seconds: float) -> list[str]:
        """A look; the events that webhooks have been told in all."""
        self.now = NOW + seconds
        self.lookout.look()
        return self.events()

    def events(self) -> list[str]:
        """Events that webhooks have been told in all, oldest first."""
        with self.store.read() as connection:
            return [one.event for one in webhooks.due(connection, 1e11, 100)]

    def mails(self) -> list[mail.Mail]:
        """Mail in all, oldest first."""
        with self.store.read() as connection:
            return mail.newest(connection, 100)[::-1]

    def alerts(self, which: alerts.Which = "all") -> list[alerts.Alert]:
        """Alerts, newest first."""
        with self.store.read() as connection:
            return alerts.page(connection, which, None, 100)[0]


def test_an_alert_is_told_once_and_its_end_once_across_restarts(store: Store) -> None:
    """By every way; since when it is wrong, and what was told, is in the database."""
    device(store, "d1")
    told = Told(store, hold_s=60.0, clear_s=120.0)
    assert told.at(0) == []
    change(store, "d1", state="offline", state_at=NOW - 1000)
    assert told.at(10) == []
    told.restart()
    assert told.at(60) == []
    assert told.at(75) == ["alert-opened"]
    for seconds in (80, 200, 1000):
        told.restart()
        assert told.at(seconds) == ["alert-opened"]
    change(store, "d1", state="online", state_at=NOW + 1000)
    assert told.at(1010) == ["alert-opened"]
    told.restart()
    assert told.at(1140) == ["alert-opened", "alert-resolved"]
    for seconds in (1200, 5000):
        told.restart()
        assert len(told.at(seconds)) == 2
    (alert,) = told.alerts()
    assert (alert.device, alert.status, alert.told) == ("d1", "resolved", True)
    assert (alert.since, alert.opened_at, alert.resolved_at) == (NOW + 10, NOW + 75, NOW + 1140)
    opened, resolved = told.mails()
    assert opened.recipient == "ann@example.org"
    assert opened.subject == "[home] Offline: d1"
    assert "d1 has had no connection for" in opened.body
    assert "https://fleet.example.org/ui/alerts" in opened.body
    assert resolved.subject == "[home] Offline: d1 resolved"


def test_what_goes_wrong_with_many_is_told_together(store: Store) -> None:
    """The first at once; what opens within minutes in one message, that lists a bounded number."""
    for number in range(60):
        device(store, f"d{number:02}")
    told = Told(store)
    change(store, "d00", state="offline", state_at=NOW - 1000)
    assert told.at(0) == ["alert-opened"]
    with store.write() as connection:
        away = {"state": "offline", "state_at": NOW - 1000}
        connection.execute(DEVICE.update().where(DEVICE.c.id > "d00").values(**away))
    assert told.at(30) == ["alert-opened"]
    assert len(told.alerts("open")) == 60
    change(store, "d01", state="online", state_at=NOW)
    told.at(60)
    told.at(200)
    assert len(told.events()) == 1
    assert told.at(GATHER_S) == ["alert-opened"] * 2 + ["alert-resolved"]
    assert len(told.mails()) == 2
    assert told.mails()[-1].subject == "[home] Offline: 58 open, 1 resolved"
    assert "and 38 more" in told.mails()[-1].body
    with store.read() as connection:
        newest = webhooks.due(connection, 1e11, 100)[1]
    data = msgspec.json.decode(newest.payload)["data"]
    assert (data["rule"], data["count"], len(data["alerts"])) == ("r1", 58, 20)


def test_of_a_silenced_rule_nobody_is_told_until_the_silence_ends(store: Store) -> None:
    """Then of what is open still; of what came and went nobody ever is."""
    device(store, "d1")
    device(store, "d2")
    told = Told(store, clear_s=0.0)
    commands.silence(store, "r1", 3600.0, ANN, NOW)
    for name in ("d1", "d2"):
        change(store, name, state="offline", state_at=NOW - 1000)
    told.at(0)
    change(store, "d2", state="online", state_at=NOW)
    assert told.at(600) == []
    assert [one.device for one in told.alerts("open")] == ["d1"]
    assert [one.device for one in told.alerts("past")] == ["d2"]
    assert told.at(3601) == ["alert-opened"]
    assert [one.subject for one in told.mails()] == ["[home] Offline: d1"]
    commands.silence(store, "r1", 0.0, ANN, NOW)
    change(store, "d1", state="online", state_at=NOW)
    assert told.at(7200) == ["alert-opened", "alert-resolved"]


def test_a_look_that_finds_nothing_new_writes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert that goes on costs no write, however many there are."""
    for number in range(5):
        device(store, f"d{number}", state="offline", state_at=NOW - 1000)
    told = Told(store)
    told.at(0)

    @contextlib.contextmanager
    def forbidden() -> Iterator[sa.Connection]:
        raise AssertionError
        yield

    monkeypatch.setattr(store, "write", forbidden)
    told.at(30)
    told.at(5000)


def test_two_controllers_that_look_at_once_tell_it_once(store: Store) -> None:
    """Both have found it before either has stored it."""
    device(store, "d1", state="offline", state_at=NOW - 1000)
    told = Told(store)
    first = told.lookout
    told.restart()
    second = told.lookout
    with store.read() as connection:
        known = alerts.rules(connection)
        changes = [one._judge(connection, known, NOW) for one in (first, second)]
    for lookout, some in zip((first, second), changes, strict=True):
        with store.write() as connection:
            for rule, found in some:
                alerts.change(store, connection, rule, found, NOW)
            lookout._tell(connection, NOW)
    assert told.events() == ["alert-opened"]
    assert len(told.alerts()) == 1


def test_a_rule_that_cannot_be_looked_at_stops_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect with one kind."""
    device(store, "d1", state="offline", state_at=NOW - 1000)
    told = Told(store)
    with store.write() as connection:
        alerts.add_rule(connection, rules.new("a0", "stuck", now=1.0, by="ann"))

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Measurer, "_stuck", fails)
    assert told.at(0) == ["alert-opened"]


def test_of_a_device_that_left_nothing_is_open(store: Store) -> None:
    """Revoked: what was wrong with it is over."""
    device(store, "d1", state="offline", state_at=NOW - 1000)
    told = Told(store, clear_s=0.0)
    told.at(0)
    change(store, "d1", revoked_at=NOW)
    told.at(30)
    assert told.alerts("open") == []


def test_a_rule_that_is_removed_leaves_nothing_open(store: Store) -> None:
    """And nobody is told of the end, nor of what was still to be told."""
    device(store, "d1", state="offline", state_at=NOW - 1000)
    told = Told(store)
    told.at(0)
    commands.remove(store, "r1", ANN, NOW)
    assert told.at(1000) == ["alert-opened"]
    assert [one.status for one in told.alerts()] == ["resolved"]


def test_a_new_fleet_has_rules_that_the_code_knows(store: Store) -> None:
    """One of each kind, but that of field accuracy, whose threshold nobody knows beforehand."""
    with store.read() as connection:
        found = alerts.rules(connection)
    assert {one.kind for one in found} == set(rules.KINDS) - {"field-accuracy"}
    for one in found:
        usual: Rule = rules.new(one.id, one.kind, now=0.0, by="")
        for name in ("threshold", "hold_s", "clear_s", "selector", "emails"):
            assert getattr(one, name) == getattr(usual, name)


def test_a_test_goes_to_all_who_get_alerts_and_says_when_nobody_does(store: Store) -> None:
    """A webhook that wants other events gets none."""
    told = Told(store)
    with store.write() as connection:
        for name, events in (("w2", ["alert-opened"]), ("w3", ["device-offline"])):
            webhooks.add(connection, Webhook(name, "http://h/x", "s" * 32, events, 1.0, 1))
    assert commands.test(store, told.lookout, [], ANN, NOW) == (2, [1])
    assert commands.test(store, told.lookout, ["b@example.org"], ANN, NOW)[1] == [2]
    found = commands.deliveries(store, 10)
    assert {(one.way, one.event) for one in found} == {
        ("webhook", "alert-test"),
        ("mail", "alert-test"),
    }
    assert {one.to for one in found} == {"http://h:80", "ann@example.org", "b@example.org"}
    with store.write() as connection:
        for name in ("w1", "w2", "w3"):
            webhooks.remove(connection, name)
    with pytest.raises(RefusedError, match="nobody would be told"):
        commands.test(store, Lookout(store), [], ANN, NOW)
