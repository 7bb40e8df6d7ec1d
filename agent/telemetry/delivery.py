"""What is sent, and sent again, until the controller says that it is committed.

No socket, no disk, no clock: who uses it passes the time, publishes what it gives, and tells what
comes back. An agent has one over its spool, a simulated device one over a list in memory.

A message is on its way until an acknowledgement (``ack``) covers it; the broker's is not enough,
as a broker's queue can be full and a broker can lose what it holds. So many may be on their way
(:data:`WINDOW`) that a controller is kept busy, and so few that all devices of a fleet together
do not fill a broker while the controller is away. What is not covered is sent again:

- the oldest, when nothing was covered for a while, with longer and longer pauses, and soon after
  a new connection: a probe, whose acknowledgement tells what else is missing;
- the rest, when something that was sent later is covered.

A controller before ``ack`` never acknowledges. As long as none has, all is sent as it comes, and
what the broker took is kept while there is room, to be sent again should an acknowledgement come.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from agent.system.log import logger
from agent.telemetry import held
from agent.telemetry.held import Key, Row, Store
from contracts.messages import Ack, Acknowledged

log = logger(__name__)

WINDOW: Final = 32
"""Messages on their way at once."""

FIRST_PAUSE_S: Final = 60.0
MAX_PAUSE_S: Final = 15 * 60.0
"""Seconds without an acknowledgement after which the oldest message is sent again: doubled from
the first to the second. Longer than a controller takes to acknowledge."""

GREETING_S: Final = 5.0
"""Seconds after a new connection in which the controller says by itself what it has."""

OVERTAKEN_S: Final = 10.0
"""A message that was sent so much earlier than one that is covered, and is not, is lost."""

FIRST_REFUSAL_S: Final = 30.0
MAX_REFUSAL_S: Final = 15 * 60.0
"""Seconds until a message is tried again that the broker refused, or that nobody listened to."""

PATIENCE_S: Final = 24 * 3600.0
"""Seconds of connection without any acknowledgement after which it counts as a controller of
before, that never will."""

NOBODY_LISTENS: Final = 0x10
"""PUBACK's reason code "no matching subscribers": success of MQTT, and nobody has the message."""


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish at QoS 1. `key` is for :meth:`Delivery.landed`."""

    key: Key
    topic: str
    payload: bytes


class _Sent(msgspec.Struct):
    """A message on its way: its place, when it was sent, and whether the broker has to answer."""

    id: int
    at: float
    connection: int
    flying: bool = True

    def overtaken(self, by: _Sent) -> bool:
        """Whether one that is covered was sent so much later that this one is lost."""
        earlier = self.at < by.at - OVERTAKEN_S or self.connection < by.connection
        return earlier and not self.flying


class _Refusal(msgspec.Struct):
    """Since when, and for how long, nothing is sent."""

    until: float = 0.0
    pause: float = FIRST_REFUSAL_S

    def again(self, now: float) -> None:
        """It was refused once more; what was on the way together counts once."""
        if now >= self.until:
            self.until = now + self.pause
            self.pause = min(MAX_REFUSAL_S, self.pause * 2)


class Delivery:
    """Decides what is sent when. :meth:`take` is for one thread; the rest for any.

    Args:
        store: holds the messages.
        topics: of each kind that is acknowledged.
        now: seconds that only grow.
        chance: spreads the devices of a fleet over the pauses.
    """

    def __init__(
        self,
        store: Store,
        topics: Mapping[Acknowledged, str],
        now: float,
        chance: random.Random | None = None,
    ) -> None:
        self._store = store
        self._topics = topics
        self._chance = chance or random.Random()
        self._online = False
        self._connection = 0
        self._cursor = 0
        self._out: dict[Key, _Sent] = {}
        self._settled: dict[tuple[str, str], int] = {}
        self._asked: dict[tuple[str, str], float] = {}
        self._events: collections.deque[Callable[[float], None]] = collections.deque()
        self._pause = FIRST_PAUSE_S
        self._probe_due = now
        self._heard_at = now
        self._unheard = _Refusal()
        self._refused: dict[str, _Refusal] = {}
        self._waits: dict[str, float] = {}
        self._skipped: set[str] = set()

    # What is told. --------------------------------------------------------------------------

    def connected(self) -> None:
        """There is a connection."""
        self._events.append(self._on_connected)

    def disconnected(self) -> None:
        """There is none any more. What is flying is sent again by the client itself."""
        self._events.append(self._on_disconnected)

    def landed(self, key: Key, code: int) -> None:
        """The broker answered.

        Args:
            key: of the message.
            code: the reason code of its PUBACK.
        """
        self._events.append(lambda now: self._on_landed(key, code, now))

    def failed(self, key: Key) -> None:
        """It could not be published."""
        self._events.append(lambda now: self._send_again([key]))

    def heard(self, ack: Ack) -> None:
        """The controller acknowledged."""
        self._events.append(lambda now: self._on_ack(ack, now))

    def moved(self, ids: Mapping[int, int]) -> None:
        """Messages in the store have other ids now, by the old ones: of earlier runs are before."""
        for sent in self._out.values():
            sent.id = ids.get(sent.id, sent.id)
        self._cursor = 0

    # What is to do. -------------------------------------------------------------------------

    def due(self, now: float) -> float:
        """Seconds after which :meth:`take` may have something that nobody told of."""
        moments = [refusal.until for refusal in self._refused.values()]
        moments += [self._unheard.until, *self._waits.values()]
        if self._out:
            moments.append(self._probe_due)
        ahead = [moment - now for moment in moments if moment > now]
        return 0.0 if self._events else min(ahead, default=MAX_PAUSE_S)

    def take(self, now: float) -> list[Outgoing]:
        """What is to be published now; again until it is nothing.

        Args:
            now: seconds that only grow.
        """
        while self._events:
            self._events.popleft()(now)
        if not self._online or now < self._unheard.until:
            return []
        if self._store.acknowledged:
            self._lose_patience(now)
        self._skip(now)
        found = self._probe(now)
        room = WINDOW - sum(sent.flying or self._store.acknowledged for sent in self._out.values())
        if room > 0 and self._store.newest > self._cursor:
            found += self._next(room, now)
        if found:
            self._store.protect([sent.id for sent in self._out.values()])
        return found

    def _skip(self, now: float) -> None:
        """Which topics have to wait; what waited on one that has not is looked for anew."""
        skipped = {topic for topic, refusal in self._refused.items() if now < refusal.until}
        skipped |= {topic for topic, until in self._waits.items() if now < until}
        if self._skipped - skipped:
            self._cursor = 0
        self._skipped = skipped

    def _next(self, room: int, now: float) -> list[Outgoing]:
        """The next messages that were not sent, or are to be sent again."""
        limit = room + len(self._out)
        rows = self._store.after(self._cursor, limit, self._skipped)
        found: list[Outgoing] = []
        for row in rows:
            if len(found) == room:
                return found
            self._cursor = row.id
            if row.key not in self._out:
                found.append(self._send(row, now))
        if len(rows) < limit:
            self._cursor = max(self._cursor, self._store.newest)
        return found

    def _send(self, row: Row, now: float, *, explicit: bool = False) -> Outgoing:
        self._out.pop(row.key, None)
        if not self._out:
            self._probe_due = now + self._jittered(self._pause)
        self._out[row.key] = _Sent(row.id, now, self._connection)
        stream = (row.topic, row.boot)
        payload = row.payload
        if row.boot:
            follows = 0 <= row.before == row.seq - 1 or self._settled.get(stream) == row.seq - 1
            if explicit or not follows:
                payload = b'{"after":%d,' % row.before + payload[1:]
        return Outgoing(row.key, row.topic, payload)

    def _probe(self, now: float) -> list[Outgoing]:
        """The oldest message that was sent, again, when it is time."""
        if not self._store.acknowledged or now < self._probe_due:
            return []
        for key in sorted(self._out, key=lambda key: self._out[key].id):
            if self._out[key].flying:
                continue
            row = self._store.row(key)
            if row is None:  # dropped for want of room
                del self._out[key]
                continue
            self._pause = min(MAX_PAUSE_S, self._pause * 2)
            self._probe_due = now + self._jittered(self._pause)
            return [self._send(row, now, explicit=True)]
        return []

    def _lose_patience(self, now: float) -> None:
        if not self._out or now - self._heard_at < PATIENCE_S:
            return
        log.warning("the controller does not acknowledge any more: the broker's word counts")
        self._store.set_acknowledged(False)
        arrived = [key for key, sent in self._out.items() if not sent.flying]
        for key in arrived:
            del self._out[key]
        self._store.took(arrived)

    # Events. --------------------------------------------------------------------------------

    def _on_connected(self, now: float) -> None:
        self._online = True
        self._connection += 1
        self._heard_at = now
        self._unheard = _Refusal()
        self._refused.clear()
        self._pause = FIRST_PAUSE_S
        self._probe_due = now + self._jittered(GREETING_S)

    def _on_disconnected(self, now: float) -> None:
        del now
        self._online = False

    def _on_landed(self, key: Key, code: int, now: float) -> None:
        topic = key[0]
        if code == NOBODY_LISTENS:
            if self._unheard.until <= now:
                log.info("nobody listens to what is sent: it waits")
            self._unheard.again(now)
            self._send_again([key])
            return
        if code >= 0x80:
            refusal = self._refused.setdefault(topic, _Refusal())
            if refusal.until <= now:
                log.warning("the broker refused a message: it waits", topic=topic, code=code)
            refusal.again(now)
            self._send_again([key])
            return
        self._unheard.pause = FIRST_REFUSAL_S
        self._refused.pop(topic, None)
        sent = self._out.get(key)
        if sent is None:
            return
        if not key[1]:
            del self._out[key]
            self._store.remove([sent.id])
        elif self._store.acknowledged:
            sent.flying = False
        else:
            del self._out[key]
            self._store.took([key])

    def _on_ack(self, ack: Ack, now: float) -> None:
        topic = self._topics[ack.kind]
        stream = (topic, ack.boot)
        last = max([ack.seq, *(last for _, last in ack.ahead)])
        # Not what was sent: an earlier run may have sent more, and a copy of this device, with
        # its spool, all that was held when it was made.
        made = self._store.numbered(topic, ack.boot)
        if made is not None and last > made:
            log.warning(
                "acknowledgement of what was never there ignored",
                kind=ack.kind,
                boot=ack.boot,
                seq=last,
            )
            return
        self._heard_at = now
        if not self._store.acknowledged:
            self._store.set_acknowledged(True)
            self._cursor = 0
        if ack.seq < 0:
            self._say_where_it_begins(stream, now)
        else:
            held.remember(self._settled, stream, ack.seq)
        self._store.forget(topic, ack)
        self._waits.pop(topic, None)
        if ack.wait_s:
            reason = ack.reason.message if ack.reason is not None else "it was told to wait"
            log.warning("nothing is sent for a while", topic=topic, seconds=ack.wait_s, why=reason)
            self._waits[topic] = now + ack.wait_s
            self._send_again([k for k, sent in self._out.items() if k[0] == topic])
        covered = [
            key
            for key in self._out
            if key[0] == topic and key[1] == ack.boot and ack.covers(key[2])
        ]
        if not covered:
            return
        newest = max((self._out.pop(key) for key in covered), key=lambda sent: sent.at)
        self._send_again([key for key, sent in self._out.items() if sent.overtaken(newest)])
        self._pause = FIRST_PAUSE_S
        self._probe_due = now + self._jittered(self._pause)

    def _say_where_it_begins(self, stream: tuple[str, str], now: float) -> None:
        """The controller does not know a boot: its first message is sent again, with `after`."""
        if now - self._asked.get(stream, -GREETING_S) < GREETING_S:
            return
        held.remember(self._asked, stream, now)
        self._settled.pop(stream, None)
        self._send_again(
            [key for key, sent in self._out.items() if key[:2] == stream and not sent.flying]
        )

    def _send_again(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self._out.pop(key, None)
            self._cursor = 0

    def _jittered(self, seconds: float) -> float:
        return seconds * self._chance.uniform(0.8, 1.2)
