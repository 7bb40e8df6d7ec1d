"""Serving without a broker: queue, priorities, deadlines, rates, cancel, where answers go.

Over 400 lines: one queue, and the order of all that waits in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.connection import Inbound
from agent.runtime import model as models
from agent.serving.answers import Answers
from agent.serving.dispatch import MAX_UNACKNOWLEDGED, Dispatcher
from agent.serving.handlers import Answering
from agent.serving.inflight import RunningMark
from agent.serving.limiter import MAX_REQUESTERS, RateLimiter
from agent.serving.models import Models
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from agent.serving.worker import Job, Worker
from agent.telemetry.recorder import Recorder
from contracts import codec
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.errors import RefusedError, UnavailableError
from contracts.messages import Reported
from contracts.requests import ClassifyRequest
from contracts.topics import Topics
from tests.support.controller import TINY, TINY_NEXT
from tests.support.full_disk import full_disk


class Bench:
    """A dispatcher with a handler that waits to be let go."""

    def __init__(self, capacity: int = 4, rate: float = 0, mark: Path | None = None) -> None:
        self.now = 100.0
        self.sent: list[tuple[str, Answer]] = []
        self.correlations: list[bytes | None] = []
        self.acked: list[str] = []
        self.order: list[str] = []
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.recorder = Recorder(lambda: 0, {"classify": Bundle.open(TINY).ref}.get)
        self.worker = Worker(capacity, lambda slot, error: self.recorder.failed(slot, error.code))
        self.registry = Registry()
        self.registry.add(Operation("classify", ClassifyRequest, self.handler))
        models_ = Models(models.Options())
        answering = Answering(
            models_,
            self.recorder,
            self.worker,
            self._reported,
            Answers(self.recorder, time.monotonic),
        )
        everything = Registry()
        answering.register(everything)
        for op in ("cancel", "status"):
            self.registry.add(everything.get(op))
        self.topics = Topics("f")
        self.mark = RunningMark(mark) if mark else None
        self.dispatcher = Dispatcher(
            self.registry,
            self.worker,
            RateLimiter(rate),
            topics=self.topics,
            device="d",
            send=self._send,
            monotonic=lambda: self.now,
            mark=self.mark,
            refused=self.recorder.failed,
        )
        self.worker.start()

    def _send(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        self.sent.append((topic, codec.decode(payload, Answer, what="an answer")))
        self.correlations.append(correlation)

    def _reported(self) -> Reported:
        return Reported("d", "b", "0", "board", "litert", 0.0)

    def handler(self, request: ClassifyRequest, reply: Reply) -> None:
        """Notes the order; waits for the gate on the text ``wait``."""
        self.begun.set()
        self.order.append(request.text)
        if request.text == "wait":
            while not self.gate.wait(0.01):
                reply.check()
            reply.check()
        if request.text == "crash":
            raise RuntimeError("a bug")
        if request.text == "stream":
            reply.chunk("a")
            reply.chunk("b")
        reply.finish(cancelled=False)

    def ask(
        self, op: str = "classify", *, group: bool = False, again: bool = False, **fields: Any
    ) -> None:
        """Hands a request over as the connection does."""
        properties = {k: fields.pop(k, None) for k in ("response_topic", "correlation", "expiry_s")}
        payload = fields.pop("payload", None) or msgspec.json.encode(fields)
        name = str(fields.get("id"))
        self.dispatcher.handle(
            op,
            Inbound("t", payload, ack=lambda: self.acked.append(name), again=again, **properties),
            group=group,
        )

    def busy(self) -> None:
        """Occupies the worker."""
        self.ask(id="wait", text="wait")
        assert self.begun.wait(60)

    def drain(self) -> None:
        """Lets everything run."""
        self.gate.set()
        assert self.worker.drain(5)

    def errors(self) -> dict[str, str]:
        """Error codes by request."""
        return {a.id: a.error.code for _, a in self.sent if a.error}


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench whose worker ends with the test."""
    one = Bench()
    yield one
    one.drain()


def test_a_full_queue_answers_busy_at_once(bench: Bench) -> None:
    """Four may wait; the fifth is told, and not counted as an error."""
    bench.busy()
    for number in range(5):
        bench.ask(id=f"r{number}", text="x")
    assert bench.errors() == {"r4": "busy"}
    (sample,) = [s for s in bench.recorder.take(0, 1) if s.slot == "classify"]
    assert (sample.busy, sample.errors) == (1, 0)


class Source:
    """A local source whose lines come faster than they are worked on."""

    def __init__(self, worker: Worker) -> None:
        self.stop = threading.Event()
        self.taken = 0
        self.refused = ""
        self.ran: list[int] = []
        self._worker = worker
        self._thread = threading.Thread(target=self._put, daemon=True)
        self._thread.start()

    def _put(self) -> None:
        try:
            while not self.stop.is_set():
                number = self.taken
                reply = Reply(f"s{number}", "d", lambda answer: None, monotonic=lambda: 0.0)
                job = Job(lambda number=number: self.ran.append(number), reply, 4)  # type: ignore[misc]
                self._worker.submit(job, wait=self.stop)
                self.taken += 1
        except UnavailableError as error:
            self.refused = error.code

    def end(self) -> None:
        """Ends it, however full the queue is."""
        self.stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()


@pytest.mark.parametrize(("capacity", "share"), [(1, 0), (2, 1), (4, 2), (5, 2)])
def test_a_source_faster_than_the_model_leaves_room_for_requests(capacity: int, share: int) -> None:
    """It fills half of the queue and waits; requests fill the rest and run first, all in order."""
    bench = Bench(capacity)
    bench.busy()
    source = Source(bench.worker)
    until(lambda: source.taken == share)
    for number in range(capacity - share + 1):
        bench.ask(id=f"r{number}", text=f"r{number}")
    assert bench.errors() == {f"r{capacity - share}": "busy"}
    assert (source.taken, source.ran) == (share, [])
    bench.gate.set()
    until(lambda: len(source.ran) >= 20)
    for number in range(20):  # and for as long as it goes on
        until(lambda: bench.worker.depth < capacity)
        bench.ask(id=f"later{number}", text=f"later{number}")
    source.end()
    bench.drain()
    assert bench.order[1 : capacity - share + 1] == [f"r{n}" for n in range(capacity - share)]
    assert source.ran == list(range(source.taken))
    if capacity > 1:
        assert list(bench.errors()) == [f"r{capacity - share}"]


def test_a_source_that_waits_for_room_is_let_go_when_the_agent_stops(bench: Bench) -> None:
    """By its own event, and by the drain."""
    bench.busy()
    source = Source(bench.worker)
    until(lambda: source.taken == 2)
    source.end()
    assert source.refused == "busy"
    other = Source(bench.worker)
    bench.drain()
    until(lambda: bool(other.refused))
    assert other.refused == "shutting-down"


def until(reached: Callable[[], bool]) -> None:
    """Waits for what other threads do."""
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_higher_priorities_run_first_and_equals_in_order(bench: Bench) -> None:
    """9 before 5 before 0."""
    bench.busy()
    for text, priority in (("a", 0), ("b", 5), ("c", 9), ("d", 5)):
        bench.ask(id=text, text=text, priority=priority)
    bench.drain()
    assert bench.order == ["wait", "c", "b", "d", "a"]


def test_an_expired_request_is_dropped_and_told(bench: Bench) -> None:
    """By the field, and by the message's expiry."""
    bench.busy()
    bench.ask(id="field", text="x", deadline_ms=1000)
    bench.ask(id="property", text="x", expiry_s=2)
    bench.ask(id="later", text="later", deadline_ms=60_000)
    bench.now += 5
    bench.drain()
    assert bench.errors() == {"field": "deadline", "property": "deadline"}
    assert bench.order == ["wait", "later"]


def test_cancel_reaches_waiting_and_running_requests(bench: Bench) -> None:
    """Both end with ``cancelled``; an unknown id is answered false."""
    bench.busy()
    bench.ask(id="waiting", text="x")
    bench.ask("cancel", id="c1", cancel="waiting")
    bench.ask("cancel", id="c2", cancel="wait")
    bench.ask("cancel", id="c3", cancel="nobody")
    bench.drain()
    assert bench.errors() == {"wait": "cancelled", "waiting": "cancelled"}
    told = {a.id: a.cancelled for _, a in bench.sent if a.id.startswith("c")}
    assert told == {"c1": True, "c2": True, "c3": False}


def test_each_requester_has_its_own_rate() -> None:
    """One who floods does not take another's share."""
    bench = Bench(capacity=100, rate=2)
    for number in range(10):
        bench.ask(id=f"a{number}", text="x", requester="a")
    bench.ask(id="b0", text="x", requester="b")
    bench.now += 1
    bench.ask(id="a-later", text="x", requester="a")
    bench.drain()
    limited = {k for k, v in bench.errors().items() if v == "rate-limited"}
    assert limited == {f"a{n}" for n in range(4, 10)}


def test_the_limiter_forgets_in_bounded_memory() -> None:
    """A million names take a thousand rows."""
    limiter = RateLimiter(1)
    for number in range(MAX_REQUESTERS * 3):
        limiter.allow(str(number), 0.0)
    assert len(limiter._buckets) == MAX_REQUESTERS


@pytest.mark.parametrize(
    "topic",
    [
        "shoal/v1/f/d/d/reported",
        "shoal/v1/f/d/other/res/x",
        "shoal/v1/other/d/d/res/x",
        "anything/else",
        "shoal/v1/f/d/d/res/#",
        "shoal/v1/f/a/panel",
        "shoal/v1/f/a/panel/",
        "shoal/v1/f/a/panel/#",
        "shoal/v1/f/a/+/x",
        "shoal/v1/other/a/panel/x",
        "shoal/v1/f/a/panel/1/2/3/4/5",
        "shoal/v1/f/a/panel/" + "x" * 300,
        "",
    ],
)
def test_an_answer_never_goes_where_the_requester_has_no_business(bench: Bench, topic: str) -> None:
    """A device does not lend its rights to write."""
    bench.ask(id="r", text="x", response_topic=topic)
    bench.ask(id="q", text="x", reply_to=topic)
    assert bench.errors() == {"r": "bad-reply-topic", "q": "bad-reply-topic"}
    assert {t for t, _ in bench.sent} == {
        bench.topics.response("d", "r"),
        bench.topics.response("d", "q"),
    }


def test_properties_do_what_fields_do(bench: Bench) -> None:
    """Correlation data is the id; a response topic of the device's own is used."""
    topic = bench.topics.response("d", "elsewhere")
    bench.ask(text="x", correlation=b"c-1", response_topic=topic)
    bench.drain()
    assert [(t, a.id) for t, a in bench.sent] == [(topic, "c-1")]
    assert bench.correlations == [b"c-1"]


def test_a_response_topic_that_a_group_cannot_share_is_refused(bench: Bench) -> None:
    """One device's topic is not the others' to write; the refusal is told where it can be."""
    for number, topic in enumerate(("shoal/v1/f/d/x/res/y", "shoal/v1/f/d/d/res/y", "mine")):
        bench.ask(text="x", correlation=b"c-%d" % number, group=True, response_topic=topic)
    bench.drain()
    assert bench.errors() == {f"c-{number}": "bad-reply-topic" for number in range(3)}
    assert {t for t, _ in bench.sent} == {bench.topics.response("d", f"c-{n}") for n in range(3)}


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("field", ["response_topic", "reply_to"])
def test_an_application_is_answered_where_it_reads(bench: Bench, field: str, group: bool) -> None:
    """By property or field, of one device or of a group, and what is wrong is told there too."""
    topic = bench.topics.application("panel", "kitchen", "7")
    bench.ask(id="r", text="x", group=group, **{field: topic})
    bench.ask(id="q", text=5, group=group, **{field: topic})
    bench.ask(op="nothing", id="s", group=group, **{field: topic})
    bench.drain()
    assert {t for t, _ in bench.sent} == {topic}
    assert bench.errors() == {"q": "bad-message", "s": "unknown-operation"}
    assert "r" in {a.id for _, a in bench.sent}


@pytest.mark.parametrize("correlation", [b"\x00\xff\xfe", b"a/b", b"", b"x" * 4000, b"\xc3("])
def test_correlation_data_comes_back_whatever_bytes_it_is(bench: Bench, correlation: bytes) -> None:
    """With an answer and with an error; the id is made of it, and is the same for a copy."""
    bench.ask(text="x", correlation=correlation)
    bench.ask(text=5, correlation=correlation)
    bench.drain()
    assert bench.correlations == [correlation] * 2
    ids = {answer.id for _, answer in bench.sent}
    assert len(ids) == 1
    assert {t for t, _ in bench.sent} == {bench.topics.response("d", ids.pop())}


def test_a_response_topic_alone_is_enough(bench: Bench) -> None:
    """Two requests that name nothing else are two requests; no request is silent."""
    topic = bench.topics.application("panel", "x")
    bench.ask(text="x", response_topic=topic)
    bench.ask(text="x", response_topic=topic)
    bench.ask(payload=b"no JSON", response_topic=topic)
    bench.ask(payload=b"x" * 300_000, response_topic=topic)
    bench.drain()
    assert [t for t, _ in bench.sent] == [topic] * 4
    assert len({answer.id for _, answer in bench.sent}) == 4
    assert list(bench.errors().values()) == ["bad-message", "too-large"]
    assert bench.correlations == [None] * 4


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"id": "r", "text": 5}, "bad-message"),
        ({"id": "r"}, "bad-message"),
        ({"id": "r", "text": "x", "priority": 10}, "bad-message"),
        ({"id": "r", "text": "x" * 20_000}, "bad-message"),
        ({"id": "r", "text": "x" * 300_000}, "no-id"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_wrong(
    bench: Bench, fields: dict[str, Any], code: str
) -> None:
    """As far as its id can be read; otherwise nobody can be answered."""
    bench.ask(**fields)
    assert bench.errors() == ({} if code == "no-id" else {"r": code})
    assert bench.acked == ["r"]


def test_an_unknown_operation_is_answered(bench: Bench) -> None:
    """With the ones that there are."""
    bench.ask("explode", id="r")
    assert bench.errors() == {"r": "unknown-operation"}


def test_a_bug_in_a_handler_answers_and_the_worker_lives(bench: Bench) -> None:
    """One request does not end the service."""
    bench.ask(id="r", text="crash")
    bench.ask(id="s", text="x")
    bench.drain()
    assert bench.errors() == {"r": "internal"}
    assert bench.order == ["crash", "x"]


def test_a_bug_in_a_handler_of_the_network_thread_answers_and_its_id_is_free_again(
    bench: Bench,
) -> None:
    """The disk fails while the status is read: each asker is told, and every copy acknowledged."""

    def fails(request: ClassifyRequest, reply: Reply) -> None:
        raise OSError(5, "Input/output error")

    bench.registry.add(Operation("generate", ClassifyRequest, fails, queued=False))
    for _ in range(2):
        bench.ask("generate", id="r", text="x")
    bench.ask("generate", id="r", text="other")
    assert [a.error.code for _, a in bench.sent if a.error] == ["internal"] * 3
    assert bench.acked == ["r"] * 3


def test_an_immediate_answer_that_cannot_be_sent_is_acknowledged_once_and_its_id_is_free_again(
    bench: Bench,
) -> None:
    """The connection went while it was answered; who asks again, with the same id, is answered."""
    send, down = bench._send, [True]

    def fails(topic: str, payload: bytes, correlation: bytes | None) -> None:
        if down[0]:
            raise UnavailableError("offline", "too many messages wait")
        send(topic, payload, correlation)

    bench.dispatcher._send = fails
    bench.ask("cancel", id="r", cancel="nobody")
    assert bench.acked == ["r"]
    down[0] = False
    bench.ask("cancel", id="r", cancel="nobody")
    assert [a.cancelled for _, a in bench.sent] == [False]
    assert bench.acked == ["r", "r"]


def test_a_panic_of_a_library_answers_and_the_worker_lives(bench: Bench) -> None:
    """Panics of Rust code arrive as exceptions that are no ``Exception``."""

    class Panic(BaseException):
        pass

    def panics(request: ClassifyRequest, reply: Reply) -> None:
        raise Panic

    bench.registry.add(Operation("generate", ClassifyRequest, panics))
    bench.ask("generate", id="bad", text="x")
    bench.ask(id="good", text="fine")
    bench.drain()
    assert bench.errors() == {"bad": "internal"}
    assert bench.order == ["fine"]


def test_chunks_are_numbered_and_the_last_says_done(bench: Bench) -> None:
    """A stream as the protocol has it."""
    bench.ask(id="r", text="stream")
    bench.drain()
    assert [(a.seq, a.chunk, a.done) for _, a in bench.sent] == [
        (0, "a", False),
        (1, "b", False),
        (2, None, True),
    ]


def test_a_request_is_acknowledged_after_its_answer_up_to_a_bound() -> None:
    """A crash loses none of the first ones; more of them never block the connection."""
    bench = Bench(capacity=100)
    bench.busy()
    for number in range(MAX_UNACKNOWLEDGED + 5):
        bench.ask(id=f"r{number}", text="x")
    assert bench.acked == [f"r{n}" for n in range(MAX_UNACKNOWLEDGED - 1, MAX_UNACKNOWLEDGED + 5)]
    bench.drain()
    assert len(bench.acked) == MAX_UNACKNOWLEDGED + 6


def test_the_same_request_again_while_it_waits_is_answered_once(bench: Bench) -> None:
    """A reconnect redelivers; both copies are acknowledged, one answer goes out."""
    bench.busy()
    bench.ask(id="r", text="x")
    bench.ask(id="r", text="x", again=True)
    bench.drain()
    assert [a.id for _, a in bench.sent].count("r") == 1
    assert bench.acked.count("r") == 2


@pytest.mark.parametrize("other", [{"text": "y"}, {"text": "x", "reply_to": "other"}])
def test_another_request_with_an_id_in_work_is_refused(bench: Bench, other: dict[str, str]) -> None:
    """It is not taken for a copy: nobody gets the answer to somebody else's question."""
    if "reply_to" in other:
        other = {**other, "reply_to": bench.topics.response("d", other["reply_to"])}
    bench.busy()
    bench.ask(id="r", text="x")
    bench.ask(id="r", **other)
    bench.drain()
    told = [(topic, a.error.code if a.error else "") for topic, a in bench.sent if a.id == "r"]
    own = bench.topics.response("d", "r")
    assert told == [(other.get("reply_to", own), "id-in-use"), (own, "")]
    assert bench.order == ["wait", "x"]
    assert bench.acked.count("r") == 2


def test_an_answer_that_could_not_be_sent_is_tried_again_with_its_request(bench: Bench) -> None:
    """The connection was down for long: the redelivered request runs, and is not a copy."""
    send, down = bench._send, [True]

    def fails(topic: str, payload: bytes, correlation: bytes | None) -> None:
        if down[0]:
            raise UnavailableError("offline", "too many messages wait")
        send(topic, payload, correlation)

    bench.dispatcher._send = fails
    bench.ask(id="r", text="stream")
    bench.busy()
    down[0] = False
    bench.ask(id="r", text="stream", again=True)
    bench.drain()
    assert [a.seq for _, a in bench.sent if a.id == "r"] == [0, 1, 2]
    assert bench.acked.count("r") == 2
    assert bench.dispatcher._unacknowledged == 0


def test_a_second_cancel_and_a_cancel_by_another_are_answered(bench: Bench) -> None:
    """The id is all that a cancel takes; the request ends once."""
    bench.busy()
    bench.ask(id="r", text="x", requester="ann")
    for number in range(2):
        bench.ask("cancel", id=f"c{number}", cancel="r", requester="bob")
    bench.drain()
    bench.ask("cancel", id="late", cancel="r", requester="bob")
    told = {a.id: a.cancelled for _, a in bench.sent if a.cancelled is not None}
    assert {k: told[k] for k in ("c0", "c1", "late")} == {"c0": True, "c1": True, "late": False}
    assert [a.error.code for _, a in bench.sent if a.id == "r" and a.error] == ["cancelled"]


def test_the_request_that_killed_the_agent_is_refused_once(tmp_path: Path) -> None:
    """Redelivery after the crash does not crash again; the others run."""
    mark = RunningMark(tmp_path / "running")
    mark.set("killer")
    mark.close()
    bench = Bench(mark=tmp_path / "running")
    bench.ask(id="killer", text="x", again=True)
    bench.ask(id="other", text="x", again=True)
    bench.drain()
    assert bench.errors() == {"killer": "agent-died"}
    assert bench.order == ["x"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_model_whose_outputs_are_no_numbers_fails_and_the_trial_counts_it(
    bench: Bench, value: float
) -> None:
    """No answer with a confidence of null, which no reader accepts and every trial passes."""
    pool = Models(models.Options())
    pool.activate("classify", TINY)
    with pool.use("classify") as model:
        (output,) = model.manifest.model.signatures[0].outputs
        broken = np.zeros((1, len(model.manifest.classifier.labels)), np.float32)
        broken[0, 0] = value
        model._engine.run = lambda signature, inputs: {output.name: broken}
    answering = Answering(
        pool,
        bench.recorder,
        bench.worker,
        bench._reported,
        Answers(bench.recorder, time.monotonic),
    )
    bench.registry.add(Operation("generate", ClassifyRequest, answering.classify))
    bench.recorder.begin_trial("classify")
    bench.ask("generate", id="r", text="hello")
    bench.drain()
    pool.close()
    assert bench.errors() == {"r": "model-failed"}
    seen = bench.recorder.trial("classify")
    assert (seen.requests, seen.errors) == (1, 1)


def test_a_scale_that_makes_no_number_of_a_logit_fails() -> None:
    """It stands in the manifest, and the golden vectors do not meet it."""
    model = models.load(Bundle.open(TINY))
    raw = model.run("hello")
    for length, spec in model._by_length.items():
        outputs = [msgspec.structs.replace(spec.outputs[0], scale=1e308)]
        model._by_length[length] = msgspec.structs.replace(spec, outputs=outputs)
    with pytest.raises(RefusedError) as raised:
        model.probabilities(raw)
    model.close()
    assert raised.value.code == "model-failed"


def test_a_full_disk_keeps_no_request_from_running(tmp_path: Path) -> None:
    """It runs without its mark, which the log says once; the mark comes back with the room."""
    with full_disk() as said:
        bench = Bench(mark=tmp_path / "running")
        for name in ("a", "b"):
            bench.ask(id=name, text=name)
        bench.drain()
    assert bench.order == ["a", "b"]
    assert said.getvalue().count("running request not marked") == 1
    assert bench.mark is not None
    bench.mark.set("killer")
    assert RunningMark(tmp_path / "running").died_with == "killer"


def test_a_draining_worker_refuses_and_finishes_what_waits(bench: Bench) -> None:
    """SIGTERM: what was accepted is answered, what comes is refused."""
    bench.busy()
    bench.ask(id="waiting", text="x")
    bench.gate.set()
    assert bench.worker.drain(5)
    bench.ask(id="late", text="x")
    assert bench.errors() == {"late": "shutting-down"}
    assert bench.order == ["wait", "x"]


# Models within a budget. ----------------------------------------------------------------


class FakeModel:
    """A model that says when it is closed."""

    def __init__(self, name: str, log: list[str], fail: bool = False) -> None:
        self.name = name
        self.log = log
        if fail:
            raise RefusedError("model-failed", "no")
        log.append(f"load {name}")

    def warm_up(self) -> None:
        """Noted."""
        self.log.append(f"warm {self.name}")

    def close(self) -> None:
        """Noted."""
        self.log.append(f"close {self.name}")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loads and closes of fake models, each of which needs 60 bytes."""
    log: list[str] = []

    def load(bundle: Any, options: Any) -> FakeModel:
        return FakeModel(bundle.manifest.version, log)

    monkeypatch.setattr("agent.serving.models.models.load", load)
    monkeypatch.setattr("agent.serving.models.memory_need", lambda manifest: 60)
    return log


def test_a_swap_loads_and_warms_the_new_before_it_closes_the_old(loads: list[str]) -> None:
    """There is no moment without a model."""
    pool = Models(models.Options())
    pool.activate("a", TINY)
    pool.activate("a", TINY_NEXT)
    assert loads == ["load 1.0.0", "warm 1.0.0", "load 1.1.0", "warm 1.1.0", "close 1.0.0"]


def test_a_model_in_use_is_closed_after_its_last_user(loads: list[str]) -> None:
    """Requests in flight finish on the old model."""
    pool = Models(models.Options())
    pool.activate("a", TINY)
    with pool.use("a") as old:
        pool.activate("a", TINY_NEXT)
        assert "close 1.0.0" not in loads
        with pool.use("a") as new:
            assert (old.name, new.name) == ("1.0.0", "1.1.0")
    assert loads[-1] == "close 1.0.0"


def test_the_model_used_longest_ago_makes_room_and_comes_back(loads: list[str]) -> None:
    """Three slots, room for two."""
    pool = Models(models.Options(), budget_bytes=150)
    for slot in ("a", "b"):
        pool.activate(slot, TINY)
        with pool.use(slot):
            pass
    pool.activate("c", TINY_NEXT)
    assert loads.count("close 1.0.0") == 1
    assert pool.slots == ["a", "b", "c"]
    with pool.use("a"):
        pass
    assert loads.count("load 1.0.0") == 3


def test_a_model_beyond_the_budget_is_refused_by_name(loads: list[str]) -> None:
    """And what serves goes on serving."""
    pool = Models(models.Options(), budget_bytes=50)
    with pytest.raises(RefusedError, match="needs 60 bytes"):
        pool.activate("a", TINY)
    with pytest.raises(UnavailableError, match="no model serves"), pool.use("a"):
        pass


def test_swaps_under_load_never_give_a_closed_model() -> None:
    """Real models, many readers, many swaps."""
    pool = Models(models.Options())
    pool.activate("a", TINY)
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                with lock, pool.use("a") as model:
                    assert model.classify("turn on the light").label == "lights-on"
        except BaseException as error:  # noqa: BLE001  # told to the test
            failures.append(error)

    lock = threading.Lock()  # models run on one worker
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for number in range(20):
        pool.activate("a", TINY_NEXT if number % 2 else TINY)
    stop.set()
    for thread in readers:
        thread.join()
    pool.close()
    assert not failures
