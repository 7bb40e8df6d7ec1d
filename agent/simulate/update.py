"""A simulated update: through every state that a real one goes through, as a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.simulate.fate import Outcome
from agent.simulate.host import Fetch, Fetched, Script
from agent.simulate.state import Slot
from contracts.errors import ErrorInfo
from contracts.messages import (
    FINAL_UPDATE_STATES,
    BundleRef,
    Desired,
    DesiredBundle,
    TrialRules,
    UpdateEvent,
    UpdateState,
)

if TYPE_CHECKING:
    from agent.simulate.device import Device


def apply(device: Device, desired: Desired) -> Script:
    """Brings a device to a desired document, one slot after another."""
    for name in [name for name in device.slots if name not in desired.slots]:
        del device.slots[name]
    for name, wanted in sorted(desired.slots.items()):
        slot = device.slots.setdefault(name, Slot())
        if wanted.mode == "active":
            slot.shadow = None
        if _runs(slot, wanted):
            continue
        yield from _Update(device, desired, name, slot, wanted).script()
    device.reached = desired.revision
    device.report()


def _runs(slot: Slot, wanted: DesiredBundle) -> bool:
    model = slot.shadow if wanted.mode == "shadow" else slot.active
    return model is not None and model.ref == wanted.bundle


class _Update:
    """One update of one slot."""

    def __init__(
        self, device: Device, desired: Desired, name: str, slot: Slot, wanted: DesiredBundle
    ) -> None:
        self.device = device
        self.desired = desired
        self.name = name
        self.slot = slot
        self.wanted = wanted
        self.total = 0
        self.golden: float | None = None

    def script(self) -> Script:
        """downloading, verified, fits, self-tested, trial, committed; or an early end."""
        device, ref = self.device, self.wanted.bundle
        pause = device.fates.scenario.updates.step_s * device.fates.slowness(device.index)
        outcome = self._outcome(ref)
        self._event("downloading")
        got = yield from self._download(ref)
        yield pause * device.chance.uniform(0.5, 1.5)
        if got.error is not None:
            return self._end("refused", got.error)
        self.total = got.total_bytes
        self._event("verified", done_bytes=self.total)
        yield pause
        if outcome == "does-not-fit":
            return self._end("refused", ErrorInfo("no-space", "simulated: no room for the bundle"))
        self._event("fits")
        yield pause
        if outcome == "fails-selftest":
            self.golden = 0.0
            reason = ErrorInfo("selftest-failed", "simulated: golden vectors did not hold")
            return self._end("refused", reason)
        model = device.model(ref, got.manifest.baseline if got.manifest else None)
        self.golden = model.behaviour.golden_accuracy
        self._event("self-tested")
        yield pause
        if self.wanted.mode == "shadow":
            self.slot.shadow = model
            return self._end("committed")
        self.slot.previous, self.slot.active = self.slot.active, model
        self.slot.trial = True
        self._event("trial")
        device.report()
        yield self.wanted.trial.seconds * device.fates.scenario.updates.trial_factor
        broken = self._judge(outcome)
        self.slot.trial = False
        if broken is not None:
            self.slot.active, self.slot.previous = self.slot.previous, None
            return self._end("rolled-back", broken)
        device.remember_good(ref)
        return self._end("committed")

    def _outcome(self, ref: BundleRef) -> Outcome:
        if self.device.is_known_good(ref):
            return "commits"
        return self.device.fates.outcome(self.device.index, ref.name, ref.version)

    def _download(self, ref: BundleRef) -> Any:
        mode = self.device.fates.scenario.updates.download
        if mode == "none":
            return Fetched()
        got = yield Fetch(ref, full=mode == "full" and not self.device.is_known_good(ref))
        assert isinstance(got, Fetched)
        return got

    def _judge(self, outcome: Outcome) -> ErrorInfo | None:
        """Whether the trial failed, by the rules that came with the desired document."""
        model, rules = self.slot.active, self.wanted.trial
        assert model is not None
        if outcome == "rolls-back":
            return ErrorInfo("trial-errors", "simulated: too many errors in the trial")
        if rules.seconds == 0:
            return None
        return _breaks(rules, model.p95_us(), model.behaviour.error_rate, model.behaviour.rss_bytes)

    def _end(self, state: UpdateState, reason: ErrorInfo | None = None) -> None:
        self._event(state, reason)

    def _event(
        self, state: UpdateState, reason: ErrorInfo | None = None, done_bytes: int = 0
    ) -> None:
        device = self.device
        device.seq += 1
        event = UpdateEvent(
            boot=device.boot,
            seq=device.seq,
            revision=self.desired.revision,
            slot=self.name,
            bundle=self.wanted.bundle,
            state=state,
            at=round(device.host.time(), 3),
            rollout=self.desired.rollout,
            done_bytes=done_bytes or self.total,
            total_bytes=self.total,
            reason=reason,
            golden_accuracy=self.golden,
        )
        device.last_update = event
        if state in FINAL_UPDATE_STATES:
            count = state.replace("-", "_")
            setattr(device.counters, count, getattr(device.counters, count) + 1)
        device.sending.update(event)


def _breaks(rules: TrialRules, p95_us: float, error_rate: float, rss: int) -> ErrorInfo | None:
    if error_rate > rules.max_error_rate:
        return ErrorInfo(
            "trial-errors", f"error rate {error_rate:g} is over {rules.max_error_rate:g}"
        )
    if rules.max_latency_p95_us is not None and p95_us > rules.max_latency_p95_us:
        return ErrorInfo(
            "trial-latency", f"p95 {p95_us:.0f} us is over {rules.max_latency_p95_us:g} us"
        )
    if rules.max_rss_bytes is not None and rss > rules.max_rss_bytes:
        return ErrorInfo("trial-memory", f"{rss} bytes resident are over {rules.max_rss_bytes}")
    return None
