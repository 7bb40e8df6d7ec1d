"""How much a device may store on a day: counted as it comes, whoever the device is.

Of who is over, the rest of the day's telemetry and results are refused, which is counted and
told. Status, reports and update events still change what is known of the device, in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec

from contracts import limits
from fleet.ingest.decode import Batch, Message
from fleet.store.delivery import DAY_S, Spent, day_of

LARGE_BYTES: Final = 4096
"""Bytes of telemetry above which its labels are what is large: they are stored four times, raw, in
the roll-ups of a minute and an hour, and in those of all devices together."""

MESSAGE_BYTES: Final = 400
"""What a message takes beside its payload: its row and the row's places in indexes."""

SPAN_BYTES: Final = 1000
"""What the rows of a minute that was not there yet take in the roll-ups."""

_SPANS: Final = 64
"""Slots of which the last minute is remembered; of a device with more, each sample is a new one."""

_FLUSH_S: Final = 600.0
_FLUSH_SHARE: Final = 64
"""What is stored of the counts: after so many seconds, or so small a part of a quota."""


class Quota(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one device may store on one day (UTC); 0: no limit.

    Attributes:
        messages_per_day: telemetry, results and update events.
        bytes_per_day: of them, as they are stored: each message and each new minute of a slot
            counts for its rows, and telemetry beyond 4 KiB for each of its copies.
    """

    messages_per_day: Annotated[int, msgspec.Meta(ge=0)] = 250_000
    bytes_per_day: Annotated[int, msgspec.Meta(ge=0)] = 256 * limits.MIB


def cost(size: int, spans: int, *, labelled: bool) -> int:
    """Bytes that a message counts for.

    Args:
        size: bytes of its payload.
        spans: how many rows of roll-ups it begins.
        labelled: it is telemetry, whose labels are kept in roll-ups too.
    """
    stored = size + MESSAGE_BYTES + SPAN_BYTES * spans
    if labelled and size > LARGE_BYTES:
        stored += 3 * (size - LARGE_BYTES)
    return stored


class _Account:
    """One device's day: what is stored, here and by others, and what is yet to be noted."""

    __slots__ = ("fresh", "known", "recalled", "since", "spans")

    def __init__(self, now: float) -> None:
        self.known = Spent()
        self.fresh = Spent()
        self.recalled = False
        self.spans: dict[str, int] = {}
        self.since = now - _FLUSH_S  # what others have stored is asked for at once


class Accounts:
    """What all devices stored today, as far as this process knows.

    Args:
        quota: of each.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._day = 0
        self._accounts: dict[str, _Account] = {}

    def is_over(self, device: str, now: float, waiting: Spent | None = None) -> bool:
        """Whether a device has stored all it may today, with what waits for its commit."""
        account = self._of(device, now)
        messages = account.known.messages + account.fresh.messages
        size = account.known.bytes + account.fresh.bytes
        if waiting is not None:
            messages, size = messages + waiting.messages, size + waiting.bytes
        return 0 < self._quota.messages_per_day <= messages or 0 < self._quota.bytes_per_day <= size

    def strangers(self, devices: Iterable[str], now: float) -> set[str]:
        """Devices of which is not known what they stored before this process began."""
        self._begin(now)
        accounts = self._accounts
        return {one for one in devices if one not in accounts or not accounts[one].recalled}

    def recall(self, stored: Mapping[str, Spent], now: float) -> None:
        """What strangers stored today before this process, or in others."""
        for device, spent in stored.items():
            account = self._of(device, now)
            account.known, account.recalled = spent, True

    def spend(self, device: str, size: int, now: float) -> None:
        """A message is stored."""
        self._of(device, now).fresh.add(size)

    def priced(self, message: Message, now: float) -> Message:
        """A message with what it counts for."""
        body, spans = message.body, 0
        if isinstance(body, Batch):
            spans = self._new_spans(message.device, body.spans, now)
        size = cost(len(message.payload), spans, labelled=isinstance(body, Batch))
        return msgspec.structs.replace(message, cost=size)

    def _new_spans(self, device: str, spans: Iterable[tuple[str, int]], now: float) -> int:
        """How many of the minutes of a batch, by slot, are not the last that was counted."""
        known = self._of(device, now).spans
        new = 0
        for slot, minute in spans:
            if known.get(slot) != minute:
                new += 1
                if len(known) >= _SPANS:
                    known.clear()
                known[slot] = minute
        return new

    def _begin(self, now: float) -> None:
        day = day_of(now)
        if day != self._day:
            # What was not noted of yesterday is less than a hundredth of a quota.
            self._day, self._accounts = day, {}

    def _of(self, device: str, now: float) -> _Account:
        self._begin(now)
        account = self._accounts.get(device)
        if account is None:
            account = self._accounts[device] = _Account(now)
        return account

    def wait_s(self, now: float) -> float:
        """Seconds until the next day begins."""
        return DAY_S - now % DAY_S

    def take_due(self, now: float, *, everything: bool = False) -> tuple[int, dict[str, Spent]]:
        """The day, and what is to be added to what is stored of its counts."""
        due: dict[str, Spent] = {}
        for device, account in self._accounts.items():
            fresh = account.fresh
            if not fresh.messages:
                continue
            if (
                everything
                or now - account.since >= _FLUSH_S
                or fresh.messages * _FLUSH_SHARE > self._quota.messages_per_day > 0
                or fresh.bytes * _FLUSH_SHARE > self._quota.bytes_per_day > 0
            ):
                due[device] = msgspec.structs.replace(fresh)
        return self._day, due

    def noted(
        self, day: int, added: Mapping[str, Spent], sums: Mapping[str, Spent], now: float
    ) -> None:
        """What was to be added is stored, and what all processes stored is known."""
        if day != self._day:
            return
        for device, total in sums.items():
            account = self._of(device, now)
            account.known = total
            account.since = now
            fresh, stored = account.fresh, added[device]
            account.fresh = Spent(fresh.messages - stored.messages, fresh.bytes - stored.bytes)
