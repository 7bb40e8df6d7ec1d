"""A program that waits until it is told to stop.

A signal may be given to any thread of a process, and is so when the process was suspended while
it came. Python notes it there, and carries it out on the main thread once that runs again: one
that sleeps in a lock goes on sleeping. So the main thread waits for a pipe, into which Python
writes at once, whichever thread the system has chosen.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether SIGTERM or SIGINT came; made, used and closed by the main thread.

    A context manager: at its end the signals are as they were.
    """

    def __init__(self) -> None:
        self._told = False
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._woken_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._on_signal) for number in NUMBERS}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._told = True

    def wake(self) -> None:
        """Ends a wait, now or the next one; from any thread."""
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups
            os.write(self._write, b"\0")

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until a signal comes, it is woken, or the time is over.

        Returns:
            Whether a signal came. Another signal than these may end the wait, too.
        """
        if not self._told:
            woken = self._poll.poll(None if seconds is None else seconds * 1000)
            # What Python writes is the signal's number.
            if woken and any(number in NUMBERS for number in os.read(self._read, 4096)):
                self._told = True
        return self._told

    def close(self) -> None:
        """The signals are again as they were."""
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._woken_before, warn_on_full_buffer=False)
        os.close(self._read)
        os.close(self._write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
