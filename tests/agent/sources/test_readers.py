"""Readers of local sources after errors: they go on, and it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.connection import Client
from agent.daemon import Agent
from agent.sources.readers import MAX_PAUSE_S, keep_reading, read_mqtt, reader
from agent.system.clock import SystemClock
from agent.telemetry.recorder import DEVICE
from contracts.config import AgentConfig, MqttConfig, SourceConfig
from tests.agent.sources.test_tail import Taken
from tests.support.tools import free_port

PATIENCE_S = 90.0


class Waited(Taken):
    """Can be waited for, from another thread."""

    def __init__(self, kind: str, path: str) -> None:
        super().__init__()
        self.source = SourceConfig("s", kind, path=path)  # type: ignore[arg-type]
        self.changed = threading.Condition()

    def line(self, data: bytes) -> None:
        """Keeps a line."""
        with self.changed:
            super().line(data)
            self.changed.notify_all()

    def failed(self, error: Exception) -> None:
        """Keeps a failure."""
        with self.changed:
            super().failed(error)
            self.changed.notify_all()

    def wait_for(self, lines: int, failures: int) -> None:
        """Waits until there were so many."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: len(self.lines) >= lines and len(self.failures) >= failures, PATIENCE_S
            )


@contextmanager
def reading(feed: Waited, folder: Path) -> Iterator[None]:
    """A source that is read on a thread of its own."""
    read = reader(feed, folder, MqttConfig(port=free_port()), "d")
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        feed.stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_pauses_after_errors_grow_up_to_a_minute_and_begin_anew_after_a_while() -> None:
    """Whatever the error is; the end of the source ends it."""
    feed = Taken()
    waited: list[float] = []
    began = feed.clock.now
    runs = 0

    def read() -> None:
        nonlocal runs, began
        waited.append(feed.clock.now - began)
        runs += 1
        if runs == 10:
            feed.clock.now += MAX_PAUSE_S  # it did well for a while
        began = feed.clock.now
        if runs < 12:
            raise ValueError("a bug")

    keep_reading(feed, read)
    assert waited == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 1, 2]
    assert feed.failures == ["a bug"] * 11


def test_a_socket_that_cannot_accept_serves_who_is_there_and_accepts_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when too many files are open."""
    feed = Waited("unix", "s.sock")
    accept = socket.socket.accept
    refused: list[int] = []

    def refuse(self: socket.socket) -> Any:
        if not refused and feed.lines:
            refused.append(1)
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", refuse)
    feed.clock = SystemClock()  # type: ignore[assignment]
    with reading(feed, tmp_path), socket.socket(socket.AF_UNIX) as first:
        path = tmp_path / "s.sock"
        while first.connect_ex(str(path)):
            feed.stop.wait(0.01)
        first.sendall(b"a\n")
        feed.wait_for(1, 0)
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(str(path))
            feed.wait_for(1, 1)
            first.sendall(b"b\n")
            feed.wait_for(2, 1)
            second.sendall(b"c\n")
            feed.wait_for(3, 1)
    assert feed.lines == [b"a", b"b", b"c"]
    assert len(feed.failures) == 1


def test_a_socket_whose_folder_is_not_there_yet_listens_later(tmp_path: Path) -> None:
    """It is told until then."""
    feed = Waited("unix", "later/s.sock")
    with reading(feed, tmp_path):
        feed.wait_for(0, 2)
        (tmp_path / "later").mkdir()
        with socket.socket(socket.AF_UNIX) as client:
            while client.connect_ex(str(tmp_path / "later" / "s.sock")):
                feed.stop.wait(0.01)
            client.sendall(b"a\n")
            feed.wait_for(1, 2)


def test_a_broker_that_is_not_there_is_told_and_a_dead_network_thread_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that hears nothing is not silent."""
    feed = Waited("mqtt", "t")
    with reading(feed, tmp_path):
        feed.wait_for(0, 1)
        assert "no connection to 127.0.0.1" in feed.failures[0]
    monkeypatch.setattr(Client, "alive", False)
    with pytest.raises(OSError, match="network thread ended"):
        read_mqtt(Waited("mqtt", "t"), "t", MqttConfig(port=free_port()), "n", tmp_path)


def test_a_source_that_fails_counts_to_the_device_and_not_to_a_bundle_in_its_trial(
    tmp_path: Path,
) -> None:
    """Telemetry has it; the trial's bundle is not to blame."""
    source = SourceConfig("app", "file", path="app.log", slot="classify")
    agent = Agent(AgentConfig("f", "d", "raspberry-pi-5", "{}", sources=[source]), tmp_path)
    agent.recorder.begin_trial("classify")
    feed = agent._feed(source)
    feed.failed(OSError("Input/output error"))
    (sample,) = agent.recorder.take(0, 1)
    assert (sample.slot, sample.errors) == (DEVICE, 1)
    assert agent.recorder.trial("classify").errors == 0
