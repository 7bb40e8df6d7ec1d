"""What was renewed reaches a real mosquitto, and the controller's own connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contracts.config import MqttConfig
from fleet import enforcement as access
from fleet.broker import MosquittoBroker
from fleet.controller import Controller
from fleet.folder import Fleet, FleetConfig
from fleet.identity import Identity
from fleet.mqtt.link import Link
from tests.fleet.broker.test_access import WAIT_S, connects
from tests.support.tools import free_port, need_tool

DAY = 86400.0


class Aged:
    """A fleet whose files were made long ago, and a broker that read them."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.fleet = Fleet.init(
            folder, FleetConfig("reef", mqtt=MqttConfig(port=port), mutual_tls=True)
        )
        self.device = self.fleet.enroll("d1", "raspberry-pi-5")[0].mqtt
        self.broker = MosquittoBroker(
            folder / "broker/mosquitto.conf",
            port=port,
            program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
        )

    def hide(self) -> None:
        """The broker runs where the controller cannot reach its process."""
        (self.fleet.folder / "broker/mosquitto.pid").unlink()

    def identity(self, days_ago: float) -> Identity:
        """The authority as it was."""
        return Identity.open(self.fleet.folder / "ca", clock=lambda: time.time() - days_ago * DAY)


@pytest.fixture
def aged(tmp_path: Path) -> Iterator[Aged]:
    """One for each test."""
    aged = Aged(tmp_path / "fleet")
    past = aged.identity(250)
    past.own.write_revocations()
    past.own.renew_broker(["127.0.0.1", "localhost"])
    with aged.broker:
        yield aged


def test_the_controller_warns_every_day_until_the_broker_uses_what_was_renewed(aged: Aged) -> None:
    """One that it may not signal. It asks the broker itself: a restart counts, too."""
    now = time.time()
    controller = Controller(aged.fleet, lambda: now)
    aged.hide()

    def warnings() -> list[str]:
        with capture_logs() as logs:
            controller._housekeeper()
            controller.watch.look()
        # Threads of tests before this one may log meanwhile.
        return [log["todo"] for log in logs if "todo" in log]

    def warned() -> int:
        """A broker that does not answer in time is looked at again, as if it were away."""
        deadline = time.monotonic() + WAIT_S
        while not (found := warnings()) and time.monotonic() < deadline:
            pass
        return len(found)

    assert warned() == 1
    assert "pkill -HUP mosquitto" in controller.watch.todo
    assert warnings() == [], "once a day"
    now += DAY + 1
    assert warned() == 1
    aged.broker.reload()
    deadline = time.monotonic() + WAIT_S
    while True:
        now += DAY + 1
        if not warnings():
            break
        assert time.monotonic() < deadline
    aged.broker.kill()
    now += DAY + 1
    assert warnings() == [], "a broker that is away reads its files when it starts"
    aged.broker.start()
    aged.hide()
    aged.identity(0).own.renew_broker(["127.0.0.1", "localhost"])
    assert warned() == 1, "and is looked at when it is back"
    controller.store.close()


def test_a_broker_that_may_be_signalled_reads_what_was_renewed_without_a_word(aged: Aged) -> None:
    """The controller has it read its files."""
    controller = Controller(aged.fleet)
    controller._housekeeper()
    assert not access.is_read(aged.fleet, controller.mqtt)
    with capture_logs() as logs:
        controller.watch.look()
    assert [log for log in logs if "todo" in log] == [] and controller.watch.todo == ""
    assert access.is_read(aged.fleet, controller.mqtt)
    controller.store.close()


def test_a_reload_applies_the_list_of_revoked_certificates(aged: Aged) -> None:
    """So that a broker need not be restarted for it, nor for a list that runs out."""
    assert connects(aged.device)
    aged.identity(0).revoke("d1")
    aged.broker.reload()
    deadline = time.monotonic() + WAIT_S
    while connects(aged.device):
        assert time.monotonic() < deadline


def test_a_controller_connects_with_the_certificate_that_was_renewed_while_it_ran(
    aged: Aged,
) -> None:
    """Its own ran out: without a restart it comes back."""
    aged.identity(731).own.renew_controller()
    link = Link(aged.fleet.controller_mqtt(), "controller")
    link.start()
    try:
        assert not link.connected.wait(0.5)
        aged.identity(0).own.renew_controller()
        assert link.connected.wait(WAIT_S)
    finally:
        link.stop()
