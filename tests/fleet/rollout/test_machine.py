"""The rollout engine against chance: whatever devices and people do, these things hold."""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts import codec
from contracts.errors import RefusedError
from fleet.rollout import commands
from fleet.rollout.facts import SetDesired
from fleet.rollout.state import ENDED, RolloutState
from tests.fleet.rollout.world import NEW, NEWER, OLD, FakeFleet, spec_of

NAMES = [f"d{index}" for index in range(8)]
TARGETS = {"r1": NEW, "r2": NEWER}


class Rollouts(RuleBasedStateMachine):
    """Two rollouts over the same devices, which come, go, commit, refuse, and get revoked."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = FakeFleet()
        self.allowed: dict[tuple[str, str], int] = {}

    @initialize(
        count=st.integers(1, 8),
        first=st.integers(1, 3),
        attempts=st.integers(1, 2),
        failures=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
        rollback=st.booleans(),
        bake=st.sampled_from([0, 10]),
        in_flight=st.none() | st.integers(1, 3),
    )
    def begin(
        self,
        count: int,
        first: int,
        attempts: int,
        failures: float,
        rollback: bool,
        bake: float,
        in_flight: int | None,
    ) -> None:
        """A fleet and two rollouts that want all of it."""
        for name in NAMES[:count]:
            self.fleet.add(name)
        fields = {
            "waves": [{"count": first}, {"percent": 60}, {"percent": 100}],
            "attempts": attempts,
            "gates": {"max_failure_rate": failures},
            "rollback": rollback,
            "bake_s": bake,
            "max_in_flight": in_flight,
            "retry_s": 5,
        }
        self.fleet.create(spec_of(**fields), NEW)
        self.fleet.create(spec_of(version="3.0.0", **fields), NEWER)

    # What happens -------------------------------------------------------------------------

    @rule(name=st.sampled_from(["r1", "r2"]), seconds=st.sampled_from([0.0, 1.0, 11.0, 120.0]))
    def step(self, name: str, seconds: float) -> None:
        """The engine runs, after some time; its state survives a crash as bytes."""
        self.fleet.now += seconds
        before = self.fleet.state(name)
        waves = {m.device: m.wave for m in before.members.values()}
        actions = self.fleet.step(name)
        spec, state = self.fleet.rollouts[name]
        again = msgspec.json.decode(codec.encode(state), type=RolloutState)
        assert again == state, "a state survives being stored"
        self.fleet.rollouts[name] = spec, again
        for action in actions:
            if not isinstance(action, SetDesired) or action.bundle is None:
                continue
            if action.bundle.bundle == TARGETS[name]:
                member = state.members[action.device]
                assert member.wave <= state.header.wave
                assert waves.get(action.device, member.wave) == member.wave, "its wave is fixed"
                assert self.fleet.facts[action.device].eligible
                if before.header.status in ENDED:
                    assert before.header.status == "succeeded"

    @rule(device=st.sampled_from(NAMES), what=st.sampled_from(["obey", "refuse", "trial", "away",
                                                               "back", "revoke"]))  # fmt: skip
    def device_acts(self, device: str, what: str) -> None:
        """A device does what is asked, refuses it, is on trial, goes, returns, or is revoked."""
        fact = self.fleet.facts.get(device)
        if fact is None:
            return
        match what:
            case "away" if fact.online:
                self.fleet.change(device, online=False, since=self.fleet.now)
            case "back" if not fact.online and not fact.revoked:
                self.fleet.change(device, online=True, since=self.fleet.now)
            case "revoke" if device == "d7":
                self.fleet.change(device, revoked=True, eligible=False, online=False)
            case "obey" if fact.online:
                self.fleet.obey(device)
            case "refuse" if fact.online and fact.desired and fact.reached < fact.revision:
                self.fleet.refuse(device)
            case "trial" if fact.online and fact.desired and fact.reached < fact.revision:
                self.fleet.event(device, "trial")
            case _:
                pass

    @rule(device=st.sampled_from(NAMES))
    def joins(self, device: str) -> None:
        """A device joins late."""
        if device not in self.fleet.facts:
            self.fleet.add(device)

    @rule(name=st.sampled_from(["r1", "r2"]), what=st.sampled_from(["pause", "resume", "abort"]))
    def person_acts(self, name: str, what: str) -> None:
        """A person pauses, resumes or aborts; where that is not possible it is refused."""
        state = self.fleet.state(name)
        try:
            if what == "pause":
                self.fleet.store(name, commands.pause(state, "ann"), [])
            elif what == "resume":
                self.fleet.store(name, commands.resume(state), [])
            else:
                self.fleet.abort(name)
        except RefusedError:
            assert state.header.status in (*ENDED, "paused", "running", "rolling-back")

    @precondition(lambda self: len(self.fleet.rollouts) == 2)
    @rule()
    def quiet_end(self) -> None:
        """When every device obeys and people keep quiet, both rollouts come to an end."""
        names = list(self.fleet.rollouts)
        for device, fact in list(self.fleet.facts.items()):
            if not fact.revoked:
                self.fleet.change(device, online=True, since=self.fleet.now)
        for name in names:
            if self.fleet.state(name).header.status == "paused":
                spec, state = self.fleet.rollouts[name]
                self.fleet.rollouts[name] = spec, commands.resume(state)
        for _ in range(60):
            if all(self.fleet.state(name).header.status in ENDED for name in names):
                break
            for name in names:
                self.fleet.step(name)
            for device, fact in list(self.fleet.facts.items()):
                if fact.online:
                    self.fleet.obey(device)
            self.fleet.now += 11
        for name in names:
            assert self.fleet.state(name).header.status in ENDED

    # What holds ---------------------------------------------------------------------------

    @invariant()
    def nobody_has_a_version_that_was_not_asked_of_it(self) -> None:
        """A device runs the old version, or one of a rollout that it is a member of."""
        for device, fact in self.fleet.facts.items():
            for name, target in TARGETS.items():
                if fact.active == target or (fact.desired and fact.desired.bundle == target):
                    states = [self.fleet.state(n) for n in self.fleet.rollouts]
                    assert any(device in state.members for state in states), (device, name)
            assert fact.active in (OLD, NEW, NEWER, None)

    @invariant()
    def rollouts_never_interleave_on_a_device(self) -> None:
        """A device under way in one active rollout is not a member under way in the other."""
        busy: dict[str, str] = {}
        for name in self.fleet.rollouts:
            state = self.fleet.state(name)
            if state.header.status in ENDED:
                continue
            for member in state.members.values():
                if member.phase in ("assigned", "updating", "trial", "undoing"):
                    assert busy.setdefault(member.device, name) == name
                    holder = self.fleet.facts[member.device].holder
                    assert holder == name

    @invariant()
    def a_rollout_that_was_stopped_or_aborted_holds_nobody(self) -> None:
        """Its devices are free for the next rollout, those that still have to go back too."""
        for name in self.fleet.rollouts:
            if self.fleet.state(name).header.status in ("stopped", "aborted"):
                assert all(fact.holder != name for fact in self.fleet.facts.values())

    @invariant()
    def waves_do_not_exceed_their_share(self) -> None:
        """Until the last wave, no more devices have the version than the waves so far say."""
        for name in self.fleet.rollouts:
            spec, state = self.fleet.rollouts[name]
            if not state.members or state.header.wave >= len(spec.waves) - 1:
                continue
            size = spec.waves[state.header.wave].target(len(self.fleet.facts))
            # One more stands in for every device that is away, lost or failed, to prove the wave.
            stand_ins = sum(
                m.attempts > 1 or m.phase in ("deferred", "removed", "failed", "undoing", "undone")
                or m.since > m.changed or not self.fleet.facts[m.device].online
                or m.since != m.changed
                for m in state.members.values()
            )  # fmt: skip
            assert len(state.members) <= size + max(1, stand_ins)

    @invariant()
    def a_stop_names_the_figure_and_the_devices(self) -> None:
        """Whoever reads the reason knows where to look."""
        for name in self.fleet.rollouts:
            header = self.fleet.state(name).header
            if header.status == "stopped":
                assert header.reason is not None
                assert header.reason.detail["gate"] == "max_failure_rate"
                assert header.reason.detail["devices"]
                assert header.reason.detail["value"] > header.reason.detail["limit"]

    @invariant()
    def after_a_rollback_nobody_is_asked_for_the_version(self) -> None:
        """With rollback, an ended rollout leaves no desired document with its target."""
        for name in self.fleet.rollouts:
            spec, state = self.fleet.rollouts[name]
            if state.header.status not in ("stopped", "aborted") or not spec.rollback:
                continue
            other = "r2" if name == "r1" else "r1"
            for member in state.members.values():
                fact = self.fleet.facts[member.device]
                if fact.revoked or member.phase == "removed":
                    continue
                if member.device not in self.fleet.state(other).members:
                    assert fact.desired is None or fact.desired.bundle != TARGETS[name]


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
