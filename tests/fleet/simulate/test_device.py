"""A simulated device speaks the protocol as an agent does; its fate comes from the seed."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import msgspec
import pytest

from agent.simulate import scenario
from agent.simulate.device import Device
from agent.simulate.fate import Fates
from agent.simulate.host import Fetch, Fetched
from agent.simulate.state import Counters
from contracts import codec
from contracts.messages import (
    Answer,
    BundleRef,
    Desired,
    DesiredBundle,
    Reported,
    Status,
    Telemetry,
    TrialRules,
    UpdateEvent,
)
from contracts.topics import Topics, parse

NAMES = Topics("f")
OLD = BundleRef("intents", "1.0.0", "0" * 64)
NEW = BundleRef("intents", "1.1.0", "1" * 64)


class _Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class VirtualHost:
    """A host whose time moves only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.sent: list[tuple[str, bytes, bool]] = []
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

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        done: Callable[[int], None] | None = None,
    ) -> None:
        self.sent.append((topic, payload, retain))
        if done is not None:
            done(0)

    def fetch(self, wanted: Fetch, done: Callable[[Fetched], None]) -> None:
        self.later(0, lambda: done(Fetched()))

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            self.now, _, timer, call = heapq.heappop(self._queue)
            if not timer.cancelled:
                call()
        self.now = until

    def of_kind(self, kind: str, type_: type) -> list:
        return [
            msgspec.json.decode(payload, type=type_)
            for topic, payload, _ in self.sent
            if parse(topic).kind == kind
        ]


def device_of(text: str, *, index: int = 0, devices: int = 1) -> tuple[Device, VirtualHost]:
    """A connected device of a scenario."""
    host = VirtualHost()
    fates = Fates(scenario.load(text.encode()), devices)
    device = Device(index, f"sim-{index:05}", NAMES, fates, host, Counters())
    device.next_session()
    device.connected()
    return device, host


def desire(
    device: Device, revision: int, ref: BundleRef | None, mode: str = "active", **trial: float
) -> None:
    """Sends a desired document."""
    slots = {"classify": DesiredBundle(ref, mode, TrialRules(**trial))} if ref else {}  # type: ignore[arg-type]
    payload = codec.encode(Desired(revision=revision, slots=slots, rollout="r1"))
    device.message(NAMES.of_device(device.name, "desired"), payload, {})


def test_a_device_says_that_it_is_online_and_what_it_has() -> None:
    """Status and reported are retained; the will has the same session."""
    device, host = device_of("boards: {jetson-orin-nano: 1}")
    status, reported = host.of_kind("status", Status)[0], host.of_kind("reported", Reported)[0]
    assert status.state == "online"
    assert all(retain for _, _, retain in host.sent[:2])
    assert reported.board == "jetson-orin-nano"
    will = msgspec.json.decode(device.status("offline"), type=Status)
    assert (will.state, will.session, will.boot) == ("offline", status.session, status.boot)


def test_an_update_goes_through_every_state_in_order() -> None:
    """From downloading to committed; the events are numbered one by one."""
    device, host = device_of("")
    desire(device, 5, NEW, seconds=30)
    host.advance(60)
    events = host.of_kind("update", UpdateEvent)
    assert [e.state for e in events] == [
        "downloading", "verified", "fits", "self-tested", "trial", "committed",
    ]  # fmt: skip
    assert [e.seq - events[0].seq for e in events] == [0, 1, 2, 3, 4, 5]
    assert {(e.revision, e.rollout) for e in events} == {(5, "r1")}
    last = host.of_kind("reported", Reported)[-1]
    assert last.desired_revision == 5
    assert last.slots["classify"].active == NEW
    assert not last.slots["classify"].trial


def test_an_old_revision_is_ignored() -> None:
    """The revision only grows."""
    device, host = device_of("")
    desire(device, 5, NEW, seconds=0)
    host.advance(10)
    desire(device, 4, OLD, seconds=0)
    host.advance(10)
    assert host.of_kind("reported", Reported)[-1].slots["classify"].active == NEW


def test_a_device_that_fails_its_selftest_keeps_what_it_had() -> None:
    """Refused with a reason; the active bundle stays."""
    device, host = device_of(
        f"start: [{{bundle: intents, version: 1.0.0, manifest_sha256: '{OLD.manifest_sha256}'}}]\n"
        "bundles: [{version: 1.1.0, fail_selftest: 1.0}]"
    )
    desire(device, 2, NEW)
    host.advance(60)
    event = host.of_kind("update", UpdateEvent)[-1]
    assert event.state == "refused"
    assert event.reason.code == "selftest-failed"
    reported = host.of_kind("reported", Reported)[-1]
    assert reported.slots["classify"].active == OLD
    assert reported.last_update == event


def test_a_device_that_rolls_back_runs_the_previous_bundle_again() -> None:
    """The trial is shown while it lasts; afterwards the old bundle is active."""
    device, host = device_of(
        f"start: [{{bundle: intents, version: 1.0.0, manifest_sha256: '{OLD.manifest_sha256}'}}]\n"
        "bundles: [{version: 1.1.0, roll_back: 1.0}]"
    )
    desire(device, 2, NEW, seconds=20)
    host.advance(60)
    shown = [r.slots["classify"] for r in host.of_kind("reported", Reported)]
    assert any(s.trial and s.active == NEW and s.previous == OLD for s in shown)
    assert shown[-1].active == OLD
    assert host.of_kind("update", UpdateEvent)[-1].state == "rolled-back"


def test_a_bundle_slower_than_the_trial_allows_is_rolled_back() -> None:
    """The device judges by the rules that came with the desired document."""
    device, host = device_of("bundles: [{latency_us: 5000}]")
    desire(device, 2, NEW, seconds=5, max_latency_p95_us=2000)
    host.advance(60)
    assert host.of_kind("update", UpdateEvent)[-1].reason.code == "trial-latency"


def test_going_back_to_a_known_bundle_always_succeeds() -> None:
    """What held before holds again, also where a scenario fails every update."""
    device, host = device_of(
        f"start: [{{bundle: intents, version: 1.0.0, manifest_sha256: '{OLD.manifest_sha256}'}}]\n"
        "bundles: [{version: 1.0.0, fail_selftest: 1.0}]"
    )
    desire(device, 2, NEW, seconds=0)
    host.advance(20)
    desire(device, 3, OLD, seconds=0)
    host.advance(20)
    assert host.of_kind("reported", Reported)[-1].slots["classify"].active == OLD


def test_a_newer_document_cuts_an_update_short() -> None:
    """What was on trial is not kept."""
    device, host = device_of("")
    desire(device, 2, OLD, seconds=0)
    host.advance(20)
    desire(device, 3, NEW, seconds=1000)
    host.advance(20)
    desire(device, 4, OLD, seconds=0)
    host.advance(20)
    reported = host.of_kind("reported", Reported)[-1]
    assert reported.slots["classify"].active == OLD
    assert reported.desired_revision == 4


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
    device, host = device_of(
        "traffic: {requests_per_s: 20, telemetry_s: 1}\n"
        "bundles: [{labels: {alpha: 0.9, beta: 0.1}, error_rate: 0.1}]"
    )
    desire(device, 1, NEW, seconds=0)
    host.advance(100)
    batches = host.of_kind("telemetry", Telemetry)
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
    """Its telemetry counts comparisons, not requests."""
    device, host = device_of("traffic: {requests_per_s: 20, telemetry_s: 1}")
    desire(device, 1, OLD, seconds=0)
    host.advance(5)
    desire(device, 2, NEW, mode="shadow")
    host.advance(30)
    slot = host.of_kind("reported", Reported)[-1].slots["classify"]
    assert (slot.active, slot.shadow) == (OLD, NEW)
    samples = [s for b in host.of_kind("telemetry", Telemetry) for s in b.samples]
    shadows = [s for s in samples if s.bundle == NEW]
    assert sum(s.shadow_requests for s in shadows) > 0
    assert sum(s.requests for s in shadows) == 0


def _ask(device: Device, op: str, text: str, **properties: object) -> None:
    device.message(NAMES.request(device.name, op), text.encode(), properties)


def test_a_text_is_classified_the_same_way_every_time() -> None:
    """The answer goes to the device's own response topic."""
    device, host = device_of("bundles: [{labels: {bright: 1, dark: 1, dim: 1}}]")
    desire(device, 1, NEW, seconds=0)
    host.advance(10)
    for request_id in ("q1", "q2"):
        _ask(device, "classify", '{"text": "lights please"}', id=request_id)
        host.advance(1)
    first, second = host.of_kind("response", Answer)
    assert first.classified.label == second.classified.label
    assert [s.label for s in first.classified.top].index(first.classified.label) == 0
    assert host.sent[-1][0] == NAMES.response(device.name, "q2")


def test_a_generation_is_streamed_in_numbered_chunks_and_can_be_cancelled() -> None:
    """The chunks make up the text; a cancel ends it early."""
    device, host = device_of("")
    desire(device, 1, NEW, seconds=0)
    host.advance(10)
    _ask(device, "generate", '{"id": "g1", "prompt": "hello", "slot": "classify"}')
    host.advance(60)
    answers = host.of_kind("response", Answer)
    assert [a.seq for a in answers] == list(range(len(answers)))
    assert "".join(a.chunk for a in answers[:-1]) == answers[-1].generated.text
    _ask(device, "generate", '{"id": "g2", "prompt": "hello", "slot": "classify"}')
    host.advance(0.06)
    _ask(device, "cancel", '{"id": "c1", "cancel": "g2"}')
    host.advance(60)
    last = {a.id: a for a in host.of_kind("response", Answer) if a.done}
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
    device, host = device_of("")
    _ask(device, op, body, id="x")
    host.advance(1)
    (answer,) = host.of_kind("response", Answer)
    assert (answer.id, answer.error.code) == ("x", code)


def test_garbage_on_any_topic_changes_nothing() -> None:
    """No exception, no answer."""
    device, host = device_of("")
    before = len(host.sent)
    for topic in (NAMES.of_device(device.name, "desired"), "other/topic", "shoal/v1/f/d/x/req/a/b"):
        for payload in (b"", b"\xff", b"[]", b"{" * 5000):
            device.message(topic, payload, {})
    assert len(host.sent) == before
