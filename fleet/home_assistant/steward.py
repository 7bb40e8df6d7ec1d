"""Tells Home Assistant what is published for each device, and begins what its users ask for.

Nothing is remembered over a restart: what the broker retains is written anew. What somebody asks
for is a rollout to one device like any other, so that waves, gates and trials of operators hold:
a device that a rollout holds is not taken from it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
import structlog

from contracts import codec, limits
from contracts.config import MqttConfig
from contracts.desired import Offer, Offered
from contracts.errors import RefusedError, ShoalError
from contracts.messages import BundleRef
from contracts.topics import Topics, home_assistant_update, parse
from fleet.conductor.runner import Runner
from fleet.conductor.target import Signed
from fleet.home_assistant import entity
from fleet.home_assistant.offers import Shelf
from fleet.mqtt.link import Link
from fleet.mqtt.worker import Worker
from fleet.rollout.spec import RolloutSpec, Wave
from fleet.store import Store, audit, devices
from fleet.store.devices import Device
from fleet.store.entries import Actor

_LOG: Final = structlog.get_logger("home-assistant")
LOOK_S: Final = 5.0
"""Seconds between two looks at least; a look takes at most a twentieth of the time."""

MAX_ASKED: Final = 100
"""Installations that may wait."""

WHO: Final = Actor("home-assistant", "operator", "MQTT")
_SHARE: Final = 20.0


class Steward(Worker):
    """One fleet's.

    Args:
        store: its database.
        topics: of the fleet.
        mqtt: the broker.
        name: of the connection.
        runner: creates rollouts.
        signed: says which releases of the agent there are.
        installs: whether users of Home Assistant may install.
        clock: seconds since the epoch.
        on_created: called when there is a new rollout.
    """

    def __init__(
        self,
        store: Store,
        topics: Topics,
        mqtt: MqttConfig,
        name: str,
        runner: Runner,
        *,
        signed: Signed,
        installs: bool,
        clock: Callable[[], float] = time.time,
        on_created: Callable[[], None] = lambda: None,
    ) -> None:
        link = Link(
            mqtt,
            name,
            filters={topics.every_install(): self._on_install} if installs else {},
            on_retained=lambda _topic: None,
            on_up=self._on_up,
        )
        super().__init__(link, "home-assistant")
        self._store = store
        self._topics = topics
        self._runner = runner
        self._signed = signed
        self._installs = installs
        self._clock = clock
        self._on_created = on_created
        self._told: dict[str, bytes] = {}
        self._seen: dict[str, int] = {}
        self._shelved: object = None
        self._notes: dict[tuple[str, str], tuple[BundleRef, str]] = {}
        self._asked: queue.Queue[tuple[str, str, bytes]] = queue.Queue(MAX_ASKED)
        self._lost = threading.Event()

    def _on_up(self) -> None:
        # Another broker, or one without memory: all is told again.
        self._lost.set()
        self._wake.set()

    def _on_install(self, topic: str, payload: bytes) -> None:
        address = parse(topic)
        try:
            self._asked.put_nowait((address.target, address.name, payload))
        except queue.Full:
            _LOG.warning("too many installations are asked for", device=address.target)
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                if self.link.connected.is_set():
                    self._take()
                    self._look()
            except ShoalError as error:
                _LOG.warning("Home Assistant is not told", reason=str(error))
            except Exception:  # noqa: BLE001
                # A defect here must not end what operators asked for.
                _LOG.exception("Home Assistant is not told")
            self._wake.wait(max(LOOK_S, _SHARE * (time.monotonic() - began)))
            self._wake.clear()

    # What is published ---------------------------------------------------------------------

    def _look(self) -> None:
        if self._lost.is_set():
            self._lost.clear()
            self._told.clear()
            self._seen.clear()
        with self._store.read() as connection:
            shelf = Shelf(connection, self._signed)
            if shelf.content != self._shelved:
                self._seen.clear()
            digests = devices.digests(connection)
            news = [name for name, digest in digests.items() if self._seen.get(name) != digest]
            changed = devices.some(connection, news)
        self._shelved = shelf.content
        for name in self._seen.keys() - digests.keys():
            del self._seen[name]
        for name, device in changed.items():
            self._tell(device, shelf.offers(device) if device.revoked_at is None else {})
            self._seen[name] = digests[name]

    def _tell(self, device: Device, offers: dict[str, BundleRef]) -> None:
        for slot in device.reported.slots if device.reported else {}:
            topic = home_assistant_update(self._topics.fleet, device.id, slot)
            document = b""
            if slot in offers:
                document = codec.encode(
                    entity.document(
                        self._topics, device.id, slot, offers[slot], installs=self._installs
                    )
                )
            self._publish(topic, document)
        slots = {slot: Offer(ref, self._note(device.id, slot, ref)) for slot, ref in offers.items()}
        payload = codec.encode(Offered(slots)) if slots else b""
        self._publish(self._topics.of_device(device.id, "offered"), payload)

    def _note(self, device: str, slot: str, offered: BundleRef) -> str:
        about, note = self._notes.get((device, slot), (None, ""))
        return note if about == offered else ""

    def _publish(self, topic: str, payload: bytes) -> None:
        if self._told.get(topic) != payload:
            self.link.publish(topic, payload, retain=True)
            self._told[topic] = payload

    # What somebody asks for ----------------------------------------------------------------

    def _take(self) -> None:
        while not self._asked.empty():
            device, slot, payload = self._asked.get_nowait()
            try:
                self._install(device, slot, payload)
            except ShoalError as error:
                _LOG.warning("not installed", device=device, slot=slot, reason=str(error))
                self._refuse(device, slot, error)

    def _install(self, device: str, slot: str, payload: bytes) -> None:
        wanted = codec.decode(payload, BundleRef, what="the installation")
        with self._store.read() as connection:
            known = devices.get(connection, device)
            offered = Shelf(connection, self._signed).offers(known).get(slot)
        if known.revoked_at is not None or offered != wanted:
            raise RefusedError(
                "not-offered",
                f"{wanted} is not what is published for {device} now"
                + (f", which is {offered}" if offered else "")
                + ": ask again for what is shown",
            )
        spec = RolloutSpec(
            bundle=wanted.name,
            version=wanted.version,
            selector=f"device={device}",
            slot=slot,
            waves=(Wave(percent=100),),
            note="asked for in Home Assistant",
        )

        def note(connection: sa.Connection) -> None:
            audit.note_by(
                connection, WHO, "rollout.create", str(wanted), self._clock(),
                selector=spec.selector, slot=slot,
            )  # fmt: skip

        self._runner.create(spec, WHO.name, note)
        self._notes.pop((device, slot), None)
        self._seen.pop(device, None)
        self._on_created()

    def _refuse(self, device: str, slot: str, error: ShoalError) -> None:
        audit.count(
            self._store, WHO, "rollout.create", f"{device}/{slot}", error.code, self._clock()
        )
        with self._store.read() as connection:
            known = devices.some(connection, [device]).get(device)
            offered = Shelf(connection, self._signed).offers(known).get(slot) if known else None
        if offered is not None:
            self._notes[device, slot] = (offered, str(error)[: limits.MAX_REASON_CHARS])
            self._seen.pop(device, None)
