"""Webhooks: signed, tried again, not before the event is committed."""

from __future__ import annotations

import json
import queue

import httpx
import pytest

from contracts.errors import InputError
from fleet.store import Store, webhooks
from fleet.store.webhooks import Webhook
from fleet.webhooks import Sender, signature


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
    assert document == {"event": "device-offline", "at": 10.0, "data": {"device": "d1"}}


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

    def due(*_arguments: object) -> list[webhooks.Delivery]:
        tries.put(None)
        raise ZeroDivisionError

    monkeypatch.setattr(webhooks, "due", due)
    sender = Sender(store, lambda: 11.0)
    sender.start()
    for _ in range(2):
        tries.get(timeout=10)
    sender.stop()
