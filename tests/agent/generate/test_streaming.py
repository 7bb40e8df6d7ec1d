"""``generate`` over MQTT: numbered chunks, totals, cancel, and errors that leave it serving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.generate.handler import MAX_CHUNK_CHARS, ChunkSender
from agent.serving.reply import Reply
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.messages import Answer, Telemetry
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
