"""Messages that a device holds until the controller has them, and what it counts as dropped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from contracts.messages import Ack

Key = tuple[str, str, int]
"""What names a message: its topic, its boot, its number."""

Stream = tuple[str, str]
"""What is numbered apart: a topic and a boot."""

UNNUMBERED: Final = -1
"""The number of a message of an agent before ``ack``: the broker's word is all that it gets."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A message that is held.

    Attributes:
        id: its place in the order of putting.
        topic, payload: what goes where.
        boot, seq: its number; ``UNNUMBERED`` without a boot.
        before: the next lower number of the same topic and boot that is held; -1: none.
    """

    id: int
    topic: str
    payload: bytes
    boot: str = ""
    seq: int = UNNUMBERED
    before: int = -1

    @property
    def key(self) -> Key:
        """What names it; of one without a number, its place."""
        return (self.topic, self.boot, self.seq if self.boot else -self.id)


class Store(Protocol):
    """Where messages are held: the spool, or a list in memory."""

    @property
    def newest(self) -> int:
        """The id of the message that was put last."""

    @property
    def acknowledged(self) -> bool:
        """Whether the controller has ever acknowledged; kept over restarts."""

    def set_acknowledged(self, value: bool) -> None:
        """Notes it. On ``True`` nothing counts as taken any more."""

    def numbered(self, topic: str, boot: str) -> int | None:
        """The highest number of a topic and boot that was put during this run; None: none was."""

    def after(self, last_id: int, limit: int, skip: Collection[str] = ()) -> list[Row]:
        """At most `limit` messages behind an id, in order.

        Without those on topics to skip and those that the broker took.
        """

    def row(self, key: Key) -> Row | None:
        """One message; None when it is not held any more."""

    def forget(self, topic: str, ack: Ack) -> None:
        """Lets go of what an acknowledgement covers."""

    def remove(self, ids: Sequence[int]) -> None:
        """Lets go of messages by id."""

    def took(self, keys: Sequence[Key]) -> None:
        """The broker took messages, and nobody acknowledges.

        They are dropped before all others, and are not counted then.
        """

    def protect(self, ids: Collection[int]) -> None:
        """Messages that are on their way: they are dropped last, as they may have arrived."""


class Spooling(Store, Protocol):
    """A store that a device puts its messages into: the spool, or a list in memory."""

    @property
    def depth(self) -> int:
        """Messages that wait."""

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads that are kept."""

    @property
    def in_memory(self) -> bool:
        """Whether what is put now waits in memory, because the disk takes nothing."""

    @property
    def in_memory_s(self) -> float | None:
        """For how many seconds it does; None: it does not."""

    @property
    def untold(self) -> dict[str, int]:
        """What was dropped and no message tells, by place."""

    def settle(self) -> dict[int, int] | None:
        """Moves what waits in memory to the disk; the new ids by the old ones, if it was done."""

    def put(
        self,
        topic: str,
        payload: bytes,
        *,
        boot: str = "",
        seq: int = UNNUMBERED,
        precious: bool = False,
        items: int = 1,
    ) -> bool:
        """Appends a message; False: it is dropped."""

    def tell(
        self,
        topic: str,
        payload: Callable[[dict[str, int]], bytes],
        *,
        boot: str,
        seq: int,
        items: int,
    ) -> bool:
        """Appends a message that tells what was dropped."""

    def count_dropped(self, place: str, number: int = 1) -> None:
        """Counts what was dropped elsewhere."""


def add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Adds counts by place."""
    for place, number in more.items():
        if number:
            counts[place] = counts.get(place, 0) + number


_REMEMBERED: Final = 64
"""Streams of which something is remembered, the newest."""


def remember(found: dict[Stream, Any], stream: Stream, value: Any) -> None:
    """Keeps the newest of a bounded number."""
    found.pop(stream, None)
    found[stream] = value
    if len(found) > _REMEMBERED:
        del found[next(iter(found))]


def note_number(found: dict[Stream, int], stream: Stream, seq: int) -> None:
    """Keeps the highest number of a stream; of messages without a boot none."""
    if stream[1]:
        remember(found, stream, max(seq, found.get(stream, UNNUMBERED)))
