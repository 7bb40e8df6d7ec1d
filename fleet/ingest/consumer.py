"""The MQTT side of ingest: a persistent session whose messages are acknowledged by hand.

paho's network thread decodes and queues, also while the database commits. A worker takes what has
queued up, commits it in one transaction, and then acknowledges every message of the batch. A
crash at any point leaves messages unacknowledged, and the broker sends them again; rows that are
there already are recognised by their key. To the devices it acknowledges a little later, many at
once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import paho.mqtt.client as paho
import structlog
from paho.mqtt.subscribeoptions import SubscribeOptions

from contracts import codec, drops, limits
from contracts.config import MqttConfig
from contracts.connection import connect_properties
from contracts.errors import InputError, ShoalError, UnavailableError
from contracts.log_errors import reason_of
from contracts.messages import Result
from contracts.topics import DeviceKind, Topics
from fleet.ingest.arrived import Arrived, Counters
from fleet.ingest.decode import Batch, Message, decode, number_of_refused, sender
from fleet.ingest.heard import CatchUp
from fleet.ingest.quota import Accounts, Quota
from fleet.ingest.receipts import EVERY_S, Receipts
from fleet.ingest.session import IngestClient
from fleet.ingest.writer import Change, Writer
from fleet.store.delivery import Spent

_LOG: Final = structlog.get_logger("ingest")
MAX_BATCH: Final = 1000
"""Messages in one transaction."""

RECEIVE_MAXIMUM: Final = limits.MAX_IN_FLIGHT_INGEST
"""Messages that the broker may send before the first is acknowledged: bounds our queue."""

_EVENTS: Final[tuple[DeviceKind, ...]] = ("telemetry", "update", "result")
_RETAINED: Final[tuple[DeviceKind, ...]] = ("status", "reported")
_CLEARED: Final = tuple(f"/{kind}" for kind in _RETAINED)
_SESSION_S: Final = 14 * 24 * 3600
_RETRY_S: Final = 1.0
_WARN_S: Final = 5.0


class Consumer:
    """One ingest process's connection.

    Args:
        topics: of the fleet.
        mqtt: the broker.
        writer: commits batches.
        name: of the session on the broker; each ingest process of a fleet has its own.
        secret: the fleet's, kept from devices: who knows a client id can take its session, and
            who knows the share group can take a share, whatever the broker then lets it read.
        primary: also takes the retained topics, which a shared subscription does not deliver;
            exactly one process of a fleet is the primary.
        shared: several processes share the other topics. Not with the embedded broker, which
            fails at it (ADR 31).
        on_changes: called after a commit with what changed.
        quota: of each device and day.
        ack_s: seconds after which a device is told at the latest what is committed.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        topics: Topics,
        mqtt: MqttConfig,
        writer: Writer,
        *,
        name: str = "main",
        secret: str = "",
        primary: bool = True,
        shared: bool = False,
        on_changes: Callable[[Sequence[Change]], None] = lambda changes: None,
        quota: Quota | None = None,
        ack_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._topics = topics
        self._mqtt = mqtt
        self._writer = writer
        self._primary = primary
        self._shared = shared
        self._group = "-".join(filter(None, ["ingest", secret]))
        self._on_changes = on_changes
        self._clock = clock
        self._queue: queue.SimpleQueue[Arrived | None] = queue.SimpleQueue()
        self._connection = 0
        self._catch_up = CatchUp(clock, time.monotonic)
        self._stopping = threading.Event()
        self._accounts = Accounts(quota or Quota())
        self._receipts = Receipts(writer.store, self._accounts, every_s=ack_s)
        self._warned = 0.0
        self.counters = Counters()
        self.connected = threading.Event()
        self._client = IngestClient.of(
            mqtt, "-".join(filter(None, ["shoal-ingest", topics.fleet, name, secret]))
        )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 10)
        self._worker = threading.Thread(target=self._run, name=f"ingest-{name}", daemon=True)

    def start(self) -> None:
        """Connects in the background, and goes on trying while the broker is away."""
        properties = connect_properties(self._mqtt)
        properties.SessionExpiryInterval = _SESSION_S
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        self._client.connect_async(
            self._mqtt.host,
            self._mqtt.port,
            self._mqtt.keepalive_s,
            clean_start=False,
            properties=properties,
        )
        self._worker.start()
        self._client.loop_start()

    def stop(self) -> None:
        """Commits and acknowledges what has queued up, to broker and devices; disconnects."""
        self._stopping.set()
        self._queue.put(None)
        if self._worker.is_alive():
            self._worker.join(30)
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def used(self) -> bool:
        """It was started, and cannot be once more."""
        return self._worker.ident is not None

    @property
    def backlog(self) -> int:
        """Messages that wait for their batch."""
        return self._queue.qsize()

    # paho's thread ------------------------------------------------------------------------

    def _on_connect(
        self, client: paho.Client, _userdata: Any, flags: Any, reason: Any, _properties: Any
    ) -> None:
        if reason.is_failure:
            _LOG.warning("broker refused ingest", reason=str(reason))
            return
        self._connection += 1
        self._catch_up.connected(session_present=flags.session_present)
        once = SubscribeOptions(qos=1)
        # As published: a retained message on a topic where nothing may be retained is seen as one.
        event = SubscribeOptions(qos=1, retainAsPublished=True)
        wanted = []
        for kind in _EVENTS:
            pattern = self._topics.every_device(kind)
            if self._shared:
                pattern = self._topics.shared(self._group, pattern)
            wanted.append((pattern, event))
        if self._primary:
            wanted += [(self._topics.every_device(kind), once) for kind in _RETAINED]
        client.subscribe(wanted)

    def _on_subscribe(
        self, _client: paho.Client, _userdata: Any, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            _LOG.error("broker refused a subscription of ingest", reasons=[str(r) for r in reasons])
            return
        self.connected.set()

    def _on_disconnect(self, *_arguments: Any) -> None:
        self._connection += 1
        self.connected.clear()

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        read: Message | Exception | None = None
        try:
            read = decode(self._topics.fleet, topic, payload) if payload else None
        except Exception as error:  # noqa: BLE001
            read = error  # the worker's to judge
        self._queue.put(
            Arrived(
                self._connection, message.mid, message.qos, topic, payload, bool(message.retain),
                read,
            )
        )  # fmt: skip

    # The worker ---------------------------------------------------------------------------

    def _take(self) -> tuple[list[Arrived], bool]:
        """What has queued up, or nothing when devices are to be told; and whether to stop."""
        batch: list[Arrived] = []
        try:
            item = self._queue.get(timeout=self._receipts.due(time.monotonic()))
        except queue.Empty:
            return batch, False
        while item is not None:
            batch.append(item)
            if len(batch) == MAX_BATCH:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _run(self) -> None:
        last = False
        while not last:
            arrived, last = self._take()
            if not arrived:
                self._settle(everything=last)
                continue
            messages = self._decode(arrived)
            while not self._commit(messages):
                # Nothing is acknowledged: on a stop the broker keeps it for the next start.
                if self._stopping.wait(_RETRY_S):
                    return
            try:
                self._acknowledge(arrived)
            except Exception:  # noqa: BLE001
                # The broker sends it again; what is there already is recognised.
                _LOG.exception("batch not acknowledged")
            self._settle(everything=last)

    def _settle(self, *, everything: bool) -> None:
        """Tells devices what is committed, when it is time."""
        running = time.monotonic()
        due = self._receipts.due(running)
        if due is None or (due > 0 and not everything):
            return
        try:
            acks, news = self._receipts.settle(self._clock(), running, everything=everything)
            if self.connected.is_set():
                self._client.send(
                    [(self._topics.of_device(d, "ack"), codec.encode(ack)) for d, ack in acks]
                )
            self.counters.acknowledged += len(acks)
            if news:
                self._tell(news)
        except ShoalError as error:
            self._warn("devices not told what is committed, trying again", reason=str(error)[:300])
        except Exception:  # noqa: BLE001
            # A defect: devices send again what they are not told of.
            _LOG.exception("devices not told what is committed")

    def _decode(self, arrived: Sequence[Arrived]) -> list[Message]:
        found: list[Message] = []
        fleet, now = self._topics.fleet, self._clock()
        waiting: dict[str, Spent] = {}
        senders = {known[1] for item in arrived if (known := sender(fleet, item.topic))}
        self._receipts.recall(senders, now)
        for item in arrived:
            if not item.payload and (item.retained or item.topic.endswith(_CLEARED)):
                continue  # a retained document was removed
            try:
                if item.retained and not item.topic.endswith(_CLEARED):
                    self._clear(item)
                message = item.read or decode(fleet, item.topic, item.payload)
                if isinstance(message, Exception):
                    raise message
                heard = "retained" if item.retained else self._catch_up.heard(message.at)
                if heard != "live":
                    message = msgspec.structs.replace(message, heard=heard)
                spent = waiting.setdefault(message.device, Spent())
                if self._accounts.is_over(message.device, now, spent):
                    message = self._over(message)
                elif message.counts:
                    # Before the commit: one batch alone may be more than a quota.
                    message = self._accounts.priced(message, now)
                    spent.add(message.cost)
                found.append(message)
            except InputError as error:
                self._refuse(item)
                self._warn("message refused", topic=item.topic[:200], reason=reason_of(error))
            except Exception:  # noqa: BLE001
                # A defect: one message must not end the thread that serves all devices.
                self._refuse(item)
                _LOG.exception("message cannot be decoded", topic=item.topic[:200])
        return found

    def _refuse(self, item: Arrived) -> None:
        """Acknowledged all the same, to broker and device: sent again it would be as wrong."""
        self.counters.rejected += 1
        known = sender(self._topics.fleet, item.topic)
        if known is not None:
            kind, device = known
            number = number_of_refused(kind, item.payload)
            self._receipts.refused(device, number, drops.INGEST, time.monotonic())

    def _over(self, message: Message) -> Message:
        """Marks a message of a device that has stored all that it may today."""
        if isinstance(message.body, Batch | Result):
            self._receipts.refused(message.device, None, drops.OVER, time.monotonic())
            self.counters.over_quota += 1
            self._warn("device over its quota: refused until tomorrow", device=message.device)
        return msgspec.structs.replace(message, over=True)

    def _clear(self, item: Arrived) -> None:
        """Removes a retained message from a topic where nothing may be retained."""
        known = sender(self._topics.fleet, item.topic)
        if known is None:
            return
        self._receipts.refused(known[1], None, drops.RETAINED, time.monotonic())
        self._client.send([(item.topic, b"")], retain=True)

    def _commit(self, messages: Sequence[Message]) -> bool:
        if not messages:
            return True
        began = time.monotonic()
        try:
            changes, unknown, admitted = self._writer.write(messages, self._clock())
        except (UnavailableError, OSError, MemoryError) as error:
            self.counters.retries += 1
            self._warn("batch not committed, trying again", reason=str(error)[:300])
            return False
        except Exception as error:  # noqa: BLE001
            # Refused by the database, or a defect that would be the same the next time.
            return self._commit_apart(messages, error)
        self.counters.unknown += unknown
        self.counters.messages += len(messages)
        self.counters.batches += 1
        self.counters.lag_s = time.monotonic() - began
        if unknown:
            self._warn("messages of devices that are not enrolled, or revoked", count=unknown)
        self._book([message for message in messages if message.device in admitted])
        if changes:
            self._tell(changes)
        return True

    def _book(self, messages: Sequence[Message]) -> None:
        """Notes what was committed, for the quotas and for the devices."""
        now = self._clock()
        for message in messages:
            if message.counts and not message.over:
                self._accounts.spend(message.device, message.cost, now)
        self._receipts.committed(messages, time.monotonic())

    def _tell(self, changes: Sequence[Change]) -> None:
        try:
            self._on_changes(changes)
        except Exception:  # noqa: BLE001
            # It is committed: whoever listens must not have it written, or counted, again.
            _LOG.exception("changes not told", count=len(changes))

    def _commit_apart(self, messages: Sequence[Message], error: Exception) -> bool:
        """Commits one by one what cannot be committed together, and drops what cannot at all.

        One device must not stop the ingest of all, and a message that nobody can store would
        come again after every restart.
        """
        if len(messages) > 1:
            return all(self._commit([message]) for message in messages)
        message = messages[0]
        self.counters.rejected += 1
        self._receipts.refused(message.device, message.number, drops.INGEST, time.monotonic())
        _LOG.error("message cannot be stored", device=message.device, reason=reason_of(error))
        return True

    def _acknowledge(self, arrived: Sequence[Arrived]) -> None:
        # Packet ids start anew with a connection: an old one would acknowledge another message.
        connection = self._connection
        self._client.acknowledge(
            [item.mid for item in arrived if item.qos and item.connection == connection]
        )

    def _warn(self, event: str, **facts: Any) -> None:
        """Logs, but not for every message of a flood."""
        now = time.monotonic()
        if now - self._warned >= _WARN_S:
            self._warned = now
            _LOG.warning(event, **facts)


__all__ = ["Consumer", "Counters"]
