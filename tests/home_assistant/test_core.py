"""Home Assistant's core, a broker with TLS, the controller and an agent, all as they are.

``make test-homeassistant`` makes the core's environment and runs this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.config import MqttConfig, TlsConfig
from fleet.broker import MosquittoBroker
from fleet.cli.app import app
from fleet.client import Client
from fleet.rollout.spec import RolloutSpec, Wave
from tests.home_assistant.core import Core
from tests.support import programs
from tests.support.bundles import relabelled
from tests.support.controller import TINY, TINY_NEXT
from tests.support.served import ServedFleet
from tests.support.tools import free_port, need_tool

ROOT = Path(__file__).parents[2]
PROGRAM = os.environ.get("HOME_ASSISTANT", "")
ENTITY = "Model classify"

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not PROGRAM,
        reason="make test-homeassistant makes an environment with Home Assistant's core",
    ),
]


class House:
    """A fleet with one device, and the core that watches it."""

    def __init__(self, served: ServedFleet, client: Client, core: Core) -> None:
        self.served = served
        self.client = client
        self.core = core

    def shoal(self, *words: object) -> None:
        """Runs ``shoal fleet ...`` here."""
        _shoal(*words, "--dir", self.served.fleet.folder)

    def state(self, what: Any, seconds: float = 240.0) -> dict[str, Any]:
        """The update entity, once something holds of its state and attributes."""
        return self.core.wait(
            "update", ENTITY, lambda one: what(one["state"], one["attributes"]), seconds
        )

    def install(self) -> None:
        """As its user does."""
        entity = self.state(lambda *_: True)["entity_id"]
        self.core.call("/api/services/update/install", {"entity_id": entity})


def _shoal(*words: object) -> None:
    done = CliRunner().invoke(app, ["fleet", *map(str, words)])
    assert done.exit_code == 0, done.output


@contextlib.contextmanager
def _agent(config: Path, log: Path) -> Iterator[None]:
    with log.open("ab") as stream:
        agent = programs.start(
            [sys.executable, "-m", "agent", "run", "--config", str(config)],
            stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        yield
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(60)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The device runs 1.0.0, by a rollout of its operator."""
    folder = tmp_path_factory.mktemp("house")
    mqtt = MqttConfig(port=free_port())
    served = ServedFleet(
        folder / "fleet", mqtt, name="house", mutual_tls=True, admit_unknown=False,
        home_assistant=True, home_assistant_installs=True,
    )  # fmt: skip
    home = served.fleet.folder
    _shoal("enroll", "kitchen", "--board", "generic-x86-64", "--dir", home)
    _shoal("publish", TINY, "--dir", home)
    broker = MosquittoBroker(
        home / "broker" / "mosquitto.conf",
        port=mqtt.port,
        program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
    )
    files = [home / "ca" / name for name in ("ca.pem", "home-assistant.pem")]
    tls = TlsConfig(*map(str, [*files, home / "ca" / "home-assistant.key.pem"]))
    core = Core(Path(PROGRAM), folder / "core", MqttConfig(port=mqtt.port, tls=tls))
    agent = _agent(home / "devices" / "kitchen" / "agent.yaml", folder / "agent.log")
    with broker, served, agent, served.client() as client:
        bundle = Bundle.open(TINY).ref
        client.create_rollout(
            RolloutSpec(
                bundle=bundle.name, version=bundle.version, waves=(Wave(count=1),), bake_s=0
            )
        )
        with core:
            yield House(served, client, core)


def test_the_core_accepts_what_devices_and_controller_tell(house: House) -> None:
    """Sensors with values, one update entity, and no word of complaint."""
    house.state(lambda _, has: has.get("installed_version") == "1.0.0")
    for name in ("Memory", "Waiting requests"):
        house.core.wait("sensor", name, lambda one: one["state"] not in ("unknown", "unavailable"))
    assert house.core.errors() == []


def test_what_is_published_is_shown_before_anybody_downloads_it(house: House) -> None:
    """And it is installed when the user says so: by a rollout to this device, with a trial."""
    # Nothing is in progress once the trial of what runs is over.
    house.state(lambda _, has: has.get("installed_version") == "1.0.0" and not has["in_progress"])
    house.shoal("publish", TINY_NEXT)
    shown = house.state(lambda state, _: state == "on")["attributes"]
    assert (shown["installed_version"], shown["latest_version"]) == ("1.0.0", "1.1.0")
    assert shown["in_progress"] is False
    house.install()
    house.state(lambda state, has: state == "off" and has.get("installed_version") == "1.1.0")
    newest = house.client.rollouts()[0]
    assert (newest.created_by, newest.spec.selector) == ("home-assistant", "device=kitchen")


def test_an_operator_s_rollout_goes_first_and_what_was_stopped_is_not_shown(
    house: House, tmp_path: Path
) -> None:
    """The user is told why nothing happens; a version that was stopped is offered no more."""
    house.state(lambda _, has: has.get("installed_version") == "1.1.0")
    made = relabelled(tmp_path / "bundle", TINY, "1.2.0")
    house.shoal("publish", made.path)
    client = house.client
    house.served.until(lambda: client.rollouts()[0].status == "succeeded")
    spec = RolloutSpec(bundle=made.ref.name, version="1.2.0", waves=(Wave(count=1, approval=True),))
    rollout = client.create_rollout(spec).id
    house.served.until(lambda: client.rollout(rollout).status == "awaiting-approval")
    house.state(lambda _, has: has.get("latest_version") == "1.2.0")
    house.install()
    told = house.state(lambda _, has: has.get("note"))["attributes"]
    assert rollout in told["note"]
    assert told["installed_version"] == "1.1.0"
    client.command_rollout(rollout, "abort")
    house.state(lambda state, has: state == "off" and has.get("latest_version") == "1.1.0")
    assert house.core.errors() == []
