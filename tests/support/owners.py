"""Controllers that meet at a broker, and a witness of all that is said there."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner

from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.desired import Desired, DesiredBundle, Owner
from contracts.errors import InputError
from contracts.messages import BundleRef
from contracts.topics import Topics, parse
from fleet.backup import backup, restore
from fleet.cli.app import app
from fleet.controller import Controller
from fleet.folder import Fleet, FleetConfig
from fleet.store import Store, desired, devices, ownership

WAIT_S: Final = 90.0
_REF: Final = BundleRef("m", "1.0.0", "a" * 64)


def until(condition: Callable[[], Any], seconds: float = WAIT_S) -> bool:
    """Waits for what other threads bring about; whether it came."""
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        threading.Event().wait(0.05)
    return False


class Witness:
    """Hears everything of a fleet at the broker."""

    def __init__(self, mqtt: MqttConfig, fleet: str) -> None:
        self.topics = Topics(fleet)
        self.sent: list[tuple[str, bytes]] = []
        self.owners: list[Owner | None] = []
        subscribed = threading.Event()
        self.client = new_client(mqtt, f"{fleet}-witness-{uuid.uuid4().hex}")
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect(mqtt.host, mqtt.port, properties=connect_properties(mqtt))
        self.client.loop_start()
        self.client.subscribe(f"{self.topics.prefix}/#", 1)
        assert subscribed.wait(WAIT_S)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        if parse(message.topic).kind == "owner":
            payload = bytes(message.payload)
            try:
                self.owners.append(codec.decode(payload, Owner, what="owner"))
            except InputError:
                self.owners.append(None)
        else:
            self.sent.append((message.topic, bytes(message.payload)))

    @property
    def owner(self) -> Owner | None:
        """Who has the fleet."""
        return self.owners[-1] if self.owners else None

    def desired(self, fence: int | None = None) -> list[Desired]:
        """Desired documents that were sent, with any fence or with one."""
        found = [
            codec.decode(p, Desired, what="desired") for t, p in list(self.sent) if "desired" in t
        ]
        return [one for one in found if fence is None or one.fence == fence]

    def say(self, payload: bytes) -> None:
        """Overwrites the owner's document."""
        self.client.publish(self.topics.owner(), payload, 1, retain=True).wait_for_publish(WAIT_S)

    def close(self) -> None:
        """Disconnects."""
        self.client.disconnect()
        self.client.loop_stop()


def want(of: Controller | Fleet, device: str = "d1") -> None:
    """Something new is desired of a device: in a controller, or in a folder without one."""
    if isinstance(of, Fleet):
        with closing(of.open_store()) as store:
            _want(store, device)
    else:
        _want(of.store, device)
        of.outbox.wake()


def _want(store: Store, device: str) -> None:
    with store.write() as connection:
        if not devices.some(connection, [device]):
            devices.enroll(store, connection, device, "raspberry-pi-5", {}, [], 1.0)
        revision = devices.get(connection, device).desired_revision + 1
        document = Desired(revision, {"classify": DesiredBundle(_REF)}, at=time.time())
        desired.write(store, connection, [(device, document, None)])


def newest(controller: Controller) -> int:
    """The fence that counts in a controller's database."""
    with controller.store.read() as connection:
        return ownership.newest(connection)


class Sea:
    """A broker's fleet, and controllers of it on folders of their own."""

    def __init__(
        self, folder: Path, mqtt: MqttConfig, name: str, stack: ExitStack, **config: Any
    ) -> None:
        self.folder = folder
        self.stack = stack
        self.mqtt = mqtt
        wanted = FleetConfig(name, mqtt=mqtt, admit_unknown=True, **config)
        self.fleet = Fleet.init(folder / "live", wanted)
        self.witness = stack.enter_context(closing(Witness(mqtt, name)))
        self.running: list[Controller] = []

    def start(self, fleet: Fleet | None = None, ahead_s: float = 0.0) -> Controller:
        """Starts a controller; it is stopped at the end."""
        folder = (fleet or self.fleet).folder
        controller = Controller(Fleet.open(folder), lambda: time.time() + ahead_s)
        self.stack.callback(self.stop, controller)
        self.running.append(controller)
        controller.start()
        return controller

    def stop(self, controller: Controller) -> None:
        """Stops a controller in order, once."""
        if controller in self.running:
            self.running.remove(controller)
            controller.stop()

    def restored(self) -> Fleet:
        """The fleet from a backup of now, on another machine."""
        backup(self.fleet, self.folder / "backup.tar.gz")
        return restore(self.folder / "backup.tar.gz", self.folder / "restored")

    def copied(self) -> Fleet:
        """The fleet from a plain copy of its folder, on another machine."""
        with closing(self.fleet.open_store()) as store, store.write() as connection:
            connection.exec_driver_sql("SELECT 1")  # nobody writes while it is copied
            shutil.copytree(self.fleet.folder, self.folder / "copied")
        return Fleet.open(self.folder / "copied")


def take_over(fleet: Fleet) -> None:
    """What a person does."""
    done = CliRunner().invoke(app, ["fleet", "takeover", "--dir", str(fleet.folder)])
    assert done.exit_code == 0, done.output
