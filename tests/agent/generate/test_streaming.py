"""``generate`` over MQTT: numbered chunks, totals, cancel, and errors that leave it serving."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.generate.handler import MAX_CHUNK_CHARS, ChunkSender
from agent.serving.reply import Reply
from contracts import codec
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.messages import Telemetry
from tests.support.controller import AgentProcess, Controller, make_repository


@pytest.fixture(scope="module")
def controller(
    mosquitto_broker: MqttConfig, bundle_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controller]:
    """A controller with one agent that runs the tiny generator."""
    folder = tmp_path_factory.mktemp("streaming")
    repository = make_repository(folder, bundle_path)
    with (
        Controller(mosquitto_broker, "streaming", repository) as made,
        AgentProcess(folder / "a", mosquitto_broker, "streaming", repository),
    ):
        revision = made.want("dev-1", Bundle.open(bundle_path).ref, slot="generate")
        assert made.wait_final(revision, 60).state == "committed"
        yield made


def parts(controller: Controller, request_id: str) -> list[Answer]:
    """All messages of an answer, in the order in which they came."""
    controller.wait_for(Answer, lambda a: a.id == request_id and a.done)
    return [a for a in controller.of(Answer) if a.id == request_id]


def test_a_stream_is_numbered_and_ends_with_totals(controller: Controller) -> None:
    """Chunks count from 0 without a gap, and join to the final text."""
    request = controller.ask_only("dev-1", "generate", prompt="the quick", max_tokens=40)
    answers = parts(controller, request)
    assert [a.seq for a in answers] == list(range(len(answers)))
    assert len(answers) >= 2
    final = answers[-1].generated
    assert final is not None
    assert "".join(a.chunk or "" for a in answers) == final.text
    assert final.tokens == 40 and final.finish_reason == "length"
    assert final.first_token_ms > 0 and final.tokens_per_s > 0


def test_without_stream_there_is_one_message(controller: Controller) -> None:
    """`stream: false` gives the totals alone."""
    request = controller.ask_only(
        "dev-1", "generate", prompt="the quick", max_tokens=5, stream=False
    )
    assert [a.done for a in parts(controller, request)] == [True]


def test_a_cancel_ends_a_stream(controller: Controller) -> None:
    """The worker stops; what was generated so far is the answer."""
    waiting = [
        controller.ask_only("dev-1", "generate", prompt="the lazy dog", max_tokens=50)
        for _ in range(6)
    ]
    cancelled = controller.ask("dev-1", "cancel", cancel=waiting[-1])
    assert cancelled.cancelled is True
    final = parts(controller, waiting[-1])[-1]
    assert (final.error is not None and final.error.code == "cancelled") or (
        final.generated is not None and final.generated.finish_reason == "cancelled"
    )


def test_cancelling_what_does_not_run_says_so(controller: Controller) -> None:
    """An unknown id is no error, and nothing is cancelled."""
    assert controller.ask("dev-1", "cancel", cancel="nobody-asked-this").cancelled is False


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": ""}, "empty-prompt"),
        ({"prompt": "fox " * 400}, "prompt-too-long"),
        ({"prompt": "a", "temperature": -1}, "bad-message"),
        ({"prompt": "a", "max_tokens": 0}, "bad-message"),
        ({"prompt": "a", "regex": "("}, "bad-constraint"),
        ({"prompt": "a", "json_schema": {"type": 7}}, "bad-constraint"),
        ({}, "bad-message"),
    ],
)
def test_bad_requests_are_answered_with_an_error(
    controller: Controller, fields: dict[str, object], code: str
) -> None:
    """Each has its code; the agent answers the next request."""
    answer = controller.ask("dev-1", "generate", **fields)
    assert answer.error is not None and answer.error.code == code
    after = controller.ask("dev-1", "generate", prompt="the", max_tokens=2)
    assert after.generated is not None and after.generated.tokens == 2


PAYLOADS = {
    "bytes that are no UTF-8": b'{"prompt":"\xff"}',
    "half a surrogate pair": b'{"prompt":"\\ud800"}',
    "half a pair in a stop": b'{"prompt":"a","stop":["\\udc00"]}',
    "half a pair in a schema": b'{"prompt":"a","json_schema":{"enum":["\\ud800"]}}',
    "nesting": b'{"prompt":"a","json_schema":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "NaN": b'{"prompt":"a","temperature":NaN}',
    "1e999": b'{"prompt":"a","temperature":1e999}',
    "1e308": b'{"prompt":"a","temperature":1e308}',
    "a word": b'{"prompt":"a","temperature":"hot"}',
    "top_k 10**30": b'{"prompt":"a","top_k":1' + b"0" * 30 + b"}",
    "seed -1": b'{"prompt":"a","seed":-1}',
    "seed 2**63": b'{"prompt":"a","seed":9223372036854775808}',
    "5,000 digits": b'{"prompt":"a","seed":' + b"1" * 5000 + b"}",
    "100,000 stops": b'{"prompt":"a","stop":[' + b'"",' * 80_000 + b'""]}',
    "no time": b'{"prompt":"a","max_time_ms":0}',
    "less than no time": b'{"prompt":"a","max_time_ms":-5}',
    "tokens 10**30": b'{"prompt":"a","max_tokens":1' + b"0" * 30 + b"}",
    "logprobs 21": b'{"prompt":"a","logprobs":21}',
    "an enum of 100,000": b'{"prompt":"a","json_schema":{"enum":[' + b"1," * 100_000 + b"1]}}",
    "not JSON": b"\x00\x01",
    "nothing": b"",
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_no_payload_ends_the_agent_or_goes_unanswered(controller: Controller, case: str) -> None:
    """An id in the correlation data is enough for one clear error; the next request works."""
    request_id = f"bad-{list(PAYLOADS).index(case)}"
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.CorrelationData = request_id.encode()
    controller._client.publish(
        controller.topics.request("dev-1", "generate"), PAYLOADS[case], 1, properties=properties
    )
    answer = parts(controller, request_id)[-1]
    assert answer.error is not None
    assert answer.error.code in ("bad-message", "bad-constraint", "too-large")
    after = controller.ask("dev-1", "generate", prompt="the", max_tokens=2)
    assert after.generated is not None and after.generated.tokens == 2


def test_who_never_acknowledges_or_leaves_does_not_hold_the_agent(
    controller: Controller, mosquitto_broker: MqttConfig
) -> None:
    """Its messages wait at the broker; others are served, and so are the cancels."""
    silent = new_client(mosquitto_broker, "never-acknowledges", manual_ack=True)
    silent.on_connect = lambda client, *_: client.subscribe(f"{controller.topics.prefix}/#", 1)
    heard = threading.Event()
    subscribed = threading.Event()
    silent.on_subscribe = lambda *_: subscribed.set()
    silent.on_message = lambda *_: heard.set()
    silent.connect(mosquitto_broker.host, mosquitto_broker.port)
    silent.loop_start()
    assert subscribed.wait(60)
    asked = []
    for _ in range(12):
        asked.append(controller.ask_only("dev-1", "generate", prompt="the", max_tokens=40))
        parts(controller, asked[-1])
    assert heard.wait(60)
    running = controller.ask_only("dev-1", "generate", prompt="the", max_tokens=50)
    silent.loop_stop()
    socket = silent.socket()
    assert socket is not None
    socket.close()  # in the middle of a stream, and without a goodbye
    final = parts(controller, running)[-1].generated
    assert final is not None and final.tokens == 50
    after = controller.ask("dev-1", "generate", prompt="the", max_tokens=2)
    assert after.generated is not None


def test_two_requests_with_one_id_are_not_mixed_up(controller: Controller) -> None:
    """While the first is in work, the second is told so and runs nowhere."""
    busy = [
        controller.ask_only("dev-1", "generate", prompt="the lazy dog", max_tokens=50)
        for _ in range(4)
    ]
    own = controller.topics.response("dev-1", "mine")
    for prompt, topic in (("the", None), ("a", own)):
        fields = {"id": "twice", "prompt": prompt, "max_tokens": 3, "reply_to": topic}
        controller._client.publish(
            controller.topics.request("dev-1", "generate"), codec.encode(fields), 1
        )
    answers = parts(controller, "twice")
    controller.wait_for(Answer, lambda a: a.id == "twice" and a.generated is not None)
    answers = [a for a in controller.of(Answer) if a.id == "twice" and a.done]
    assert [a.error.code if a.error else "" for a in answers] == ["id-in-use", ""]
    for request in busy:
        parts(controller, request)


def test_tokens_are_counted_in_the_telemetry(controller: Controller) -> None:
    """The samples of the slot name the tokens that it generated."""
    controller.ask("dev-1", "generate", prompt="the", max_tokens=7)
    controller.wait_for(
        Telemetry, lambda t: any(s.slot == "generate" and s.tokens >= 7 for s in t.samples)
    )


def test_pieces_that_come_fast_travel_together() -> None:
    """Within the pause pieces wait; a full chunk does not."""
    now = [0.0]
    sent: list[Answer] = []
    reply = Reply("r", "d", sent.append, monotonic=lambda: now[0])
    sender = ChunkSender(reply, lambda: now[0])
    for piece in "abc":
        sender.push(piece)
    assert [a.chunk for a in sent] == ["a"]
    now[0] = 1.0
    sender.push("d")
    sender.push("x" * MAX_CHUNK_CHARS)
    sender.push("e")
    sender.flush()
    assert [a.chunk for a in sent] == ["a", "bcd", "x" * MAX_CHUNK_CHARS, "e"]
    assert [a.seq for a in sent] == [0, 1, 2, 3]
