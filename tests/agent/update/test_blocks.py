"""Files over MQTT: every byte in order, within the window, in blocks as large as the link likes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from agent.update.blocks import (
    BLOCK_BYTES,
    FIRST_TIMEOUT_S,
    LARGEST_BYTES,
    MAX_WINDOW_BYTES,
    SOON_S,
    Blocks,
)
from contracts import blocks
from contracts.errors import UnavailableError
from contracts.requests import BlobGet

DATA = random.Random(1).randbytes(3 * 1024 * 1024 + 77)


class Link:
    """Answers the oldest request whenever the reader waits, in a time that it says passed.

    Args:
        seconds: that a block takes once it is the oldest.
        lost: which blocks never arrive.

    Attributes:
        asked: every request.
        largest: bytes that were on the way at once.
    """

    def __init__(
        self, seconds: float = 0.0, lost: Callable[[BlobGet], bool] = lambda _: False
    ) -> None:
        self.asked: list[BlobGet] = []
        self.largest = 0
        self._seconds = seconds
        self._lost = lost
        self._now = 0.0
        self._waiting: list[BlobGet] = []
        self.reader = Blocks(self._ask, lambda: self._now, threading.Event())
        self.reader._arrived.wait = self._wait  # type: ignore[method-assign]

    def _ask(self, request: BlobGet) -> None:
        self.asked.append(request)
        self._waiting.append(request)
        self.largest = max(self.largest, sum(r.length for r in self._waiting))

    def _wait(self, timeout: float | None = None) -> bool:
        request = self._waiting.pop(0)
        if self._lost(request):
            self._now += FIRST_TIMEOUT_S
            return False
        self._now += self._seconds
        data = DATA[request.offset : request.offset + request.length]
        block = blocks.Block(request.offset, len(DATA), data)
        self.reader.on_block(request.id, blocks.pack(request.id, block))
        return True

    def read(self, offset: int = 0) -> bytes:
        """The whole file from here."""
        return b"".join(self.reader.open("file", offset).chunks)

    @property
    def sizes(self) -> list[int]:
        """Of the blocks that were asked for."""
        return [request.length for request in self.asked]


@pytest.mark.parametrize("offset", [0, 1, len(DATA) - 5])
def test_blocks_grow_while_they_arrive_soon(offset: int) -> None:
    """The window in bytes stays what it is: so much memory a download takes."""
    link = Link()
    assert link.read(offset) == DATA[offset:]
    assert link.sizes[0] == BLOCK_BYTES
    assert link.largest <= MAX_WINDOW_BYTES
    if offset < 2:
        assert max(link.sizes) == LARGEST_BYTES
        assert link.largest == MAX_WINDOW_BYTES
        assert len(link.asked) < 40


def test_a_slow_link_gets_small_blocks() -> None:
    """None of them holds up other messages for long."""
    link = Link(SOON_S)
    assert link.read() == DATA
    assert max(link.sizes) == BLOCK_BYTES


def test_a_loss_makes_blocks_small_again() -> None:
    """What was on the way is not asked for again, and they grow anew."""
    lost: list[BlobGet] = []

    def lose(request: BlobGet) -> bool:
        if request.length == LARGEST_BYTES and not lost:
            lost.append(request)
            return True
        return False

    link = Link(0.0, lose)
    assert link.read() == DATA
    first, again = (r for r in link.asked if r.offset == lost[0].offset)
    assert first.length == again.length
    after = link.sizes[link.asked.index(again) + 1 :]
    assert after[0] == BLOCK_BYTES and max(after) == LARGEST_BYTES
    assert len({r.offset for r in link.asked}) == len(link.asked) - 1


@pytest.mark.parametrize("sent", [0, 1, 5])
def test_what_could_not_be_asked_for_is_not_waited_for(sent: int) -> None:
    """A device may be offline for months, and tries again and again."""
    link = Link()
    ask = link.reader._ask

    def ask_until_offline(request: BlobGet) -> None:
        if len(link.asked) == sent:
            raise UnavailableError("offline", "no connection to the broker")
        ask(request)

    link.reader._ask = ask_until_offline
    with pytest.raises(UnavailableError):
        link.read()
    assert len(link.asked) == sent
    assert not link.reader._wanted
