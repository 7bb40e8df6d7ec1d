"""Time on an event loop, and how the agent's code waits there: in a greenlet, not in a thread.

The agent's parts wait for a download, a self-test or a model that loads. An agent has threads for
that. Here each such part runs in a greenlet, which gives the loop back while it waits; the code of
the part is the same. Everything of a process runs in one thread, one after the other.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

T = TypeVar("T")


class Timer(Protocol):
    """Something that will be called."""

    def cancel(self) -> None:
        """It will not be called."""


class Host(Protocol):
    """Time, and calls in the future. All calls return at once."""

    def time(self) -> float:
        """Seconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Calls `call` in `seconds`."""


class LoopHost:
    """The time of an event loop.

    Args:
        loop: the loop.
        speed: so many of the devices' seconds go by in one of the loop's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float = 1.0) -> None:
        self._loop = loop
        self._speed = speed
        self._since = self._passed = 0.0

    def go_at(self, speed: float) -> None:
        """From now on time goes so fast; what waits comes when it would have come."""
        self._passed, self._since, self._speed = self.monotonic(), self._loop.time(), speed

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self._passed + (self._loop.time() - self._since) * self._speed

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Calls `call` in `seconds`."""
        return self._loop.call_later(seconds / self._speed, call)


class Waiting:
    """The greenlets of one run of a device.

    Args:
        host: the time.
    """

    __slots__ = ("_alive", "host")

    def __init__(self, host: Host) -> None:
        self.host = host
        self._alive: set[greenlet] | None = set()

    def start(self, work: Callable[[], object]) -> None:
        """Runs `work` now, until it waits. To be called by the loop alone."""
        if self._alive is None:
            return

        def run() -> None:
            try:
                work()
            finally:
                if self._alive is not None:
                    self._alive.discard(one)

        one = greenlet(run)
        self._alive.add(one)
        one.switch()

    def pause(self, seconds: float) -> None:
        """Waits; all else goes on."""
        if seconds > 0:

            def begin(go_on: Callable[[None], None]) -> None:
                self.host.later(seconds, lambda: go_on(None))

            self.on(begin)

    def on(self, begin: Callable[[Callable[[T], None]], object]) -> T:
        """Waits for a value.

        Args:
            begin: is given what to call with the value, once, from the loop and not at once.
        """
        if self._alive is None:
            raise GreenletExit
        here = getcurrent()
        loop = here.parent
        assert loop is not None, "only what was started here can wait"

        def go_on(value: T) -> None:
            if not here.dead:
                here.switch(value)

        begin(go_on)
        value: T = loop.switch()
        return value

    def kill(self) -> None:
        """Ends all that wait, where they are, as the end of a process would."""
        alive, self._alive = self._alive, None
        for one in alive or ():
            one.throw(GreenletExit)


class Turns:
    """Gives a part of a device its turns: when it is due, and when it is woken.

    Args:
        waiting: where it runs.
        turn: does what there is to do; returns the seconds until there is more, None: until it
            is woken.
    """

    __slots__ = ("_again", "_running", "_timer", "_turn", "_waiting")

    def __init__(self, waiting: Waiting, turn: Callable[[], float | None]) -> None:
        self._waiting = waiting
        self._turn = turn
        self._timer: Timer | None = None
        self._running = self._again = False

    def wake(self) -> None:
        """There is something to do."""
        if self._running:
            self._again = True
        else:
            self._in(0.0)

    def stop(self) -> None:
        """No more turns."""
        self._running = True
        if self._timer is not None:
            self._timer.cancel()

    def _in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._waiting.host.later(seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if not self._running:
            self._running = True
            self._waiting.start(self._run)

    def _run(self) -> None:
        self._again = False
        pause = self._turn()
        self._running = False
        if self._again:
            self._in(0.0)
        elif pause is not None:
            self._in(pause)


class Alarm(threading.Event):
    """An event that wakes somebody when it is set; nobody waits for it.

    Attributes:
        ring: called when it is set.
    """

    def __init__(self) -> None:
        # Not of the base: a device has two of these, and no thread waits for them.
        self.ring: Callable[[], None] = lambda: None

    def set(self) -> None:
        """Wakes."""
        self.ring()

    def clear(self) -> None:
        """It is never set for long."""

    def is_set(self) -> bool:
        """It is never set for long."""
        return False


class Arrivals(threading.Condition):
    """A condition that is waited for on the loop.

    Args:
        waiting: who waits.
    """

    def __init__(self, waiting: Waiting) -> None:
        # Not of the base: there is one thread, and nothing to lock.
        self._on_loop = waiting
        self._go_on: list[Callable[[bool], None]] = []

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        """Nothing was locked."""

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until :meth:`notify_all`, at most `timeout` seconds."""
        assert timeout is not None
        timers: list[Timer] = []

        def begin(go_on: Callable[[bool], None]) -> None:
            self._go_on.append(go_on)
            timers.append(self._on_loop.host.later(timeout, lambda: self._end(go_on, False)))

        came = self._on_loop.on(begin)
        timers[0].cancel()
        return came

    def notify_all(self) -> None:
        """Whoever waits goes on, in the next turn of the loop."""
        for go_on in list(self._go_on):
            self._on_loop.host.later(0, lambda go_on=go_on: self._end(go_on, True))  # type: ignore[misc]

    def _end(self, go_on: Callable[[bool], None], came: bool) -> None:
        if go_on in self._go_on:
            self._go_on.remove(go_on)
            go_on(came)
