"""Webhooks: signed, tried again, not before the event is committed."""

from __future__ import annotations

import ast
import contextlib
import http.server
import json
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.errors import InputError, RefusedError
from fleet.egress import Allowed
from fleet.store import Store, webhooks
from fleet.store.webhooks import Webhook
from fleet.webhooks import Sender, signature

ROOT = Path(__file__).parents[2]


class _Receiver:
    """Takes deliveries; answers with the statuses that a test lays out."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self.statuses.pop(0) if self.statuses else 200)


def _add(store: Store, *events: str) -> None:
    with store.write() as connection:
        webhooks.add(connection, Webhook("w1", "http://hook/x", "s" * 32, list(events), 1.0, 1))


def _enqueue(store: Store, event: str, at: float) -> None:
    with store.write() as connection:
        webhooks.enqueue(connection, event, {"device": "d1"}, at)


def test_a_delivery_is_signed_so_that_its_receiver_can_check_it(store: Store) -> None:
    """The signature covers time and body; nothing else is needed but the secret."""
    _add(store, "*")
    _enqueue(store, "device-offline", 10.0)
    receiver = _Receiver()
    with httpx.Client(transport=httpx.MockTransport(receiver)) as client:
        assert Sender(store, lambda: 11.0).deliver(client) == 1
    (request,) = receiver.requests
    assert request.headers["Shoal-Event"] == "device-offline"
    expected = signature("s" * 32, request.headers["Shoal-Timestamp"], request.content)
    assert request.headers["Shoal-Signature"] == expected
    document = json.loads(request.content)
    assert document["event"] == "device-offline"
    assert document["at"] == 10.0
    assert document["data"] == {"device": "d1"}


def test_a_failed_delivery_is_tried_again_later_under_the_same_id(store: Store) -> None:
    """The waits double; a success ends it."""
    _add(store, "*")
    _enqueue(store, "rollout-stopped", 10.0)
    receiver = _Receiver(500, 302, 200)
    now = 10.0
    sender = Sender(store, lambda: now)
    with httpx.Client(transport=httpx.MockTransport(receiver)) as client:
        assert sender.deliver(client) == 0
        assert sender.deliver(client) == 0, "not yet due"
        assert len(receiver.requests) == 1
        now = 13.0
        assert sender.deliver(client) == 0
        now = 20.0
        assert sender.deliver(client) == 1
        now = 1e6
        assert sender.deliver(client) == 0
    assert len({r.headers["Shoal-Delivery"] for r in receiver.requests}) == 1
    assert len(receiver.requests) == 3


def test_only_the_events_that_were_asked_for_are_delivered(store: Store) -> None:
    """And nothing of a webhook that was removed."""
    _add(store, "rollout-stopped")
    _enqueue(store, "device-online", 1.0)
    _enqueue(store, "rollout-stopped", 1.0)
    with store.read() as connection:
        assert [d.event for d in webhooks.due(connection, 2.0, 10)] == ["rollout-stopped"]
    with store.write() as connection:
        webhooks.remove(connection, "w1")
        assert webhooks.due(connection, 2.0, 10) == []
        with pytest.raises(InputError):
            webhooks.remove(connection, "w1")


def test_a_defect_in_a_delivery_is_a_failed_try_and_the_others_are_delivered(store: Store) -> None:
    """Whatever a receiver makes the client raise."""
    _add(store, "*")
    _enqueue(store, "device-offline", 10.0)
    _enqueue(store, "device-online", 10.0)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["Shoal-Event"] == "device-offline":
            raise ZeroDivisionError
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        assert Sender(store, lambda: 11.0).deliver(client) == 1


def test_the_thread_outlives_whatever_is_raised(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It logs, rests and goes on."""
    monkeypatch.setattr("fleet.webhooks._POLL_S", 0.01)
    monkeypatch.setattr("fleet.webhooks._DEFECT_S", 0.01, raising=False)
    tries: queue.SimpleQueue[None] = queue.SimpleQueue()

    def waiting(*_arguments: object) -> set[str]:
        tries.put(None)
        raise ZeroDivisionError

    monkeypatch.setattr(webhooks, "waiting", waiting)
    sender = Sender(store, lambda: 11.0)
    sender.start()
    for _ in range(2):
        tries.get(timeout=60)
    sender.stop()


@contextlib.contextmanager
def receiving(status: int = 200, location: str = "") -> Iterator[tuple[int, queue.Queue[str]]]:
    """A receiver on loopback: its port, and the hosts and paths that it was asked for."""
    asked: queue.Queue[str] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.put(f"{self.headers['Host']}{self.path}")
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def _hook(store: Store, name: str, url: str) -> None:
    with store.write() as connection:
        webhooks.add(connection, Webhook(name, url, "s" * 32, ["*"], 1.0, 1))


def test_one_that_hangs_delays_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though more events wait for it than are delivered at once."""
    monkeypatch.setattr("fleet.webhooks._POLL_S", 0.01)
    monkeypatch.setattr("fleet.webhooks._TIMEOUT_S", 60.0)
    monkeypatch.setattr("fleet.webhooks._BATCH", 2)
    with socket.socket() as hangs, receiving() as (port, asked):
        hangs.bind(("127.0.0.1", 0))
        hangs.listen(10)
        _hook(store, "a-hangs", f"http://127.0.0.1:{hangs.getsockname()[1]}/")
        for _ in range(5):
            _enqueue(store, "device-offline", 10.0)
        _hook(store, "good", f"http://127.0.0.1:{port}/good")
        sender = Sender(store, lambda: 11.0, allowed=Allowed(["127.0.0.0/8"]))
        sender.start()
        try:
            hanging, _ = hangs.accept()
            for _ in range(3):
                _enqueue(store, "device-online", 10.0)
            for _ in range(3):
                assert asked.get(timeout=20).endswith("/good")
        finally:
            sender._stopping.set()
            hangs.close()
            hanging.close()
            sender.stop()


def test_a_private_address_is_not_connected_to_unless_it_is_allowed(store: Store) -> None:
    """The delivery fails with the reason, and nothing arrives."""
    with receiving() as (port, asked):
        _hook(store, "w1", f"http://localhost:{port}/x")
        _enqueue(store, "device-offline", 10.0)
        refusing = Sender(store, lambda: 11.0)
        with refusing.client() as client:
            with store.read() as connection:
                (delivery,) = webhooks.due(connection, 11.0, 1)
            reason = refusing._post(client, delivery)
        assert reason is not None
        assert "webhook_hosts" in reason
        assert asked.empty()
        allowing = Sender(store, lambda: 11.0, allowed=Allowed(["LOCALHOST"]))
        with allowing.client() as client:
            assert allowing.deliver(client) == 1
        assert asked.get_nowait() == f"localhost:{port}/x"


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another address the second time leads nowhere else."""
    asked_for: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        if host == "rebind.example":
            asked_for.append(host)
            host = "127.0.0.1" if len(asked_for) == 1 else "127.0.0.2"
        return real(host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with receiving() as (port, asked):
        _hook(store, "w1", f"http://rebind.example:{port}/x")
        _enqueue(store, "device-offline", 10.0)
        sender = Sender(store, lambda: 11.0, allowed=Allowed(["127.0.0.1"]))
        with sender.client() as client:
            assert sender.deliver(client) == 1
        assert asked_for == ["rebind.example"]
        assert asked.get_nowait() == f"rebind.example:{port}/x"
        _enqueue(store, "device-offline", 10.0)
        with sender.client() as client:
            assert sender.deliver(client) == 0, "127.0.0.2 is not allowed"


def test_a_redirect_leads_nowhere(store: Store) -> None:
    """Neither within a host nor to another."""
    with receiving() as (elsewhere, reached):
        with receiving(307, f"http://127.0.0.1:{elsewhere}/") as (port, asked):
            _hook(store, "w1", f"http://127.0.0.1:{port}/x")
            _enqueue(store, "device-offline", 10.0)
            sender = Sender(store, lambda: 11.0, allowed=Allowed(["127.0.0.1"]))
            with sender.client() as client:
                assert sender.deliver(client) == 0
            assert asked.qsize() == 1
        assert reached.empty()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
        "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2130706433",
        "0x7f.1", "localhost",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused_however_it_is_written(host: str) -> None:
    """Loopback, private networks, metadata of clouds, all that holds one of these."""
    with pytest.raises(RefusedError, match="webhook_hosts"):
        Allowed().resolve(host, 80)


def test_public_addresses_and_named_ones_are_resolved() -> None:
    """A network allows its addresses, a name whatever it is."""
    assert Allowed().resolve("1.1.1.1", 80) == ["1.1.1.1"]
    assert Allowed().resolve("2606:4700::1111", 80) == ["2606:4700::1111"]
    allowed = Allowed(["192.168.7.0/24", "localhost."])
    assert allowed.resolve("192.168.7.9", 80) == ["192.168.7.9"]
    assert allowed.resolve("localhost", 80)
    with pytest.raises(RefusedError):
        allowed.resolve("192.168.8.1", 80)
    for wrong in ("", "192.168.7.1/24", "a/b"):
        with pytest.raises(InputError, match="webhook_hosts"):
            Allowed([wrong])


class _Strict(http.server.BaseHTTPRequestHandler):
    """Receivers as chats and notifiers document theirs: by path, what they need of a body."""

    server: _Room

    def do_POST(self) -> None:
        """Refuses what the real one refuses."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.path.strip("/")
        needed = {"slack": "text", "discord": "content", "gotify": "message"}[kind]
        most = {"slack": 40_000, "discord": 2_000, "gotify": 1 << 20}[kind]
        good = isinstance(body.get(needed), str) and 0 < len(body[needed]) <= most
        if kind == "discord" and body.get("allowed_mentions") != {"parse": []}:
            good = good and not any(word in body["content"] for word in ("@everyone", "<@"))
        self.server.heard.put((kind, body[needed] if good else None))
        # Discord answers with nothing, Slack with a word that is no JSON.
        self.send_response(204 if kind == "discord" else 200 if good else 400)
        self.end_headers()
        if kind == "slack":
            self.wfile.write(b"ok" if good else b"no_text")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class _Room(http.server.ThreadingHTTPServer):
    heard: queue.Queue[tuple[str, str | None]]


@pytest.fixture
def room() -> Iterator[_Room]:
    """A server on loopback."""
    server = _Room(("127.0.0.1", 0), _Strict)
    server.heard = queue.Queue()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"device": "kitchen"},
        {"rollout": "r7", "message": "wave 1: error rate 0.2 is over 0.1"},
        {"message": "disk: 3 opened; <!channel> <@1> @everyone \x1b[31m" + "x" * 5000},
    ],
)
def test_chats_and_notifiers_take_a_delivery_as_it_is(
    store: Store, room: _Room, facts: dict[str, Any]
) -> None:
    """Each finds the event in words where it looks for them, and nobody is called by it."""
    with store.write() as connection:
        for kind in ("slack", "discord", "gotify"):
            url = f"http://127.0.0.1:{room.server_port}/{kind}"
            webhooks.add(connection, Webhook(kind, url, "s" * 32, ["*"], 1.0, 1))
        webhooks.enqueue(connection, "alert-opened", facts, 10.0)
    sender = Sender(store, lambda: 11.0, allowed=Allowed(["127.0.0.1"]))
    with sender.client() as client:
        assert sender.deliver(client) == 3
    heard = dict(room.heard.get(timeout=60) for _ in range(3))
    assert heard.keys() == {"slack", "discord", "gotify"}
    for text in heard.values():
        assert text is not None
        assert text.startswith("Alert opened")
        assert str(facts.get("rollout", facts.get("device", ""))) in text
        assert not {"<", ">", "@", "\x1b"} & set(text)


def test_a_receiver_that_is_away_for_hours_is_told_in_the_end(store: Store) -> None:
    """As the documentation says."""
    _add(store, "*")
    _enqueue(store, "rollout-stopped", 0.0)
    now = 0.0
    receiver = _Receiver(*[503] * 100)
    sender = Sender(store, lambda: now)
    with httpx.Client(transport=httpx.MockTransport(receiver)) as client:
        while now < 3 * 3600:
            sender.deliver(client)
            now += 60.0
        receiver.statuses = []
        delivered = 0
        while now < 5 * 3600:
            delivered += sender.deliver(client)
            now += 60.0
    assert delivered == 1


def test_every_kind_of_event_is_known_and_documented() -> None:
    """By the source: what the engine notes, what devices and alerts give, what people do."""
    from fleet.conductor.runner import _PAST
    from fleet.controller import _WEBHOOK_EVENTS

    kinds = set(_WEBHOOK_EVENTS) | {f"{past}-by-person" for past in _PAST.values()}
    for path in ("rollout/engine.py", "rollout/commands.py", "lookout/lookout.py"):
        for node in ast.walk(ast.parse((ROOT / "fleet" / path).read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".note"):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    kinds.add(first.value)
    assert len(kinds) > 14
    assert kinds - set(webhooks.KINDS) == set()
    told = (ROOT / "docs/how-to/webhooks.md").read_text("utf-8")
    assert [kind for kind in webhooks.KINDS if f"`{kind}`" not in told] == []
