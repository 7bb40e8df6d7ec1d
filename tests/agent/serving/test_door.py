"""The local socket: the owner teaches and judges at the device; whatever comes, it goes on."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.serving import door
from agent.serving.door import Door
from agent.serving.feedback import Feedback
from agent.serving.worker import Worker
from contracts.errors import ShoalError
from contracts.requests import FeedbackRequest, TeachRequest
from tests.agent.serving.test_lessons import MUSIC, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A device whose owner's socket is open, below a folder with a long name."""
    root = tmp_path / ("folder" * 20)
    root.mkdir()
    made = Bench(root)
    Feedback(made.answers, made.recorder, lambda: 1.0).register(made.registry)
    worker = Worker(4, lambda *_: None)
    worker.start()
    opened = Door(
        root, "kitchen", made.registry, worker, lambda: 1.0,
        lambda slot, code: made.recorder.failed(slot, code),
    )  # fmt: skip
    opened.open()
    yield made
    opened.close()
    worker.drain(10)
    made.models.close()
    assert not (root / door.SOCKET).exists()


def lesson(name: str = "one") -> TeachRequest:
    """Music, from five examples."""
    return TeachRequest(lesson=name, label="music", texts=MUSIC)


def raw(root: Path, data: bytes) -> bytes:
    """What is answered to bytes; as short as the address, however long the folder's name is."""
    with socket.socket(socket.AF_UNIX) as client, door._address(root) as address:
        client.settimeout(60)
        client.connect(address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answers:
            return answers.read()


def test_the_owner_teaches_judges_and_takes_back_at_the_device(bench: Bench) -> None:
    """By the same code as the fleet's requests; the socket is its user's alone."""
    assert stat.S_IMODE((bench.root / door.SOCKET).stat().st_mode) == 0o600
    taught = door.ask(bench.root, "teach", lesson()).taught
    assert taught is not None
    (kept,) = taught.lessons
    assert (kept.name, kept.label, kept.examples, kept.by) == ("one", "music", 5, "owner")
    answer = bench.says("play some jazz music")
    assert (answer.label, answer.taught) == ("music", True)
    noted = door.ask(bench.root, "feedback", FeedbackRequest(answer="q1", label="music")).noted
    assert noted is not None and noted.right
    with pytest.raises(ShoalError) as error:
        door.ask(bench.root, "feedback", FeedbackRequest(answer="q2", right=True))
    assert error.value.code == "no-such-answer"
    undone = door.ask(bench.root, "teach", TeachRequest(action="undo", lesson="one")).taught
    assert undone is not None and undone.lessons == []
    with pytest.raises(ShoalError) as error:
        door.ask(bench.root, "teach", TeachRequest(action="undo", lesson="one"))
    assert error.value.code == "no-such-lesson"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (b"\xff\n", "bad-message"),
        (b"[]\n", "bad-message"),
        (b'{"op": "teach"}\n', "bad-message"),
        (b'{"op": "samples", "request": {}}\n', "unknown-operation"),
        (b'{"op": "teach", "request": {"lesson": "one"}}\n', "bad-lesson"),
        (b'{"op": "teach", "request": {"slot": 3}}\n', "bad-message"),
        (b'{"op": "feedback", "request": {"answer": "q1"}}\n', "bad-feedback"),
        (b" " * (256 * 1024 + 1), "too-large"),
        (b"", "bad-message"),
    ],
)
def test_what_is_no_request_is_refused_and_the_next_one_is_heard(
    bench: Bench, given: bytes, code: str
) -> None:
    """Bytes, other operations, too much of it, and whoever says nothing."""
    assert json.loads(raw(bench.root, given))["error"]["code"] == code
    assert door.ask(bench.root, "teach", lesson()).taught is not None


def test_whoever_leaves_before_the_answer_keeps_nobody_out(bench: Bench) -> None:
    """The lesson is learnt all the same."""
    data = {"op": "teach", "request": {"lesson": "one", "label": "music", "texts": MUSIC}}
    with socket.socket(socket.AF_UNIX) as client, door._address(bench.root) as address:
        client.connect(address)
        client.sendall(json.dumps(data).encode() + b"\n")
    found = door.ask(bench.root, "teach", TeachRequest(action="list")).taught
    assert found is not None and [one.name for one in found.lessons] == ["one"]


def test_without_an_agent_it_is_said_and_what_a_dead_one_left_is_no_obstacle(
    tmp_path: Path,
) -> None:
    """A socket file stays after SIGKILL; the next agent listens there again."""
    for _ in range(2):
        with pytest.raises(ShoalError) as error:
            door.ask(tmp_path, "teach", TeachRequest(action="list"))
        assert error.value.code == "not-running"
        with socket.socket(socket.AF_UNIX) as left, door._address(tmp_path) as address:
            left.bind(address) if not (tmp_path / door.SOCKET).exists() else None
    bench = Bench(tmp_path)
    worker = Worker(4, lambda *_: None)
    worker.start()
    opened = Door(tmp_path, "kitchen", bench.registry, worker, lambda: 1.0, lambda *_: None)
    opened.open()
    try:
        assert door.ask(tmp_path, "teach", TeachRequest(action="list")).taught is not None
    finally:
        opened.close()
        worker.drain(10)
        bench.models.close()
