"""A model that hangs: the watchdog goes hungry, the trial fails, the request does not come back.

Over 400 lines: one model that hangs, from each place that waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from agent.connection import Inbound
from agent.daemon import Agent
from agent.generate.caches import Floats
from agent.generate.handler import Generating
from agent.runtime import model as models
from agent.serving.answers import Answers
from agent.serving.dispatch import Dispatcher
from agent.serving.handlers import Answering
from agent.serving.inflight import RunningMark
from agent.serving.limiter import RateLimiter
from agent.serving.models import Models
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from agent.serving.worker import STALL_S, Job, Worker
from agent.sources.feed import Feed
from agent.system.filesystem import Disk
from agent.telemetry.observed import Observed
from agent.telemetry.recorder import Recorder
from agent.update.health import LEAST_STALL_S, Trials, verdict
from contracts import codec
from contracts.answers import Answer, Classified
from contracts.bundle import Bundle
from contracts.config import AgentConfig, SourceConfig
from contracts.desired import TrialRules
from contracts.errors import UnavailableError
from contracts.histogram import Histogram
from contracts.messages import Result
from contracts.requests import ClassifyRequest, GenerateRequest, SelftestRequest
from contracts.topics import Topics
from tests.support.controller import TINY, TINY_NEXT
from tests.support.engine import FakeClock, MemoryRepository, Rig
from tests.support.tiny_decoder import tiny_bundle

OLD = Bundle.open(TINY).ref
NEW = Bundle.open(TINY_NEXT).ref
PATIENCE_S = 90.0


class Slow:
    """Work of a job that goes on step by step, as the test lets it."""

    def __init__(self, clock: FakeClock, worker: Worker, slot: str = "classify") -> None:
        self.reply = Reply("r", "d", lambda answer: None, monotonic=clock.monotonic)
        self._begun = threading.Event()
        self._steps = threading.Semaphore(0)
        self._stepped = threading.Semaphore(0)
        self._ended = False
        worker.submit(Job(self._run, self.reply, 5, slot))

    def _run(self) -> None:
        self._begun.set()
        while self._steps.acquire() and not self._ended:
            self.reply.check()
            self._stepped.release()

    def begins(self) -> None:
        """Waits until it runs."""
        assert self._begun.wait(PATIENCE_S)

    def step(self) -> None:
        """Lets it get on, to its next sign of life."""
        self._steps.release()
        assert self._stepped.acquire(timeout=PATIENCE_S)

    def end(self) -> None:
        """Lets it end."""
        self._ended = True
        self._steps.release()


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test lets pass."""
    return FakeClock()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker that runs."""
    one = Worker(8)
    one.start()
    yield one
    one.drain(0)


# Signs of life. --------------------------------------------------------------------------


def test_an_idle_worker_is_not_silent_however_long(clock: FakeClock, worker: Worker) -> None:
    """Nobody asked."""
    clock.now += 1e6
    assert worker.silent_s() == 0


def test_silence_counts_from_the_start_of_a_job_and_from_each_sign(
    clock: FakeClock, worker: Worker
) -> None:
    """The time in the queue is not the job's."""
    first, second = Slow(clock, worker), Slow(clock, worker)
    first.begins()
    clock.now += 100
    assert worker.silent_s() == 100
    first.step()
    assert worker.silent_s() == 0
    clock.now += 30
    assert worker.silent_s() == 30
    first.end()
    second.begins()
    assert worker.silent_s() == 0
    second.end()


def test_every_token_is_a_sign_of_life(clock: FakeClock, tmp_path: Path) -> None:
    """A long answer on a slow device is none that hangs."""
    silent: list[float] = []
    reply = Reply("r", "d", lambda answer: None, monotonic=clock.monotonic)
    pool = Models(models.Options())
    pool.activate("generate", tiny_bundle(tmp_path))
    with pool.use("generate") as model:
        run = model.decoder._engine.run

        def slow(signature: str) -> dict[str, Floats]:
            clock.now += STALL_S / 2
            silent.append(reply.silent_s())
            return run(signature)

        model.decoder._engine.run = slow
    Generating(pool).generate(GenerateRequest(prompt="the quick", max_tokens=8), reply)
    pool.close()
    assert len(silent) >= 8
    assert set(silent) == {STALL_S / 2}


@pytest.mark.parametrize("make", [lambda folder: TINY, tiny_bundle], ids=["classify", "generate"])
def test_every_golden_vector_of_a_self_test_is_a_sign_of_life(
    make: Callable[[Path], Path], clock: FakeClock, worker: Worker, tmp_path: Path
) -> None:
    """Many vectors take minutes, and a cancel ends them."""
    pool = Models(models.Options())
    pool.activate("slot", make(tmp_path))
    recorder = Recorder(lambda: 0)
    answers = Answers(recorder, time.monotonic)
    answering = Answering(pool, recorder, worker, lambda: None, answers)  # type: ignore[arg-type,return-value]
    reply = Reply("r", "d", lambda answer: None, monotonic=clock.monotonic)
    clock.now += 2 * STALL_S
    answering.selftest(SelftestRequest(slot="slot"), reply)
    assert reply.silent_s() == 0
    again = Reply("r", "d", lambda answer: None, monotonic=clock.monotonic)
    again.cancelled.set()
    with pytest.raises(UnavailableError, match="cancelled"):
        answering.selftest(SelftestRequest(slot="slot"), again)
    pool.close()


def test_the_watchdog_is_fed_only_while_the_worker_gets_on(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systemd then kills the agent and starts it anew."""
    told: list[str] = []
    monkeypatch.setattr("agent.system.systemd.notify", told.append)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    agent = make_agent(tmp_path, clock)
    agent.vitals.ready = True
    agent.worker.start()
    agent.engine._slots.health.begin_trial("classify")
    job = Slow(clock, agent.worker)
    job.begins()
    for passed, fed in ((30, True), (31, False), (100, False)):
        clock.now += passed
        told.clear()
        agent.beat()
        assert (agent.vitals.healthy(), told) == (fed, ["WATCHDOG=1"] * fed)
    job.step()
    clock.now += 30
    agent.beat()
    assert told == ["WATCHDOG=1"]
    assert agent.engine._slots.health.trial("classify").silent_s == 30
    job.end()
    agent.worker.drain(PATIENCE_S)


def make_agent(folder: Path, clock: FakeClock) -> Agent:
    """An agent that is not connected."""
    return Agent(AgentConfig("f", "d", "raspberry-pi-5", "{}"), folder, clock)


# In a trial. -----------------------------------------------------------------------------


class Trial:
    """A device in the trial of a new bundle, and its worker."""

    def __init__(self, folder: Path, seconds: float) -> None:
        (folder / "state").mkdir()
        repository = MemoryRepository(TINY, TINY_NEXT)
        self.rig = rig = Rig(Disk(), folder / "state", repository)
        self.clock: FakeClock = rig.clock
        self.worker = Worker(8, lambda slot, error: rig.recorder.failed(slot, error.code))
        self.worker.start()
        rig.engine._slots.health = Trials(rig.recorder, self.worker)
        rig.engine.recover()
        rig.want(OLD, 1)
        rig.settle()
        rig.events.clear()
        rig.want(NEW, 2, trial=TrialRules(seconds=seconds, min_requests=1))

    def begin(self) -> None:
        """Steps until the trial runs."""
        for _ in range(50):
            update = self.rig.engine.journal.update
            if update is not None and update.state == "trial":
                return
            self.rig.engine.step()
        raise AssertionError("the trial never began")

    def job(self, slot: str = "classify") -> Slow:
        """A request that runs now."""
        one = Slow(self.clock, self.worker, slot)
        one.begins()
        return one

    def ends(self) -> tuple[str, str]:
        """State and reason after the trial."""
        self.rig.settle(1000)
        event = self.rig.events[-1]
        return event.state, event.reason.code if event.reason else ""


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    """A trial of five minutes."""
    one = Trial(tmp_path, 300)
    yield one
    one.worker.drain(0)
    one.rig.close()


def test_a_request_that_hangs_rolls_back_with_the_reason(trial: Trial) -> None:
    """No request is answered any more, so none could be counted as an error."""
    trial.begin()
    trial.rig.engine.step()
    began = trial.clock.now
    hung = trial.job()
    assert trial.ends() == ("rolled-back", "trial-hang")
    assert STALL_S < trial.clock.now - began < STALL_S + 2
    assert trial.rig.active() == OLD
    assert "60 s" in str(trial.rig.events[-1].reason)
    hung.end()


@pytest.mark.parametrize("seconds", [30.0, 12.0])
def test_a_short_trial_has_less_patience(tmp_path: Path, seconds: float) -> None:
    """It would be over before a minute without a sign of life is."""
    trial = Trial(tmp_path, seconds)
    trial.begin()
    trial.rig.engine.step()
    hung = trial.job()
    assert trial.ends() == ("rolled-back", "trial-hang")
    hung.end()
    trial.worker.drain(PATIENCE_S)
    trial.rig.close()


def test_a_trial_does_not_end_while_it_is_open_whether_a_request_hangs(tmp_path: Path) -> None:
    """It came just before the end."""
    trial = Trial(tmp_path, 30)
    trial.begin()
    trial.rig.engine.step()
    trial.clock.now += 29
    hung = trial.job()
    assert trial.ends() == ("rolled-back", "trial-hang")
    hung.end()
    trial.worker.drain(PATIENCE_S)
    trial.rig.close()


def test_a_long_answer_that_gets_on_is_no_hang(trial: Trial) -> None:
    """It may take longer than any limit of silence, and than the trial."""
    trial.begin()
    job = trial.job()
    for _ in range(12):
        trial.clock.now += STALL_S / 2
        job.step()
        trial.rig.engine.step()
    assert trial.ends() == ("committed", "")
    job.end()


def test_a_request_that_hung_on_the_old_bundle_is_not_held_against_the_new(trial: Trial) -> None:
    """The old one would only come back and hang again."""
    job = trial.job()
    trial.begin()
    assert trial.ends() == ("committed", "")
    job.end()


def test_a_request_of_another_slot_is_not_held_against_the_bundle(trial: Trial) -> None:
    """Each slot has a bundle of its own."""
    trial.begin()
    job = trial.job("generate")
    assert trial.ends() == ("committed", "")
    job.end()


def test_a_shadow_that_hangs_after_the_answer_is_not_held_against_the_bundle(trial: Trial) -> None:
    """The request was answered: what goes on is another model."""
    trial.begin()
    job = trial.job()
    job.reply.finish(cancelled=False)
    assert trial.ends() == ("committed", "")
    job.end()


def test_a_line_is_answered_before_its_shadow_runs(clock: FakeClock, worker: Worker) -> None:
    """So that a shadow which hangs is not held against the bundle here either."""
    seen: list[bool] = []
    sent: list[Result] = []

    class Labels:
        """Answers at once, and looks at what was sent before the shadow runs."""

        def label(
            self, slot: str, text: str, top: int, *, answer_id: str, source: str
        ) -> Classified:
            return Classified(label="lights", confidence=0.9, top=[], bundle=OLD, latency_us=1)

        def shadow(
            self, slot: str, text: str, answer: Classified, *, answer_id: str, source: str
        ) -> None:
            running = worker.running
            assert running is not None
            seen.append(running.reply.finished and len(sent) == 1)

    failures: list[str] = []
    feed = Feed(
        SourceConfig("log", "stdin"), Labels(), worker, sent.append,  # type: ignore[arg-type]
        clock, threading.Event(), failures.append,
    )  # fmt: skip
    feed.line(b"turn on the lights\n")
    feed.line(b"\xff\xfe\n")
    worker.drain(PATIENCE_S)
    assert seen == [True]
    assert failures == ["line-skipped"]


@pytest.mark.parametrize(
    ("seconds", "patience"),
    [(0, LEAST_STALL_S), (1, LEAST_STALL_S), (30, 15), (120, STALL_S), (604_800, STALL_S)],
)
def test_the_rule_of_silence(seconds: float, patience: float) -> None:
    """Half the trial, between five seconds and a minute; counts do not matter."""
    rules = TrialRules(seconds=seconds)

    def broken(silent_s: float) -> str:
        found = verdict(rules, Observed(0, 0, Histogram("log8"), 0, silent_s))
        return found.code if found else ""

    assert (broken(patience), broken(patience + 0.1)) == ("", "trial-hang")


# After the restart. ----------------------------------------------------------------------


def test_the_request_that_hung_is_refused_when_it_comes_again(tmp_path: Path) -> None:
    """The watchdog killed the agent; the broker sends what was not acknowledged once more."""
    hang, begun = threading.Event(), threading.Event()

    def hangs(request: ClassifyRequest, reply: Reply) -> None:
        if request.text == "hang":
            begun.set()
            hang.wait()
        reply.finish(cancelled=False)

    def start() -> tuple[Worker, dict[str, str], list[str]]:
        answers: dict[str, str] = {}
        acked: list[str] = []

        def send(topic: str, payload: bytes, correlation: bytes | None) -> None:
            answer = codec.decode(payload, Answer, what="an answer")
            answers[answer.id] = answer.error.code if answer.error else "ok"

        registry = Registry()
        registry.add(Operation("classify", ClassifyRequest, hangs))
        worker = Worker(8)
        worker.start()
        dispatcher = Dispatcher(
            registry, worker, RateLimiter(0), topics=Topics("f"), device="d", send=send,
            monotonic=lambda: 0.0, mark=RunningMark(tmp_path / "running"),
        )  # fmt: skip
        again = begun.is_set()
        for name, text in (("bad", "hang"), ("good", "hello")):
            payload = msgspec.json.encode({"id": name, "text": text})
            ack = partial(acked.append, name)
            dispatcher.handle("classify", Inbound("t", payload, None, None, None, ack, again))
        return worker, answers, acked

    hung, answers, acked = start()
    assert begun.wait(PATIENCE_S)
    assert (answers, acked) == ({}, [])  # and here it is killed
    worker, answers, acked = start()
    assert worker.drain(PATIENCE_S)
    assert answers == {"bad": "agent-died", "good": "ok"}
    assert acked == ["bad", "good"]
    hang.set()
    hung.drain(PATIENCE_S)
