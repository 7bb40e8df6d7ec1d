"""A connection, and the thread that works with it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Final

from fleet.mqtt.link import Link

_END_S: Final = 30.0


class Worker(ABC):
    """What has a connection and a thread of its own.

    Args:
        link: the connection.
        name: of the thread.

    Attributes:
        link: the connection.
    """

    def __init__(self, link: Link, name: str) -> None:
        self.link = link
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Connects and begins, or goes on."""
        self.link.start()
        if not self._thread.is_alive():
            self._thread.start()

    def pause(self) -> None:
        """Says nothing until it is started again."""
        self.link.stop()

    def stop(self) -> None:
        """Ends the thread, then the connection."""
        self._stopping.set()
        self._wake.set()
        self._end()
        if self._thread.is_alive():
            self._thread.join(_END_S)
        self.link.stop()

    def _end(self) -> None:  # noqa: B027  (most need no more)
        """Ends what the thread waits for beside `_wake`."""

    @abstractmethod
    def _run(self) -> None:
        """The thread: ends once `_stopping` is set."""
