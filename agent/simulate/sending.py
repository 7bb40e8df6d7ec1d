"""What a simulated device sends until the controller has it: the agent's own code, in memory."""

from __future__ import annotations

import functools
import random
from typing import get_args

from agent.simulate.host import Host, Timer
from agent.telemetry.delivery import MAX_PAUSE_S, Delivery
from agent.telemetry.memory import MemorySpool
from contracts import codec
from contracts.messages import Ack, Acknowledged, Sample, Telemetry, UpdateEvent
from contracts.topics import Topics


class Sending:
    """A device's spool, and what goes out of it.

    Args:
        host: the device's world.
        names: topics of the fleet.
        device: its name.
        chance: spreads the devices over the pauses.
    """

    __slots__ = ("_busy", "_delivery", "_host", "_seq", "_timer", "_topics", "spool")

    def __init__(self, host: Host, names: Topics, device: str, chance: random.Random) -> None:
        self._host = host
        self._topics: dict[Acknowledged, str] = {
            kind: names.of_device(device, kind) for kind in get_args(Acknowledged)
        }
        self.spool = MemorySpool()
        self._delivery = Delivery(self.spool, self._topics, host.monotonic(), chance)
        self._seq = 0
        self._timer: Timer | None = None
        self._busy = False

    def rebooted(self) -> None:
        """Telemetry of a new boot is numbered from the start; what is kept stays."""
        self._seq = 0

    def telemetry(self, boot: str, samples: list[Sample]) -> None:
        """Keeps and sends a batch."""
        seq = self._seq
        self._seq += self.spool.tell(
            self._topics["telemetry"],
            lambda drops: codec.encode(Telemetry(boot, seq, samples, drops=drops)),
            boot=boot,
            seq=seq,
            items=len(samples),
        )
        self.pump()

    def update(self, event: UpdateEvent) -> None:
        """Keeps and sends an event of an update."""
        payload = codec.encode(event)
        topic = self._topics["update"]
        self.spool.put(topic, payload, boot=event.boot, seq=event.seq, precious=True)
        self.pump()

    def link_changed(self, connected: bool) -> None:
        """There is a connection now, or none."""
        if connected:
            self._delivery.connected()
        else:
            self._delivery.disconnected()
        self.pump()

    def heard(self, ack: Ack) -> None:
        """The controller acknowledged."""
        self._delivery.heard(ack)
        self.pump()

    def pump(self) -> None:
        """Sends what is to be sent."""
        if self._busy:
            return
        self._busy = True
        try:
            while found := self._delivery.take(self._host.monotonic()):
                for one in found:
                    done = functools.partial(self._landed, one.key)
                    self._host.publish(one.topic, one.payload, done=done)
        finally:
            self._busy = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._delivery.due(self._host.monotonic())
        if due < MAX_PAUSE_S or self._delivery.on_their_way:
            self._timer = self._host.later(max(due, 0.05), self.pump)

    def _landed(self, key: tuple[str, str, int], code: int) -> None:
        self._delivery.landed(key, code)
        self.pump()
