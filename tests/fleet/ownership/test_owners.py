"""Controllers that meet at a real broker: one has the fleet, and the others send nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from contracts import codec
from contracts.config import MqttConfig
from contracts.errors import UnavailableError
from fleet import controller as controller_module
from fleet.controller import Controller
from fleet.folder import Fleet
from fleet.mqtt import link as link_module
from fleet.ownership import judge as judge_module
from fleet.store import ownership
from tests.support.broker import embedded, mosquitto
from tests.support.owners import Sea, Witness, newest, take_over, until, want

LEASE_S = 1.0
QUIET_S = 3.0


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """Ends what a test has begun; leases are short."""
    monkeypatch.setattr(controller_module, "_LEASE_S", LEASE_S)
    monkeypatch.setattr(judge_module, "PATIENCE_S", 2 * LEASE_S)
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def sea(tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str, stack: ExitStack) -> Sea:
    """A fleet that nobody has yet."""
    return Sea(tmp_path, mosquitto_broker, fleet_name, stack)


def test_desired_documents_carry_the_fence_of_the_owner_which_grows_with_each(sea: Sea) -> None:
    """A restart is a new owner; nothing is sent under an older fence."""
    first = sea.start()
    assert until(lambda: first.ownership.speaks)
    want(first)
    assert until(lambda: sea.witness.desired())
    sea.stop(first)
    assert sea.witness.owner is not None and sea.witness.owner.state == "offline"
    second = sea.start()
    assert until(lambda: second.ownership.speaks)
    want(second)
    assert until(lambda: sea.witness.desired()[-1].revision == 2)
    before, after = sea.witness.desired()[0], sea.witness.desired()[-1]
    assert 0 < before.fence < after.fence == sea.witness.owner.fence == newest(second)


def test_a_restored_fleet_sends_nothing_while_another_has_it(sea: Sea) -> None:
    """Not one message, no ingest, no step of a rollout; it says so, and the other goes on."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    want(live)
    assert until(lambda: sea.witness.desired())
    other = sea.start(sea.restored())
    assert until(lambda: "sends nothing" in other.ownership.reason)
    sent, owners, steps = len(sea.witness.sent), len(sea.witness.owners), live.steps
    want(other)
    assert not until(lambda: len(sea.witness.sent) > sent, QUIET_S)
    assert len(sea.witness.owners) == owners
    assert other.ready == {"database": True, "broker": True, "owner": False, "disk": True}
    assert "shoal fleet takeover" in other.problems[0]
    assert not other.ingesting and not other.leading and other.steps == 0
    assert all(live.ready.values()) and live.steps > steps
    want(live)
    assert until(lambda: len(sea.witness.sent) == sent + 1)


def test_a_restored_fleet_sends_nothing_when_the_other_is_away(sea: Sea) -> None:
    """It may only be restarted just now."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    restored = sea.restored()
    sea.stop(live)
    other = sea.start(restored)
    assert until(lambda: "sends nothing" in other.ownership.reason)
    want(other)
    assert not until(lambda: sea.witness.sent, QUIET_S)
    again = sea.start()
    assert until(lambda: again.ownership.speaks)
    assert not other.ownership.speaks


def test_a_person_gives_the_fleet_to_a_restored_one_and_the_other_falls_silent(sea: Sea) -> None:
    """All is sent again with a fence above the other's, whose later words are not sent."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    want(live)
    assert until(lambda: sea.witness.desired())
    restored = sea.restored()
    sea.stop(live)
    live = sea.start()  # its fence is above that of the backup
    assert until(lambda: live.ownership.speaks)
    before = newest(live)
    other = sea.start(restored)
    assert until(lambda: "sends nothing" in other.ownership.reason)
    take_over(restored)
    assert until(lambda: other.ownership.speaks and not live.ownership.speaks)
    fence = newest(other)
    assert fence > before
    assert until(lambda: sea.witness.desired(fence))
    assert "sends nothing" in live.ownership.reason and not live.ingesting
    assert until(lambda: other.ingesting)
    sent = len(sea.witness.sent)
    want(live)
    assert not until(lambda: len(sea.witness.sent) > sent, QUIET_S)
    # And it stays so over restarts of both.
    for controller in (live, other):
        sea.stop(controller)
    live, other = sea.start(), sea.start(restored)
    assert until(lambda: other.ownership.speaks)
    assert until(lambda: "sends nothing" in live.ownership.reason)
    with other.store.read() as connection:
        assert not ownership.known(connection).granted


def test_a_copy_made_while_the_owner_ran_is_told_apart_by_the_lease(sea: Sea) -> None:
    """It knows all fences; but the owner lives and does not renew its lease there."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    copied = sea.copied()
    other = sea.start(copied)
    assert until(lambda: "does not use this database" in other.ownership.reason)
    want(other)
    assert not until(lambda: sea.witness.sent, QUIET_S)
    assert live.ownership.speaks
    # The owner is restarted: the copy does not take its chance.
    sea.stop(live)
    assert not until(lambda: other.ownership.speaks, QUIET_S)
    sea.stop(other)
    other = sea.start(copied)
    assert not until(lambda: other.ownership.speaks, QUIET_S)
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    assert not sea.witness.sent
    take_over(copied)
    assert until(lambda: other.ownership.speaks and not live.ownership.speaks)


def test_a_word_that_a_power_cut_left_at_the_broker_keeps_nobody_from_the_fleet(sea: Sea) -> None:
    """The broker fell with the owner: its file says that the owner is online."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    word = sea.witness.owner
    assert word is not None
    sea.stop(live)
    sea.witness.say(codec.encode(word))
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    with live.store.read() as connection:
        assert ownership.known(connection).contested is None


def test_a_copy_that_ran_while_the_owner_was_away_keeps_the_fleet(sea: Sea) -> None:
    """Nobody could know better; whoever comes second stands back and says so."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    copied = sea.copied()
    sea.stop(live)
    other = sea.start(copied)
    assert until(lambda: other.ownership.speaks)
    assert sea.witness.owner is not None
    assert sea.witness.owner.instance == other.ownership.instance
    live = sea.start()
    assert until(lambda: "sends nothing" in live.ownership.reason)
    assert other.ownership.speaks


@pytest.mark.parametrize("ahead_s", [0.0, 100.0])
def test_of_two_that_race_for_a_new_broker_one_gets_the_fleet(
    sea: Sea, tmp_path: Path, ahead_s: float
) -> None:
    """Also when both have the same fence, as both began in the same second."""
    rival = Fleet.init(tmp_path / "rival", sea.fleet.config)
    first, second = sea.start(), sea.start(rival, ahead_s)
    assert until(lambda: first.ownership.speaks or second.ownership.speaks)
    want(first)
    want(second)
    assert until(lambda: sea.witness.desired())
    assert not until(lambda: first.ownership.speaks and second.ownership.speaks, QUIET_S)
    winner, loser = (first, second) if first.ownership.speaks else (second, first)
    assert until(lambda: "sends nothing" in loser.ownership.reason)
    assert sea.witness.owner is not None
    assert sea.witness.owner.instance == winner.ownership.instance
    assert len(sea.witness.desired()) == 1, "the loser has sent nothing in between"


def test_the_will_of_an_old_connection_does_not_undo_the_owners_word(sea: Sea) -> None:
    """Nor does anything that says less than the owner's fence."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    owner = sea.witness.owner
    assert owner is not None
    for late in (
        msgspec.structs.replace(owner, state="offline"),
        msgspec.structs.replace(owner, fence=owner.fence - 1, instance="old", state="offline"),
        msgspec.structs.replace(owner, database="other", instance="late"),
    ):
        sea.witness.say(codec.encode(late))
        assert until(lambda: sea.witness.owner == owner)
    for garbage in (b"{", b'{"fence": -1}', b"\xff" * 100, b""):
        heard = len(sea.witness.owners)
        sea.witness.say(garbage)
        while len(sea.witness.owners) < heard + 2:
            assert until(lambda: sea.witness.owner == owner), "it was not overwritten"
        assert until(lambda: sea.witness.owner == owner)
    assert until(lambda: live.ownership.speaks)


def test_a_higher_fence_silences_the_owner_at_once(sea: Sea) -> None:
    """Whoever says so has been told to take the fleet."""
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    owner = sea.witness.owner
    assert owner is not None
    taken = msgspec.structs.replace(owner, database="o", fence=owner.fence + 1, instance="x")
    sea.witness.say(codec.encode(taken))
    assert until(lambda: not live.ownership.speaks and not live.outbox.link.connected.is_set())
    want(live)
    assert not until(lambda: sea.witness.sent, QUIET_S)
    assert sea.witness.owner == taken


def test_an_owners_word_that_cannot_be_read_is_not_overwritten(sea: Sea) -> None:
    """It may be of a newer version; a person's word is needed."""
    sea.witness.say(b'{"fence": "a new format"}')
    live = sea.start()
    assert until(lambda: "cannot read" in live.ownership.reason)
    take_over(sea.fleet)
    assert until(lambda: live.ownership.speaks)


def test_a_broker_that_lost_everything_is_told_again(
    tmp_path: Path, fleet_name: str, stack: ExitStack
) -> None:
    """Killed without its file: the owner has the fleet still, and sends again."""
    inner = stack.enter_context(ExitStack())
    mqtt = inner.enter_context(mosquitto())
    sea = Sea(tmp_path, mqtt, fleet_name, stack)
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    fence = newest(live)
    inner.close()
    assert until(lambda: live.ownership.fence == 0)
    stack.enter_context(mosquitto(mqtt.port))
    witness = stack.enter_context(closing(Witness(mqtt, fleet_name)))
    assert until(lambda: witness.owner is not None and witness.owner.fence == fence, 40)
    want(live)
    assert until(lambda: witness.desired(fence), 40)


def test_the_embedded_broker_shows_the_owner_and_that_it_is_gone(
    tmp_path: Path, fleet_name: str, stack: ExitStack
) -> None:
    """The demo's broker keeps retained documents and wills as mosquitto does."""
    mqtt = stack.enter_context(embedded())
    sea = Sea(tmp_path, mqtt, fleet_name, stack)
    live = sea.start()
    assert until(lambda: live.ownership.speaks)
    other = sea.start(sea.restored())
    assert until(lambda: "sends nothing" in other.ownership.reason)
    want(other)
    assert not until(lambda: sea.witness.sent, QUIET_S)
    hold = live.ownership._hold
    assert hold is not None
    hold._client.socket().close()  # type: ignore[union-attr]
    assert until(lambda: any(o is not None and o.state == "offline" for o in sea.witness.owners))
    assert until(lambda: sea.witness.owner is not None and sea.witness.owner.state == "online")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_clocks_that_differ_by_an_hour_do_not_pass_the_fleet_to_and_fro(
    sea: Sea, database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On PostgreSQL the server's clock counts for all; on SQLite there is one machine."""
    if database == "postgresql":
        server = request.getfixturevalue("postgres_server")
        url = sea.stack.enter_context(server.database())
        config = msgspec.structs.replace(sea.fleet.config, database=url)
        sea.fleet = Fleet.init(tmp_path / "pg", config)
    ahead_s = [0.0, 3600.0] if database == "postgresql" else [0.0, 0.0]
    first = sea.start(ahead_s=ahead_s[0])
    assert until(lambda: first.ownership.speaks)
    second = sea.start(ahead_s=ahead_s[1])
    assert until(lambda: second.ownership.speaks)
    with first.store.read() as connection:
        before = ownership.known(connection)
    assert not until(lambda: newest(first) != max(before.fences), 4 * LEASE_S)
    # And the one that is left goes on.
    sea.stop(first)
    assert until(lambda: newest(second) > max(before.fences))
    assert until(lambda: second.ownership.fence == newest(second))


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_jumps_takes_the_fleet_from_nobody(sea: Sea, jump_s: float) -> None:
    """A lease that was written by the clock before is renewed by the clock after."""
    jump = 0.0
    controller = Controller(Fleet.open(sea.fleet.folder), lambda: time.time() + jump)
    sea.stack.callback(sea.stop, controller)
    sea.running.append(controller)
    controller.start()
    assert until(lambda: controller.ownership.speaks)
    fence = newest(controller)
    jump = jump_s
    want(controller)
    assert until(lambda: sea.witness.desired(fence))
    assert not until(lambda: not controller.ownership.fence, 3 * LEASE_S)
    sea.stop(controller)
    again = sea.start()
    assert until(lambda: again.ownership.speaks and newest(again) > fence)


def test_a_word_between_two_readings_makes_no_predecessor_a_stranger(
    sea: Sea, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was asked of the fences that were known before the broker sent its document."""
    first = sea.start()
    assert until(lambda: first.ownership.speaks)
    sea.stop(first)
    known = ownership.known

    def slowly(connection: sa.Connection, asked: Sequence[int] = ()) -> ownership.Known:
        found = known(connection, asked)
        if not asked:
            until(lambda: sea.running[-1].ownership._document is not None, 5.0)
        return found

    monkeypatch.setattr(ownership, "known", slowly)
    with capture_logs() as logs:
        second = sea.start()
        assert until(lambda: second.ownership.speaks)
    assert [log["event"] for log in logs if log["log_level"] == "error"] == []


def test_an_owner_goes_on_after_a_time_in_which_neither_database_nor_connections_could_be_used(
    sea: Sea, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, or without a file handle left: its lease lapsed, and it takes it again."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise UnavailableError("database", "no byte can be written")

    live = sea.start()
    assert until(lambda: live.ownership.fence)
    want(live)
    assert until(lambda: sea.witness.desired())
    with monkeypatch.context() as patch:
        patch.setattr(ownership, "take", refuse)
        patch.setattr(link_module, "new_client", refuse)
        assert until(lambda: not live.ownership.fence)
        assert until(lambda: "database" in live.ownership.reason)
    sent = len(sea.witness.desired())
    assert until(lambda: live.ownership.fence)
    want(live)
    assert until(lambda: len(sea.witness.desired()) > sent)
