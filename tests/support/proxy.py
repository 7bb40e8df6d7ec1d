"""A TCP proxy that is as bad as a network: cuts, silence, resets, a thin pipe."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from tests.support.tools import free_port

if TYPE_CHECKING:
    from typing_extensions import Self

_CHUNK = 4096


class Proxy:
    """Forwards to a port on loopback. Use as a context manager; change faults at any time.

    Attributes:
        port: where to connect.
        bytes_per_s: of each direction; 0: no limit.
        reset_ratio: share of forwarded pieces that reset their connection instead.
        silent: nothing is forwarded, nothing is closed: the peer looks alive (half-open).
        refuse: new connections are closed at once.
        resets: connections reset so far.
        forwarded: bytes in both directions so far.
    """

    def __init__(self, target: int, seed: int = 0) -> None:
        self.port = free_port()
        self.bytes_per_s = 0.0
        self.reset_ratio = 0.0
        self.silent = False
        self.refuse = False
        self.resets = 0
        self.forwarded = 0
        self._target = target
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=64)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Resets every connection."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)

    def _reset(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for one in pair:
            try:
                # Linger of zero seconds: close sends RST.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._server], [], [], 0.1)[0]:
                continue
            here, _ = self._server.accept()
            if self.refuse:
                here.close()
                continue
            try:
                there = socket.create_connection(("127.0.0.1", self._target), timeout=2)
            except OSError:
                here.close()
                continue
            pair = (here, there)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._copy, args=(pair, here, there), daemon=True).start()
            threading.Thread(target=self._copy, args=(pair, there, here), daemon=True).start()

    def _copy(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket
    ) -> None:
        try:
            while not self._stop.is_set():
                if self.silent:
                    time.sleep(0.05)
                    continue
                if not select.select([source], [], [], 0.1)[0]:
                    continue
                if self.silent:
                    continue
                data = source.recv(_CHUNK)
                if not data:
                    break
                if self.reset_ratio and self._chance.random() < self.reset_ratio:
                    self.resets += 1
                    break
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                sink.sendall(data)
                self.forwarded += len(data)
        except (OSError, ValueError):
            pass
        self._reset(pair)
