"""A fleet in memory: devices that do what a test says, stepped by the real engine."""

from __future__ import annotations

import msgspec

from contracts.desired import DesiredBundle
from contracts.errors import ErrorInfo
from contracts.judged import Judged
from contracts.manifest import Baseline
from contracts.messages import BundleRef, UpdateEvent
from fleet.figures import Figures
from fleet.rollout import commands
from fleet.rollout.engine import step
from fleet.rollout.facts import Action, DeviceFact, Facts, Note, Release, SetDesired
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import Header, RolloutState

OLD = BundleRef("m", "1.0.0", "1" * 64)
NEW = BundleRef("m", "2.0.0", "2" * 64)
NEWER = BundleRef("m", "3.0.0", "3" * 64)


def spec_of(**fields: object) -> RolloutSpec:
    """A rollout of the new version, quick unless said otherwise."""
    return RolloutSpec.model_validate(
        {"bundle": "m", "version": "2.0.0", "bake_s": 10, "deadline_s": 100, "offline_s": 20}
        | fields
    )


class FakeFleet:
    """Devices, and rollouts over them; the clock is the test's."""

    def __init__(self, *names: str, online: bool = True) -> None:
        self.now = 1000.0
        self.facts: dict[str, DeviceFact] = {}
        self.figures: dict[str, Figures] = {}
        self.baseline: Baseline | None = None
        self.before: dict[str, Judged] = {}
        self.rollouts: dict[str, tuple[RolloutSpec, RolloutState]] = {}
        self.notes: list[Note] = []
        self.actions: list[tuple[str, Action]] = []
        self.seq = 0
        for name in names:
            self.add(name, online=online)

    def add(self, name: str, *, online: bool = True) -> None:
        """A device that runs the old version."""
        self.facts[name] = DeviceFact(name, online=online, since=self.now, active=OLD, serving=OLD)

    def change(self, name: str, **fields: object) -> None:
        """Changes what is known of a device."""
        if "active" in fields:
            fields.setdefault("serving", fields["active"])
        self.facts[name] = msgspec.structs.replace(self.facts[name], **fields)

    def create(self, spec: RolloutSpec, target: BundleRef = NEW) -> str:
        """A rollout, as the runner makes it."""
        number = len(self.rollouts) + 1
        name = f"r{number}"
        self.rollouts[name] = (
            spec,
            RolloutState(name, number, Header("running", target, "classify")),
        )
        return name

    def state(self, name: str = "r1") -> RolloutState:
        """A rollout's state."""
        return self.rollouts[name][1]

    def abort(self, name: str = "r1") -> None:
        """A person aborts a rollout."""
        spec, state = self.rollouts[name]
        self.store(name, *commands.abort(spec, state, self.seen_by(name), self.now, "ann"))

    def seen_by(self, name: str) -> Facts:
        """What the runner would tell the engine."""
        newest: dict[str, int] = {}
        for _, state in self.rollouts.values():
            for device in state.members:
                newest[device] = max(newest.get(device, 0), state.number)
        return Facts(
            {d: msgspec.structs.replace(f, newest=newest.get(d, 0)) for d, f in self.facts.items()},
            self.figures,
            self.baseline,
            self.before,
        )

    def step(self, name: str = "r1") -> list[Action]:
        """One step of one rollout; its actions are done."""
        spec, state = self.rollouts[name]
        after, actions = step(spec, state, self.seen_by(name), self.now)
        self.store(name, after, actions)
        return actions

    def store(self, name: str, after: RolloutState, actions: list[Action]) -> None:
        """What the runner does with a step."""
        spec, _ = self.rollouts[name]
        self.rollouts[name] = spec, after
        ended = after.header.status in ("stopped", "aborted")
        # A device given back in the very step that ends the rollout is let go by both actions.
        held = {d for d, fact in self.facts.items() if fact.holder == name}
        for action in actions:
            self.actions.append((name, action))
            match action:
                case SetDesired():
                    fact = self.facts[action.device]
                    assert action.revision > fact.revision
                    assert action.slot == "classify"
                    self.change(
                        action.device,
                        revision=action.revision,
                        desired=action.bundle,
                        holder=name if action.hold and not ended else None,
                    )
                case Release():
                    assert action.device in held, "only its own devices are let go, and once"
                    held.remove(action.device)
                    self.change(action.device, holder=None)
                case Note():
                    self.notes.append(action)

    def settle(self, name: str = "r1", steps: int = 50, seconds: float = 11.0) -> None:
        """Steps until nothing changes, devices doing all that is asked at once."""
        for _ in range(steps):
            self.step(name)
            for device in list(self.facts):
                if self.facts[device].online:
                    self.obey(device)
            self.now += seconds

    def obey(self, device: str) -> None:
        """The device reaches what is desired, and commits it; what is not, it empties."""
        fact = self.facts[device]
        wanted: DesiredBundle | None = fact.desired
        if fact.revision == fact.reached:
            return
        if wanted is None:
            self.change(device, active=None, reached=fact.revision)
            return
        self.event(device, "committed")
        self.change(device, active=wanted.bundle, reached=fact.revision, trial=False)

    def refuse(self, device: str, why: str = "golden") -> None:
        """The device refuses what is desired, and keeps what it has."""
        self.event(device, "refused", ErrorInfo("refused", why))
        self.change(device, reached=self.facts[device].revision)

    def event(self, device: str, state: str, reason: ErrorInfo | None = None) -> None:
        """The device reports a state of its update."""
        fact = self.facts[device]
        assert fact.desired is not None
        self.seq += 1
        self.change(
            device,
            event=UpdateEvent(
                "b", self.seq, fact.revision, "classify", fact.desired.bundle, state, self.now,  # type: ignore[arg-type]
                reason=reason,
            ),
        )  # fmt: skip

    def phases(self, name: str = "r1") -> dict[str, str]:
        """Members by phase."""
        return {d: m.phase for d, m in self.state(name).members.items()}
