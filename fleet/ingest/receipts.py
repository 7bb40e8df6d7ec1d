"""What is to be acknowledged to devices: gathered after each commit, settled a little later.

A device is told after so many messages, or so many seconds after the first, whatever comes first.
Then the mark in the database moves on, in one short transaction for all devices that are due, and
the acknowledgements go out. A process that dies before has acknowledged less than is committed:
the devices send it again.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from contracts import drops
from contracts.errors import ErrorInfo, ShoalError
from contracts.messages import Ack
from fleet.ingest.decode import Message, Number
from fleet.ingest.quota import Accounts
from fleet.ingest.writer import Change
from fleet.store import Store, delivery
from fleet.store.delivery import Spent, Stream
from fleet.store.marks import NOTHING, Mark, Span, advance

_LOG: Final = structlog.get_logger("ingest")
COUNT: Final = 16
"""Messages after which a device is told: half of what it has on its way."""

EVERY_S: Final = 30.0
"""Seconds after which a device is told at the latest: well before it sends again what it is not
told of. More often is dear: an acknowledgement is a tenth of an idle device's batch."""

SOON_S: Final = 0.5
"""Seconds after which it is, when it may wait for it."""

_RETRY_S: Final = 2.0
_MAX_UNNUMBERED: Final = 20_000
"""Streams of agents before ``ack`` that are remembered, not to be asked again."""


class _Pending:
    """What came of one stream since its last acknowledgement."""

    __slots__ = ("count", "due", "explicit", "over", "spans")

    def __init__(self, due: float) -> None:
        self.spans: list[Span] = []
        self.count = 0
        self.due = due
        self.explicit = False
        self.over = False

    def add(self, seq: int, after: int) -> None:
        """A message is there."""
        self.count += 1
        if self.spans and after == self.spans[-1][1] < seq:
            self.spans[-1] = (self.spans[-1][0], seq)
        else:
            self.spans.append((after, seq))


class Receipts:
    """Gathers and settles. For one thread.

    Args:
        store: the database.
        accounts: what devices stored.
        every_s: seconds after which a device is told at the latest.
    """

    def __init__(self, store: Store, accounts: Accounts, *, every_s: float = EVERY_S) -> None:
        self._store = store
        self._accounts = accounts
        self._every_s = every_s
        self._pending: dict[Stream, _Pending] = {}
        self._greeted: set[tuple[str, str]] = set()
        self._losses: collections.Counter[tuple[str, str]] = collections.Counter()
        self._unnumbered: dict[Stream, None] = {}
        self._due: float | None = None

    def due(self, running: float) -> float | None:
        """Seconds until something is to be settled; None: there is nothing.

        Args:
            running: seconds that only grow.
        """
        return None if self._due is None else max(0.0, self._due - running)

    def _until(self, moment: float) -> None:
        self._due = moment if self._due is None else min(self._due, moment)

    def recall(self, devices: Iterable[str], now: float) -> None:
        """Asks what devices that this process sees first today have stored already."""
        if not (new := self._accounts.strangers(devices, now)):
            return
        try:
            with self._store.read() as connection:
                stored = delivery.usage(connection, delivery.day_of(now), new)
        except ShoalError as error:
            # Nor can anything be stored now: it is asked again with the next batch.
            _LOG.warning("not known yet what devices stored today", reason=str(error)[:300])
            return
        self._accounts.recall({one: stored.get(one, Spent()) for one in new}, now)

    # Gathering. -----------------------------------------------------------------------------

    def committed(self, messages: Sequence[Message], running: float) -> None:
        """Messages are committed, or refused for good."""
        for message in messages:
            number = message.number
            if number is not None:
                # Of an update, what is not history is stored all the same.
                over = message.over and number.kind != "update"
                self._number(message.device, number, running, over=over)
            elif message.greets:
                self._greeted.add((message.device, message.greets))
                self._until(running + SOON_S)

    def refused(self, device: str, number: Number | None, place: str, running: float) -> None:
        """A message is refused for good: sent again it would be as wrong.

        Args:
            device: whose it is.
            number: of the message, if it could be read.
            place: of :mod:`contracts.drops`.
            running: seconds that only grow.
        """
        self._losses[device, place] += 1
        self._until(running + SOON_S)
        if number is not None:
            self._number(device, number, running)

    def _number(self, device: str, number: Number, running: float, *, over: bool = False) -> None:
        stream = Stream(device, number.kind, number.boot)
        explicit = number.after is not None
        if stream in self._unnumbered:
            if not explicit:
                return
            del self._unnumbered[stream]
        pending = self._pending.get(stream)
        if pending is None:
            pending = self._pending[stream] = _Pending(running + self._every_s)
            self._until(pending.due)
        if over:
            soon = not pending.over
            pending.over = True
        else:
            repeated = bool(pending.spans) and number.seq <= pending.spans[-1][1]
            after = number.seq - 1 if number.after is None else number.after
            pending.add(number.seq, after)
            soon = explicit or repeated
            pending.explicit |= explicit
        if soon:
            pending.due = min(pending.due, running + SOON_S)
            self._until(pending.due)
        elif pending.count == COUNT:
            pending.due = running
            self._until(running)

    # Settling. ------------------------------------------------------------------------------

    def settle(
        self, now: float, running: float, *, everything: bool = False
    ) -> tuple[list[tuple[str, Ack]], list[Change]]:
        """Stores what is due, and gives what devices are told, and what is news.

        Args:
            now: seconds since the epoch.
            running: seconds that only grow.
            everything: also what is not due yet.

        Raises:
            ShoalError: the database cannot be used: all of it is still to be settled.
        """
        due = {
            stream: pending
            for stream, pending in self._pending.items()
            # Together with what is nearly due: one transaction for both.
            if everything or pending.due <= running + self._every_s / 8
        }
        day, spent = self._accounts.take_due(now, everything=everything)
        self._due = running + _RETRY_S
        with self._store.write() as connection:
            marks = delivery.marks(self._store, connection, due)
            changed, new = _advanced(due, marks)
            delivery.save_marks(self._store, connection, changed, new, now)
            greeted = delivery.marks_of_boots(connection, self._greeted)
            sums = delivery.add_usage(self._store, connection, day, spent)
            lost = delivery.add_losses(self._store, connection, self._losses, now)
        self._accounts.noted(day, spent, sums, now)
        told = [
            change for device, places in sorted(lost.items()) for change in news(device, places)
        ]
        self._losses.clear()
        self._greeted.clear()
        for stream in due:
            del self._pending[stream]
        self._due = min((pending.due for pending in self._pending.values()), default=None)
        found = {**greeted, **marks, **changed}
        acks = [self._ack(stream, found.get(stream), due.get(stream), now)
                for stream in dict.fromkeys([*due, *greeted])]  # fmt: skip
        return acks, told

    def _ack(
        self, stream: Stream, mark: Mark | None, pending: _Pending | None, now: float
    ) -> tuple[str, Ack]:
        if mark is None:
            # It never said where it begins: asked once, as an agent before ``ack`` never will.
            self._unnumbered[stream] = None
            if len(self._unnumbered) > _MAX_UNNUMBERED:
                del self._unnumbered[next(iter(self._unnumbered))]
            mark = Mark(NOTHING)
        wait_s, reason = 0.0, None
        if pending is not None and pending.over:
            wait_s = self._accounts.wait_s(now)
            reason = ErrorInfo("over-quota", "it has stored all that it may today")
        ahead = [(first, last) for first, last in mark.ahead]
        return stream.device, Ack(
            stream.boot, mark.upto, stream.kind, ahead, wait_s=wait_s, reason=reason
        )


def news(device: str, places: Mapping[str, int]) -> list[Change]:
    """What is said of a device of which something was dropped, the first at a place on a day."""
    told: list[Change] = []
    if drops.OVER in places:
        told.append(Change("over-quota", device, {}))
    lost = {place: count for place, count in places.items() if place != drops.OVER}
    if lost:
        told.append(Change("data-dropped", device, {"places": lost}))
    return told


def _advanced(
    due: dict[Stream, _Pending], marks: dict[Stream, Mark]
) -> tuple[dict[Stream, Mark], list[Stream]]:
    """The marks that move, and those among them that were not known."""
    changed: dict[Stream, Mark] = {}
    new: list[Stream] = []
    for stream, pending in due.items():
        before = marks.get(stream)
        if before is None and not pending.explicit:
            continue
        after = advance(before or Mark(), pending.spans)
        if after != before:
            changed[stream] = after
        if before is None:
            new.append(stream)
    return changed, new
