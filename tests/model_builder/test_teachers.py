"""Teachers of every kind label text, and fail clearly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InputError, RefusedError, UnavailableError
from model_builder.classify.metrics import softmax
from model_builder.recipes.students import FitConfig, NgramStudentConfig
from model_builder.recipes.teachers import EndpointConfig
from model_builder.teachers.larger import LargerStudent
from model_builder.teachers.openai import EndpointTeacher
from model_builder.teachers.soft_file import FileTeacher

LABELS = ["off", "on"]
TEXTS = [f"lamp number {n} {'on' if n % 2 else 'off'}" for n in range(25)]


class Endpoint:
    """A chat endpoint that speaks the protocol over real HTTP, with failures on order."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.failures: list[tuple[int, bytes]] = []
        self.answer = self._label
        self.base_url = ""

    @staticmethod
    def _label(text: str) -> Any:
        return {"on": 0.8, "off": 0.2} if text.endswith("on") else "off"

    def reply(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """The answer to one request."""
        self.requests.append(body)
        if self.failures:
            return self.failures.pop(0)
        texts = json.loads(body["messages"][1]["content"])
        content = json.dumps({number: self.answer(text) for number, text in texts.items()})
        message = {"role": "assistant", "content": content}
        answer = {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}
        return 200, json.dumps(answer).encode()


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Serves `endpoint` on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            endpoint.keys.append(self.headers["Authorization"])
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, data = endpoint.reply(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(endpoint: Endpoint, cache: Path, pauses: list[float] | None = None, **options: Any) -> Any:
    """A teacher on `endpoint` that never really pauses."""
    config = EndpointConfig(
        base_url=endpoint.base_url, api_key_env="TEST_KEY", **{"batch": 10, **options}
    )
    return EndpointTeacher(
        "some-model",
        config,
        LABELS,
        cache,
        lambda what, done, total: None,
        (pauses if pauses is not None else []).append,
    )


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A served endpoint and its key in the environment."""
    monkeypatch.setenv("TEST_KEY", "secret-key")
    with serving(Endpoint()) as served:
        yield served


def test_an_endpoint_labels_in_batches_and_is_asked_once(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """25 texts in batches of 10 are three requests; a second run asks nothing."""
    shares = softmax(ask(endpoint, tmp_path).logits(TEXTS))
    assert [LABELS[i] for i in shares.argmax(axis=1)] == [t.split()[-1] for t in TEXTS]
    assert shares[1].max() == pytest.approx(0.8, abs=0.01)
    assert shares[0].max() == pytest.approx(0.95, abs=0.01)
    assert len(endpoint.requests) == 3
    assert set(endpoint.keys) == {"Bearer secret-key"}
    again = ask(endpoint, tmp_path).logits(TEXTS)
    assert len(endpoint.requests) == 3
    np.testing.assert_allclose(softmax(again), shares, atol=1e-5)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret-key" not in written


@pytest.mark.parametrize(
    "failure",
    [
        (500, b"oops"),
        (429, b"slow down"),
        (200, b"not json"),
        (200, b'{"choices": []}'),
        (200, json.dumps({"choices": [{"message": {"content": "sure!"}}]}).encode()),
        (200, json.dumps({"choices": [{"message": {"content": '{"1": "on"}'}}]}).encode()),
        (200, json.dumps({"choices": [{"message": {"content": '{"1": "purple"}'}}]}).encode()),
        (200, json.dumps({"choices": [{"message": {"content": '{"1": {"on": 7}}'}}]}).encode()),
    ],
)
def test_a_failed_or_unusable_answer_is_asked_for_again(
    endpoint: Endpoint, tmp_path: Path, failure: tuple[int, bytes]
) -> None:
    """After a pause; the result is whole."""
    endpoint.failures = [failure, failure]
    pauses: list[float] = []
    found = ask(endpoint, tmp_path, pauses, concurrency=1).logits(TEXTS)
    assert found.shape == (25, 2)
    assert np.isfinite(found).all()
    assert len(endpoint.requests) == 5
    assert pauses == [1.0, 2.0]


def test_an_endpoint_that_fails_half_way_keeps_what_it_answered(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """The next run asks only for the rest."""
    whole = endpoint.answer

    def tired(text: str) -> Any:
        return {"purple": 1} if "number 2" in text else whole(text)

    endpoint.answer = tired  # type: ignore[method-assign]
    with pytest.raises(UnavailableError, match="run the build again"):
        ask(endpoint, tmp_path, batch=1, concurrency=1, retries=1).logits(TEXTS)
    asked = len(endpoint.requests)
    endpoint.answer = whole  # type: ignore[method-assign]
    endpoint.requests.clear()
    assert ask(endpoint, tmp_path, batch=1).logits(TEXTS).shape == (25, 2)
    assert 0 < len(endpoint.requests) < 25
    assert asked >= 3


def test_a_refusal_is_not_retried(endpoint: Endpoint, tmp_path: Path) -> None:
    """A wrong key stays wrong."""
    endpoint.failures = [(401, b"who are you")] * 9
    with pytest.raises(RefusedError, match="HTTP 401"):
        ask(endpoint, tmp_path, concurrency=1).logits(TEXTS)
    assert len(endpoint.requests) <= 3


def test_the_cost_is_estimated_before_the_first_request(endpoint: Endpoint, tmp_path: Path) -> None:
    """Above the bound nothing is asked."""
    teacher = ask(endpoint, tmp_path, price_per_million=(10.0, 30.0), max_cost=0.0001)
    assert teacher.estimate(TEXTS)["requests"] == 3
    assert teacher.estimate(TEXTS)["cost"] > 0.001
    with pytest.raises(RefusedError) as caught:
        teacher.logits(TEXTS)
    assert caught.value.code == "over-budget"
    assert not endpoint.requests


def test_a_missing_key_or_url_says_what_to_set(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any request."""
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(InputError, match="TEST_KEY"):
        ask(endpoint, tmp_path).logits(TEXTS)
    with pytest.raises(InputError, match="base_url"):
        EndpointTeacher("m", EndpointConfig(), LABELS, tmp_path, lambda a, b, c: None)


def soft_file(path: Path, *rows: Any) -> Path:
    """A file of soft labels."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_soft_labels_of_a_file_are_found_by_text(tmp_path: Path) -> None:
    """Case and punctuation aside."""
    path = soft_file(
        tmp_path / "soft.jsonl",
        {"text": "Lamp on!", "probabilities": {"on": 0.9, "off": 0.1}},
        {"text": "lamp off", "probabilities": {"off": 3, "on": 1}},
    )
    shares = softmax(FileTeacher(path, LABELS).logits(["lamp on", "Lamp off"]))
    np.testing.assert_allclose(shares, [[0.1, 0.9], [0.75, 0.25]], atol=1e-4)
    with pytest.raises(InputError, match="lacks 1 of 1 texts"):
        FileTeacher(path, LABELS).logits(["unknown"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "a", "probabilities": {"purple": 1}}, "purple"),
        ({"text": "a", "probabilities": {"on": -1, "off": 2}}, "0 or more"),
        ({"text": "a", "probabilities": {"on": 0}}, "not all 0"),
        ({"text": "a"}, "expected"),
        ([1], "expected"),
        ({"text": "a", "probabilities": {"on": 1}}, "the labels off"),
    ],
)
def test_a_file_of_other_labels_or_shape_is_refused(tmp_path: Path, row: Any, says: str) -> None:
    """With the line."""
    with pytest.raises(InputError, match=says):
        FileTeacher(soft_file(tmp_path / "soft.jsonl", row), LABELS)


def test_a_larger_student_learns_and_labels(tmp_path: Path) -> None:
    """Four times the table of the small one."""
    small = NgramStudentConfig(dim=8, hidden=8)
    teacher = LargerStudent(small, 2, tmp_path, 1, lambda what, done, total: None)
    wanted = np.array([LABELS.index(text.split()[-1]) for text in TEXTS])
    fitting = FitConfig(epochs=20, batch=8, rate=0.02)
    teacher.train(TEXTS, np.eye(2, dtype=np.float32)[wanted], fitting)
    assert (teacher.logits(TEXTS).argmax(axis=1) == wanted).mean() > 0.95
    assert teacher.name.startswith(f"self: {4 * small.features.buckets}")
    assert len(teacher.digest) == 64
