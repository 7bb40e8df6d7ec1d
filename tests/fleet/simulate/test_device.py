"""A simulated device speaks the protocol as an agent does; its fate comes from the seed.

Over 400 lines: one device and its fates.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.connection import Inbound
from agent.link import Link
from agent.simulate import scenario
from agent.simulate.device import SimulatedDevice, World
from agent.simulate.fate import Fates
from agent.simulate.repository import Got, Repository
from contracts import codec
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import UnavailableError
from contracts.messages import BundleRef, Reported, Status, Telemetry, UpdateEvent
from contracts.simulation import Counters
from contracts.topics import Topics, parse
from tests.support.bundles import noise_generator
from tests.support.controller import TINY, TINY_NEXT, make_repository
from tests.support.many_devices import installed

NAMES = Topics("f")
OLD, NEW = Bundle.open(TINY).ref, Bundle.open(TINY_NEXT).ref


class _Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualHost:
    """A host whose time moves only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self._queue: list[tuple[float, int, _Timer, Callable[[], None]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def later(self, seconds: float, call: Callable[[], None]) -> _Timer:
        timer = _Timer()
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), timer, call))
        return timer

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            self.now, _, timer, call = heapq.heappop(self._queue)
            if not timer.cancelled:
                call()
        self.now = until


class VirtualLink(Link):
    """The agent's link with a broker that takes everything at once."""

    sent: list[tuple[str, bytes, bool]]

    def start(self) -> None:
        self._session = self._next_session()
        self.connected.set()
        self.connections += 1
        self.publish(self._status_topic, self._status("online"), retain=True)
        self._on_change(True)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        done: Callable[[int], None] | None = None,
        correlation: bytes | None = None,
    ) -> None:
        self.sent.append((topic, payload, retain))
        if done is not None:
            done(0)


class Shelf(Repository):
    """The repository of a folder, read at once."""

    def __init__(self, folder: Path, host: VirtualHost, counters: Counters) -> None:
        super().__init__("http://nowhere", counters)
        self.folder = folder
        self.host = host

    def read(self, path: str, offset: int = 0) -> Got:
        try:
            data = (self.folder / path).read_bytes()
        except OSError:
            return Got(error=UnavailableError("no-such-path", f"the repository has no {path}"))
        return Got(data[offset:], len(data))

    def start(self, path: str, offset: int, done: Callable[[Got], None], *, once: bool) -> None:
        self.host.later(0, lambda: done(self.read(path, offset)))


class Seen:
    """One device in virtual time, and all that it sent."""

    def __init__(
        self, text: str, *, start: Path | None = None, index: int = 0, of: int = 1
    ) -> None:
        self.host = VirtualHost()
        self.sent: list[tuple[str, bytes, bool]] = []
        kind = type("Of", (VirtualLink,), {"sent": self.sent})
        counters = Counters()
        self.world = World(
            fleet="f",
            mqtt=MqttConfig(),
            fates=Fates(scenario.load(text.encode()), 1),
            host=self.host,
            repository=Shelf(signed_repository(), self.host, counters),
            counters=counters,
            make_link=kind,
            start=[installed(start)] if start else [],
        )
        self.device = SimulatedDevice(0, "sim-00000", self.world)
        self.device.start()
        self.host.advance(0.01)

    def message(self, topic: str, payload: bytes, correlation: bytes | None = None) -> None:
        assert self.device.run is not None
        inbound = Inbound(topic, payload, None, correlation, None, lambda: None)
        self.device.run.routing.message(inbound)

    def desire(
        self, revision: int, ref: BundleRef | None, mode: str = "active", **trial: float
    ) -> None:
        """Sends a desired document."""
        slots = {"classify": DesiredBundle(ref, mode, TrialRules(**trial))} if ref else {}  # type: ignore[arg-type]
        payload = codec.encode(Desired(revision=revision, slots=slots, rollout="r1"))
        self.message(NAMES.of_device(self.device.name, "desired"), payload)

    def ask(self, op: str, text: str, correlation: str | None = None) -> None:
        """Sends a request."""
        found = correlation.encode() if correlation else None
        self.message(NAMES.request(self.device.name, op), text.encode(), found)

    def of_kind(self, kind: str, type_: type) -> list:
        return [
            msgspec.json.decode(payload, type=type_)
            for topic, payload, _ in self.sent
            if parse(topic).kind == kind
        ]


@functools.cache
def signed_repository() -> Path:
    """One for all tests."""
    return make_repository(Path(tempfile.mkdtemp(prefix="shoal-test-")), TINY, TINY_NEXT).folder


def test_a_device_says_that_it_is_online_and_what_it_has() -> None:
    """Status and reported are retained; the will has the same session."""
    seen = Seen("boards: {jetson-orin-nano: 1}")
    status, reported = seen.of_kind("status", Status)[0], seen.of_kind("reported", Reported)[0]
    assert status.state == "online"
    assert all(retain for _, _, retain in seen.sent[:2])
    assert reported.board == "jetson-orin-nano"
    assert seen.device.run is not None
    will = msgspec.json.decode(seen.device.run.link._status("offline"), type=Status)
    assert (will.state, will.session, will.boot) == ("offline", status.session, status.boot)


def test_an_update_goes_through_every_state_in_order() -> None:
    """From downloading to committed; the events are numbered one by one."""
    seen = Seen("")
    seen.desire(5, NEW, seconds=30)
    seen.host.advance(60)
    events = seen.of_kind("update", UpdateEvent)
    assert [e.state for e in events] == [
        "downloading", "verified", "fits", "self-tested", "trial", "committed",
    ]  # fmt: skip
    assert [e.seq - events[0].seq for e in events] == [0, 1, 2, 3, 4, 5]
    assert {(e.revision, e.rollout) for e in events} == {(5, "r1")}
    last = seen.of_kind("reported", Reported)[-1]
    assert last.desired_revision == 5
    assert last.slots["classify"].active == NEW
    assert not last.slots["classify"].trial


def test_a_device_that_fails_its_selftest_keeps_what_it_had() -> None:
    """Refused with the agent's own reason; the active bundle stays."""
    seen = Seen("bundles: [{version: 1.1.0, fail_selftest: 1.0}]", start=TINY)
    seen.desire(2, NEW)
    seen.host.advance(60)
    event = seen.of_kind("update", UpdateEvent)[-1]
    assert event.state == "refused"
    assert event.reason.code == "golden-mismatch"
    reported = seen.of_kind("reported", Reported)[-1]
    assert reported.slots["classify"].active == OLD
    assert reported.last_update == event


def test_a_device_without_memory_for_a_bundle_refuses_it() -> None:
    """By the agent's own comparison with the board."""
    seen = Seen("bundles: [{version: 1.1.0, refuse_fit: 1.0}]", start=TINY)
    seen.desire(2, NEW)
    seen.host.advance(60)
    event = seen.of_kind("update", UpdateEvent)[-1]
    assert (event.state, event.reason.code) == ("refused", "does-not-fit")


def test_a_device_that_rolls_back_runs_the_previous_bundle_again() -> None:
    """The trial is shown while it lasts; afterwards the old bundle is active."""
    seen = Seen("bundles: [{version: 1.1.0, roll_back: 1.0}]", start=TINY)
    seen.desire(2, NEW, seconds=20)
    seen.host.advance(60)
    shown = [r.slots["classify"] for r in seen.of_kind("reported", Reported)]
    assert any(s.trial and s.active == NEW and s.previous == OLD for s in shown)
    assert shown[-1].active == OLD
    event = seen.of_kind("update", UpdateEvent)[-1]
    assert (event.state, event.reason.code) == ("rolled-back", "trial-errors")


def test_a_bundle_slower_than_the_trial_allows_is_rolled_back() -> None:
    """The agent judges by the rules that came with the desired document, once it saw enough."""
    seen = Seen("traffic: {requests_per_s: 20}\nbundles: [{latency_us: 5000}]")
    seen.desire(2, NEW, seconds=5, max_latency_p95_us=2000)
    seen.host.advance(60)
    assert seen.of_kind("update", UpdateEvent)[-1].reason.code == "trial-latency"


def test_a_scenario_can_shorten_trials() -> None:
    """A trial of a quarter of an hour is over in seconds."""
    seen = Seen("updates: {trial_factor: 0.01}", start=TINY)
    seen.desire(2, NEW, seconds=1000)
    seen.host.advance(20)
    assert seen.of_kind("update", UpdateEvent)[-1].state == "committed"


def test_going_back_to_a_known_bundle_always_succeeds() -> None:
    """What held before holds again, also where a scenario fails every update."""
    seen = Seen("bundles: [{version: 1.0.0, fail_selftest: 1.0}]", start=TINY)
    seen.desire(2, NEW, seconds=0)
    seen.host.advance(20)
    assert seen.of_kind("reported", Reported)[-1].slots["classify"].active == NEW
    seen.desire(3, OLD, seconds=0)
    seen.host.advance(20)
    assert seen.of_kind("reported", Reported)[-1].slots["classify"].active == OLD


def test_a_newer_document_cuts_an_update_short() -> None:
    """What was on trial is not kept."""
    seen = Seen("", start=TINY)
    seen.desire(3, NEW, seconds=1000)
    seen.host.advance(20)
    seen.desire(4, OLD, seconds=0)
    seen.host.advance(20)
    reported = seen.of_kind("reported", Reported)[-1]
    assert reported.slots["classify"].active == OLD
    assert reported.desired_revision == 4


def test_a_device_that_loses_its_power_in_a_trial_goes_on_with_it() -> None:
    """Its disk and journal survive; the third start in a trial rolls back."""
    seen = Seen("", start=TINY)
    seen.desire(2, NEW, seconds=1000)
    seen.host.advance(20)
    first = seen.of_kind("status", Status)[-1]
    for _ in range(2):
        seen.device.reboot(1.0)
        seen.host.advance(20)
        assert seen.of_kind("reported", Reported)[-1].slots["classify"].trial
    seen.device.reboot(1.0)
    seen.host.advance(20)
    event = seen.of_kind("update", UpdateEvent)[-1]
    assert (event.state, event.reason.code) == ("rolled-back", "trial-restarts")
    last = seen.of_kind("status", Status)[-1]
    assert last.boot != first.boot and last.session > first.session


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_shares_are_exact_and_the_same_for_the_same_seed(share: float) -> None:
    """Of 1,000 devices at 3 %, 30 fail; another seed chooses others."""

    def failing(seed: int) -> set[int]:
        text = f"seed: {seed}\nbundles: [{{fail_selftest: {share}}}]".encode()
        fates = Fates(scenario.load(text), 1000)
        return {i for i in range(1000) if fates.outcome(i, "b", "1.0.0") == "fails-selftest"}

    assert len(failing(1)) == round(1000 * share)
    assert failing(1) == failing(1)
    if share in (0.03, 0.5):
        assert failing(1) != failing(2)


def test_fates_of_one_bundle_do_not_overlap() -> None:
    """A device that fails its self-test cannot roll back as well."""
    text = b"bundles: [{fail_selftest: 0.4, roll_back: 0.4, refuse_fit: 0.4}]"
    fates = Fates(scenario.load(text), 10)
    found = [fates.outcome(i, "b", "1.0.0") for i in range(10)]
    assert sorted(found) == ["does-not-fit"] * 2 + ["fails-selftest"] * 4 + ["rolls-back"] * 4


def test_telemetry_counts_requests_and_follows_the_scenario_labels() -> None:
    """Counts add up: labels and histograms have as many entries as there were answers."""
    seen = Seen(
        "traffic: {requests_per_s: 20, telemetry_s: 1}\n"
        "bundles: [{labels: {alpha: 0.9, beta: 0.1}, error_rate: 0.1}]"
    )
    seen.desire(1, NEW, seconds=0)
    seen.host.advance(100)
    batches = seen.of_kind("telemetry", Telemetry)
    assert [b.seq for b in batches] == list(range(len(batches)))
    samples = [s for b in batches for s in b.samples if s.bundle == NEW]
    requests, errors = sum(s.requests for s in samples), sum(s.errors for s in samples)
    labels = {k: sum(s.labels.get(k, 0) for s in samples) for k in ("alpha", "beta")}
    assert sum(labels.values()) == requests - errors
    assert sum(s.latency_us.count for s in samples) == requests - errors
    assert 1600 < requests < 2200
    assert 0.05 < errors / requests < 0.15
    assert 0.85 < labels["alpha"] / (requests - errors) < 0.95


def test_a_shadow_answers_beside_the_active_bundle() -> None:
    """Its telemetry counts comparisons, not requests, and as many disagree as the scenario says."""
    seen = Seen(
        "traffic: {requests_per_s: 20, telemetry_s: 1}\n"
        "bundles: [{version: 1.1.0, disagreement: 0.2}]",
        start=TINY,
    )
    seen.desire(2, NEW, mode="shadow")
    seen.host.advance(100)
    slot = seen.of_kind("reported", Reported)[-1].slots["classify"]
    assert (slot.active, slot.shadow) == (OLD, NEW)
    samples = [s for b in seen.of_kind("telemetry", Telemetry) for s in b.samples]
    shadows = [s for s in samples if s.bundle == NEW]
    compared = sum(s.shadow_requests for s in shadows)
    assert compared > 1500
    assert 0.15 < sum(s.shadow_disagreements for s in shadows) / compared < 0.25
    assert sum(s.requests for s in shadows) == 0


def test_a_text_is_classified_the_same_way_every_time() -> None:
    """The answer goes to the device's own response topic."""
    seen = Seen("bundles: [{labels: {bright: 1, dark: 1, dim: 1}}]", start=TINY)
    for request_id in ("q1", "q2"):
        seen.ask("classify", '{"text": "lights please"}', request_id)
        seen.host.advance(1)
    first, second = seen.of_kind("response", Answer)
    assert first.classified.label == second.classified.label
    assert [s.label for s in first.classified.top].index(first.classified.label) == 0
    topics = [topic for topic, _, _ in seen.sent if parse(topic).kind == "response"]
    assert topics == [NAMES.response(seen.device.name, name) for name in ("q1", "q2")]


def test_a_generation_is_streamed_in_numbered_chunks_and_can_be_cancelled(tmp_path: Path) -> None:
    """The chunks make up the text; a cancel ends it early."""
    seen = Seen("", start=noise_generator(tmp_path / "words").path)
    seen.ask("generate", '{"id": "g1", "prompt": "hello", "slot": "classify"}')
    seen.host.advance(60)
    answers = seen.of_kind("response", Answer)
    assert [a.seq for a in answers] == list(range(len(answers)))
    assert "".join(a.chunk for a in answers[:-1]) == answers[-1].generated.text
    seen.ask("generate", '{"id": "g2", "prompt": "hello", "slot": "classify"}')
    seen.host.advance(0.06)
    seen.ask("cancel", '{"id": "c1", "cancel": "g2"}')
    seen.host.advance(60)
    last = {a.id: a for a in seen.of_kind("response", Answer) if a.done}
    assert last["c1"].cancelled is True
    assert last["g2"].generated.finish_reason == "cancelled"


@pytest.mark.parametrize(
    ("op", "body", "code"),
    [
        ("classify", '{"id": "x", "text": "hi"}', "no-model"),
        ("classify", '{"id": "x"}', "bad-message"),
        ("generate", '{"id": "x"}', "no-model"),
        ("reboot", '{"id": "x"}', "unknown-operation"),
        ("classify", "{", "bad-message"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_an_error(op: str, body: str, code: str) -> None:
    """In the one error shape, when there is an id to answer to."""
    seen = Seen("")
    seen.ask(op, body, "x")
    seen.host.advance(1)
    (answer,) = seen.of_kind("response", Answer)
    assert (answer.id, answer.error.code) == ("x", code)


def test_garbage_on_any_topic_is_answered_by_no_message() -> None:
    """A desired document that is none is told in the reported document, as by any agent."""
    seen = Seen("")
    before = len(seen.sent)
    for topic in (
        NAMES.of_device(seen.device.name, "desired"), "other/topic", "shoal/v1/f/d/x/req/a/b",
    ):  # fmt: skip
        for payload in (b"", b"\xff", b"[]", b"{" * 5000):
            seen.message(topic, payload)
    seen.host.advance(1)
    assert {parse(topic).kind for topic, _, _ in seen.sent[before:]} == {"reported"}
    waits = seen.of_kind("reported", Reported)[-1].waits
    assert [wait.reason.code for wait in waits] == ["bad-desired"]
