"""Whatever fails, no text of a query is where others see it.

The controller's program runs with a broker and a device that answers; one after the other, each
place that a question or an answer passes fails with the text in its error. Then its log, the audit
log, webhooks, answers to others and every file of the fleet are searched.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts import codec
from contracts.answers import Answer, Classified, Embedded, Generated
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.messages import BundleRef, Result, Status
from contracts.topics import Topics
from fleet.store import tokens
from tests.support import breaking_controller
from tests.support.served import ServedFleet

REF = BundleRef("m", "1.0.0", "a" * 64)
MARK = "zqx"
PATTERN = re.compile(rf"{MARK}\d+q")
QUESTION = re.compile(rf"{MARK}\d+q turn")
"""A question; what a device shares of its own is ended in another way, and may be stored."""


ON_A_THREAD = ("fleet.ingest", "fleet.query.ask:Asker._on", "fleet.mqtt", "contracts.codec:decode")
"""Places on the threads of the broker's client, where nothing in Rust works on a text."""


class Device:
    """Answers every question with its text in the answer; what is damaged when it is told so."""

    def __init__(self, mqtt: MqttConfig, topics: Topics) -> None:
        self.topics = topics
        self.damage: Callable[[bytes], bytes] = lambda payload: payload
        ready = threading.Event()
        self.client = new_client(mqtt, f"{topics.fleet}-d1")
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._on_message
        self.client.connect(mqtt.host, mqtt.port)
        self.client.subscribe(topics.requests_of("d1"), 1)
        self.client.loop_start()
        assert ready.wait(60)
        self.send("status", codec.encode(Status("online", "b1", 1, time.time())), retain=True)

    def send(self, kind: Any, payload: bytes, *, retain: bool = False) -> None:
        """Publishes."""
        self.client.publish(self.topics.of_device("d1", kind), payload, 1, retain)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        op = message.topic.rsplit("/", 1)[1]
        request = json.loads(message.payload)
        name, text = request["id"], PATTERN.search(message.payload.decode())
        said = f"{text.group() if text else ''} turned"
        if op == "generate":
            made: dict[str, Any] = {"generated": Generated(said, "stop", 1, 2, REF)}
            first = Answer(id=name, device="d1", seq=0, done=False, chunk=said)
            self._say(name, codec.encode(first))
        elif op == "embed":
            made = {"embedded": Embedded([1.0], REF, 1, 1.0)}
        else:
            made = {"classified": Classified(said[:60], 0.9, [], REF, 10.0)}
        self._say(name, self.damage(codec.encode(Answer(id=name, device="d1", seq=1, **made))))

    def _say(self, name: str, payload: bytes) -> None:
        self.client.publish(self.topics.response("d1", name), payload, 1)

    def close(self) -> None:
        """Disconnects."""
        self.client.disconnect()
        self.client.loop_stop()


class Rig:
    """A controller of which one place fails at a time, and everything that comes out of it."""

    def __init__(self, served: ServedFleet, device: Device, control: Path) -> None:
        self.served, self.device, self.control = served, device, control
        self.hits = control.with_suffix(".hits")
        self.hits.write_text("")
        self.serial = 0
        self.seen: list[str] = []
        self._stack = contextlib.ExitStack()
        store = served.fleet.open_store()
        with store.write() as connection:
            viewer = tokens.create(connection, "other", "viewer", time.time())
            operator = tokens.create(connection, "another", "operator", time.time())
        store.close()
        self.asker, self.other, self.another = (
            self._stack.enter_context(
                httpx.Client(
                    base_url=served.fleet.api_url, timeout=30,
                    headers={"Authorization": f"Bearer {secret}"},
                )
            )
            for secret in (served.token, viewer, operator)
        )  # fmt: skip

    def close(self) -> None:
        """Closes the connections."""
        self._stack.close()

    def mark(self) -> str:
        """A text that was never there before."""
        self.serial += 1
        return f"{MARK}{self.serial}q turn on the light"

    def ask(self, path: str, body: dict[str, Any]) -> int:
        """A question; its answer is the asker's own."""
        try:
            return self.asker.post(path, json=body).status_code
        except httpx.HTTPError:  # the answer broke off
            return 0

    def others(self) -> None:
        """What others are told meanwhile."""
        for path in ("/readyz", "/v1/devices", "/v1/devices/d1", "/v1/devices/d1/updates",
                     "/metrics", "/v1/clones", "/v1/expiry", "/v1/nothing"):  # fmt: skip
            self.seen.append(self.other.get(path).text)
        self.seen.append(self.other.post("/v1/queries", json={}).text)
        self.seen.append(self.another.post("/v1/queries", json={}).text)
        self.seen.append(self.another.get("/v1/audit").text)

    def fails(self, place: str, act: Callable[[str], object]) -> None:
        """Lets a place fail with a text while something is done."""
        mark = self.mark()
        before = self.hits.read_text().count("\n")
        self.control.write_text(f"{place} {mark.split()[0]}")
        # On a busy machine what is asked may be given up before it comes to the place.
        deadline = time.monotonic() + 90
        act(mark)
        while not self._is_hit(before):
            assert time.monotonic() < deadline, f"not within 90 s: {place}"
            act(mark)
        self.others()
        self.control.write_text("")
        self.until(lambda: self.ask("/v1/queries", classify("again")) == 200, "it answers again")

    def _is_hit(self, before: int) -> bool:
        """Whether a place has failed since then; no is said after a while."""
        for _ in range(100):
            if self.hits.read_text().count("\n") > before:
                return True
            time.sleep(0.02)
        return False

    @staticmethod
    def until(holds: Callable[[], bool], what: str) -> None:
        """Waits for what another process does."""
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, f"not within a minute: {what}"
            time.sleep(0.02)


def classify(text: str, **more: Any) -> dict[str, Any]:
    """A query of the one device."""
    return {"devices": ["d1"], "op": "classify", "text": text, "timeout_s": 2, **more}


@pytest.fixture
def rig(mosquitto_broker: MqttConfig, tmp_path: Path) -> Iterator[Rig]:
    """A fleet with one device, served by a program in which places fail."""
    name = f"texts-{uuid.uuid4().hex[:8]}"
    control = tmp_path / "control"
    control.write_text("")
    served = ServedFleet(
        tmp_path / "fleet", mosquitto_broker, name=name, webhook_hosts=["127.0.0.1"]
    )
    served.program = [sys.executable, "-m", "tests.support.breaking_controller", str(control)]
    device = Device(mosquitto_broker, Topics(name))
    try:
        with served, served.client() as people:
            served.until(lambda: people.devices_page().counts.get("online") == 1, 60)
            made = Rig(served, device, control)
            try:
                yield made
            finally:
                made.close()
    finally:
        device.close()


@pytest.fixture
def hooks() -> Iterator[tuple[str, list[bytes]]]:
    """A receiver of webhooks: its URL and what it was sent."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_no_text_of_a_query_is_where_others_see_it_whatever_fails(
    rig: Rig, hooks: tuple[str, list[bytes]]
) -> None:
    """Every place, every way to ask; then logs, audit, webhooks, answers, files are searched."""
    url, received = hooks
    assert rig.ask("/v1/webhooks", {"url": url}) == 201

    def query(mark: str) -> None:
        rig.ask("/v1/queries", classify(mark))

    def stream(mark: str) -> None:
        rig.ask("/v1/queries", {**classify(mark, stream=True), "op": "generate"})

    def chat(mark: str) -> None:
        messages = [{"role": "user", "content": mark}]
        rig.ask("/v1/chat/completions", {"model": "all", "messages": messages})
        rig.ask("/v1/chat/completions", {"model": "all", "messages": messages, "stream": True})

    def embed(mark: str) -> None:
        rig.ask("/v1/embeddings", {"model": "all", "input": mark})

    def correct(mark: str) -> None:
        rig.ask("/v1/feedback", {"device": "d1", "answer": "q-1", "text": mark})

    def share(mark: str) -> None:
        text = mark.replace(" turn", "-shared")
        result = Result("s", time.time(), "l", 0.5, REF, text)
        rig.device.send("result", codec.encode(result))

    acts: dict[str, list[Callable[[str], object]]] = {
        "fleet.api.routes_queries:votes": [query],
        "fleet.api.routes_queries": [query, stream],
        "fleet.api.views": [query, stream],
        "fleet.api.openai": [chat],
        "fleet.api.embeddings": [embed],
        "fleet.query.ask:Asker.ask": [query, stream, chat, embed, correct],
        "fleet.query.ask:Asker._on_answer": [query, chat],
        "fleet.mqtt.link:Link.publish": [query, stream, chat, embed, correct],
        "fleet.ingest": [share],
        "contracts.codec:encode_given": [query, chat, embed, correct],
        "contracts.codec:convert": [query, chat, embed],
        "contracts.codec:decode": [query, chat],
        "starlette.responses:Response.render": [query],
    }
    for place in breaking_controller.PLACES:
        for act in next(ways for name, ways in acts.items() if place.startswith(name)):
            rig.fails(place, act)
            if not place.startswith(ON_A_THREAD):
                rig.fails(f"!{place}", act)

    # What is wrong with a question, and answers that are none.
    for number, wrong in enumerate(WRONG):
        mark = rig.mark().replace(" ", "_" if number % 2 else " ")
        for path in ASKED:
            rig.asker.post(
                path,
                content=wrong.replace("%s", mark).encode(),
                headers={"Idempotency-Key": mark[:6]},
            )
        rig.others()
    rig.asker.timeout = httpx.Timeout(1.5)  # nobody answers: what is damaged is refused
    for number, change in enumerate(DAMAGES):
        rig.device.damage = change
        for act in (query, (stream, chat, embed)[number % 3]):
            act(rig.mark())
    rig.device.damage = lambda payload: payload
    rig.asker.timeout = httpx.Timeout(30)
    for path in ("/v1/devices/%s", "/v1/rollouts/%s", "/ui/%s", "/repo/%s", "/v1/queries?text=%s"):
        rig.asker.get(path % rig.mark().replace(" ", "%20"))
        rig.asker.post(path % rig.mark().replace(" ", "%20"), json={})
    query(rig.mark())
    headers = {"Idempotency-Key": "asked"}
    assert (
        rig.asker.post("/v1/queries", json=classify(rig.mark()), headers=headers).status_code == 200
    )
    rig.others()
    assert rig.served.stop() == 0
    search(rig, received)


ASKED = (
    "/v1/queries", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings",
    "/v1/feedback",
)  # fmt: skip
_QUERY = '"devices": ["d1"], "op": "classify", "text": "t"'
_CHAT = '"messages": [{"role": "user", "content": "t"}]'
WRONG = (
    "%s", '{"text": "%s', '{"devices": ["%s"]}', '{"%s": 1}',
    '{"selector": "%s", "op": "classify", "text": "t"}',
    '{"devices": ["d1"], "op": "%s", "text": "t"}',
    '{"device": "d1", "answer": "%s", "right": true}',
    '{"device": "%s", "answer": "q-1", "text": "%s"}',
    '{"device": "d1", "answer": "q-1", "right": "%s", "label": "%s"}',
    '{' + _QUERY + ', "options": {"%s": 1}}',
    '{' + _QUERY + ', "options": {"top_k": "%s"}}',
    '{"model": "%s", "input": "t", "prompt": "t", ' + _CHAT + '}',
    '{"model": "all", "input": ["%s", 1], "prompt": {"%s": 1}, "messages": [{"role": "%s"}]}',
    '{"model": "all", ' + _CHAT + ', "response_format": {"%s": 1}}',
)  # fmt: skip
DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda payload: payload[:-3],
    lambda payload: payload.replace(b'"seq":1', b'"seq":"zqx900001q turn"'),
    lambda payload: payload.replace(b'"bundle"', b'"zqx900002q turn"'),
    lambda payload: payload.replace(b'"finish_reason":"stop"', b'"finish_reason":"zqx900003q"'),
    lambda payload: payload.replace(b"turned", b"turned\xff"),
    lambda payload: json.dumps(
        {
            "id": json.loads(payload)["id"],
            "device": "d1",
            "error": {"code": "model-failed", "message": "zqx900004q turn"},
        }
    ).encode(),
)


def search(rig: Rig, received: list[bytes]) -> None:
    """Finds a text in anything that others see."""
    assert rig.serial > 60
    logged = rig.served.log.read_text(errors="replace")
    assert logged.count("\n") > 20, "nothing was logged"
    assert [line[:400] for line in logged.splitlines() if PATTERN.search(line)] == []
    assert len(rig.seen) > 100
    assert [text[:400] for text in rig.seen if PATTERN.search(text)] == []
    assert received, "no webhook came"
    assert [body[:400] for body in received if PATTERN.search(body.decode())] == []
    for path in rig.served.fleet.folder.rglob("*"):
        if path.is_file():
            assert not QUESTION.search(path.read_bytes().decode(errors="replace")), path
