"""The rollout engine: ``step(state, facts, now) -> (state, actions)``, without side effects.

One step, in this order:

1. judge every member by what its device reported;
2. retry or give up members that failed;
3. read the gates of every wave so far, and stop when one does not hold;
4. fill the current wave with devices, inside the maintenance windows;
5. when all of the wave's devices are done: bake, ask the gates for evidence, next wave.

The caller stores the new state and does the actions in one transaction, so that a crash
between two steps loses nothing and does nothing twice.

Over 400 lines: one step in five parts that share the state of that step.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from contracts import limits
from contracts.clock import utc
from contracts.desired import DesiredBundle, TrialRules
from contracts.errors import ErrorInfo
from contracts.messages import BundleRef
from fleet.rollout import gates, progress, windows
from fleet.rollout.facts import Action, DeviceFact, Facts, Note, Release, SetDesired
from fleet.rollout.judge import judge, judge_undo
from fleet.rollout.spec import RolloutSpec
from fleet.rollout.state import ENDED, IN_FLIGHT, Header, Member, Reading, RolloutState

__all__ = ["order", "step"]

STAND_INS: Final = 3
"""Devices of a wave that may go away after they were told, and have others take their place.

Or `min_confirmed`, when that is more. Beyond it the wave waits: so many are no chance.
"""


def order(rollout: str, facts: list[DeviceFact]) -> list[DeviceFact]:
    """Devices in the order in which waves take them: online first, then by a hash.

    The hash mixes boards and sites, so that a small wave is a fair sample; with the rollout's
    id inside, it is not the same devices that are the canaries every time.
    """

    def key(fact: DeviceFact) -> tuple[bool, bytes]:
        return not fact.online, hashlib.sha256(f"{rollout}/{fact.device}".encode()).digest()

    return sorted(facts, key=key)


MAX_AHEAD: Final = limits.MAX_REVISION_STEP
"""Revisions by which a device may be ahead of the controller and be believed.

After a restore the controller's count is behind by the few documents since the backup. The limit
keeps a device that claims 2**53 from using up its revisions: they only grow.
"""


class Step:
    """One step under way: the state so far, and the actions so far."""

    def __init__(self, spec: RolloutSpec, state: RolloutState, facts: Facts, now: float) -> None:
        self.spec = spec
        self.state = state
        self.facts = facts
        self.now = now
        self.actions: list[Action] = []
        self.copied = False
        self.revisions = {d: _newest_revision(f) for d, f in facts.devices.items()}

    @property
    def header(self) -> Header:
        return self.state.header

    def note(self, kind: str, message: str, **detail: object) -> None:
        self.actions.append(Note(kind, message, detail))

    def set_header(self, **changes: object) -> None:
        self.state = self.state.replace(**changes)

    def set_member(self, member: Member, **changes: object) -> Member:
        if "phase" in changes and changes["phase"] != member.phase:
            changes["changed"] = self.now
        member = msgspec.structs.replace(member, **changes)
        self.put(member)
        return member

    def put(self, *members: Member) -> None:
        """Puts members into the state; into a copy that is the step's own, made once."""
        if not self.copied:
            self.state = msgspec.structs.replace(self.state, members=dict(self.state.members))
            self.copied = True
        for member in members:
            self.state.members[member.device] = member

    def desire(self, device: str, bundle: DesiredBundle | None, *, hold: bool = True) -> int:
        """Asks for a new desired document; returns its revision."""
        self.revisions[device] += 1
        revision = self.revisions[device]
        self.actions.append(SetDesired(device, revision, self.header.slot, bundle, hold))
        return revision

    def members(self, *phases: str) -> list[Member]:
        return [m for m in self.state.members.values() if m.phase in phases]

    def own(self) -> list[Member]:
        """Members of the current wave."""
        return [m for m in self.state.members.values() if m.wave == self.header.wave]

    def away(self, member: Member) -> bool:
        fact = self.facts.devices.get(member.device)
        return fact is not None and not fact.online

    # 1 and 2: members ---------------------------------------------------------------------

    def judge_members(self) -> None:
        changed: list[Member] = []
        for member in self.state.members.values():
            fact = self.facts.devices.get(member.device)
            if fact is not None and fact.newest > self.state.number:
                # A newer rollout has taken the device over.
                continue
            if fact is None or fact.revoked:
                if member.phase != "removed":
                    changed.append(
                        msgspec.structs.replace(member, phase="removed", changed=self.now)
                    )
                continue
            if member.phase in ("undoing", "undo-failed"):
                verdict = judge_undo(member, fact, self.header.target, self.spec, self.now)
            else:
                verdict = judge(
                    member, fact, self.header.target, self.header.slot, self.spec, self.now
                )
            if verdict is not member:
                changed.append(verdict)
        if changed:
            self.put(*changed)

    def give_back(self, member: Member, **changes: object) -> Member:
        """Tells a device to go back to what it had before the rollout.

        What it had is known to work: the trial is over at once, and it waits for no window.
        """
        bundle = member.previous
        if bundle is None and member.previous_ref is not None:
            bundle = DesiredBundle(member.previous_ref, kept=True)
        if bundle is not None:
            bundle = msgspec.structs.replace(bundle, trial=TrialRules(seconds=0), windows=[])
        return self.set_member(member, revision=self.desire(member.device, bundle), **changes)

    def retry_or_give_up(self) -> None:
        """A failed member is tried again after a pause, or told to stay with what it had."""
        assign = windows.is_open(self.spec.windows, self.now) and self.header.status == "running"
        for member in self.members("failed"):
            fact = self.facts.devices[member.device]
            if member.attempts < self.spec.attempts and self.header.status not in ENDED:
                if assign and self.now >= member.changed + self.spec.retry_s:
                    self.assign(fact, member)
            else:
                self.take_back(member)

    def take_back(self, member: Member) -> None:
        """Tells a failed member's device to keep what it had, when it is still asked otherwise."""
        fact = self.facts.devices[member.device]
        if not _asks_for(fact, self.header.target) or fact.newest > self.state.number:
            return
        self.give_back(member)
        why = member.reason.message if member.reason else "no reason given"
        self.note(
            "device-failed", f"{member.device} failed: {why}",
            device=member.device, reason=msgspec.to_builtins(member.reason),
        )  # fmt: skip

    # 3: gates -----------------------------------------------------------------------------

    def read_gates(self) -> Reading | None:
        """Reads all gates of the waves so far; returns the first that does not hold."""
        by_wave: dict[int, list[Member]] = {}
        for member in self.state.members.values():
            by_wave.setdefault(member.wave, []).append(member)
        found: list[Reading] = []
        for wave in sorted(by_wave):
            found += gates.readings(
                self.spec.gates_of(wave), wave, by_wave[wave], self.facts.figures,
                self.facts.baseline, self.spec.attempts, self.facts.before,
                self.facts.groups,
            )  # fmt: skip
        if found != self.header.readings:
            self.set_header(readings=found)
        return next((r for r in found if r.holds is False), None)

    def stop(self, reading: Reading) -> None:
        reason = gates.explain(reading)
        if self.spec.on_gate == "pause":
            self.set_header(status="paused", reason=reason)
            self.note("rollout-paused", reason.message, **reason.detail)
            return
        self.note("gate-failed", reason.message, **reason.detail)
        self.roll_back(reason, "stopped")

    def roll_back(self, reason: ErrorInfo, ending: str) -> None:
        """Ends the rollout; gives every device its previous version back when asked to."""
        self.set_header(status="rolling-back", reason=reason, ending=ending, waiting="")
        if self.spec.rollback:
            for member in self.members("assigned", "updating", "trial", "confirmed", "deferred"):
                self.give_back(member, phase="undoing", since=self.now)

    def finish_rollback(self) -> None:
        """The rollback is over when no device that can be reached is still on its way."""
        # Before the end, because an ended rollout may never be stepped again (`follow_s` of 0):
        # whatever failed, with or without tries left, is not to be asked for the version again.
        for member in self.members("failed"):
            self.take_back(member)
        late = self.now - self.spec.deadline_s
        for member in self.members("undoing"):
            fact = self.facts.devices[member.device]
            if fact.online and member.since > late:
                return
        ending = self.header.ending or "aborted"
        self.set_header(status=ending, ended=self.now)
        left = self.members("undoing")
        away = [m.device for m in left if self.away(m)]
        silent = [m.device for m in left if not self.away(m)]
        message = f"the rollout is {ending}"
        if away:
            message += f"; {len(away)} devices are away and go back when they return"
        if silent:
            message += f"; {len(silent)} devices did not say in time that they went back"
        most = gates.MAX_BLAMED
        self.note(f"rollout-{ending}", message, away=away[:most], silent=silent[:most])
        self.release_all()

    def release_all(self) -> None:
        for member in self.state.members.values():
            fact = self.facts.devices.get(member.device)
            if fact is not None and fact.holder == self.state.id:
                self.actions.append(Release(member.device))

    # 4: assignment ------------------------------------------------------------------------

    def candidates(self) -> list[DeviceFact]:
        found = [
            fact
            for fact in self.facts.devices.values()
            if fact.eligible
            and fact.device not in self.state.members
            and fact.holder in (None, self.state.id)
            and fact.newest <= self.state.number
            and not _has(fact, self.header.target, self.spec.mode)
        ]
        return order(self.state.id, found)

    def wish(self, before: DesiredBundle | None) -> DesiredBundle:
        """What the rollout wants in the slot, of a device of which `before` was wanted."""
        beside = before.active if before and self.spec.mode == "shadow" else None
        return DesiredBundle(
            self.header.target, self.spec.mode, self.spec.trial.rules(), beside=beside,
            windows=windows.on_wire(self.spec.windows, self.now),
        )  # fmt: skip

    def assign(self, fact: DeviceFact, again: Member | None = None) -> None:
        """Gives a device the rollout's version, for the first time or once more."""
        shadow = self.spec.mode == "shadow"
        before = _desired(fact)
        revision = self.desire(fact.device, self.wish(before))
        if again is not None:
            self.set_member(
                again, phase="assigned", revision=revision, since=self.now,
                attempts=again.attempts + 1, reason=None, told=fact.online,
                progressed=0.0, step=0, done_bytes=0,
            )  # fmt: skip
            return
        # What it was asked for may be the target itself, refused before: no way back.
        fresh = fact.desired is None or _asks_for(fact, self.header.target)
        previous = None if fresh else before
        serves = fact.serving if shadow or fact.serving != self.header.target else None
        member = Member(
            fact.device, self.header.wave, "assigned", revision, self.now, self.now,
            previous=previous, previous_ref=serves, told=fact.online,
        )  # fmt: skip
        self.put(member)

    def fill_wave(self) -> bool:
        """Assigns devices to the current wave; True when it has all that it should have."""
        waiting = self.candidates()
        target = self.spec.waves[self.header.wave].target(len(self.state.members) + len(waiting))
        missing = target - len([m for m in self.state.members.values() if m.phase != "removed"])
        missing = max(missing, min(self.stand_ins(), _online(waiting)))
        chosen = waiting[: max(missing, 0)]
        if chosen and not windows.is_open(self.spec.windows, self.now):
            opens = utc(windows.next_open(self.spec.windows, self.now))
            self.set_header(waiting=f"outside the maintenance windows: the next opens at {opens}")
            return False
        room = len(chosen)
        if self.spec.max_in_flight is not None:
            room = max(0, self.spec.max_in_flight - len(self.members(*IN_FLIGHT)))
        for fact in chosen[:room]:
            self.assign(fact)
        if chosen:
            self.set_header(waiting="", bake_until=None)
        return room >= len(chosen)

    def stand_ins(self) -> int:
        """How many more devices it takes to prove the wave, because its own are away or failed.

        Devices that went away after they were told are replaced a few times, not for ever: it may
        be the version that takes them away.
        """
        own = self.own()
        gone = sum(m.phase == "deferred" and m.told for m in own)
        if gone > max(STAND_INS, self.spec.min_confirmed):
            return 0
        missing = self.spec.min_confirmed - _useful(list(self.state.members.values()))
        return max(missing, min(self.spec.min_confirmed, len(own)) - _useful(own))

    # 5: progress --------------------------------------------------------------------------

    def advance(self) -> None:
        """Takes the current wave as far as it goes now; later waves follow in later steps."""
        header = self.header
        wave = self.spec.waves[header.wave]
        if header.began is None:
            if wave.approval and header.approved < header.wave:
                if header.status != "awaiting-approval":
                    self.set_header(status="awaiting-approval", waiting="waits for approval")
                    self.note(
                        "approval-needed", f"wave {header.wave + 1} waits for approval",
                        wave=header.wave,
                    )  # fmt: skip
                return
            self.set_header(began=self.now, status="running", waiting="")
            self.note("wave-began", f"wave {header.wave + 1} ({wave}) began", wave=header.wave)
        if not self.fill_wave() or not self.settled():
            self.set_header(bake_until=None)
            return
        if self.header.bake_until is None:
            empty = all(m.wave != self.header.wave for m in self.state.members.values())
            bake = 0.0 if empty else self.spec.bake_of(self.header.wave)
            self.set_header(bake_until=self.now + bake)
        if self.now >= (self.header.bake_until or 0.0) and self.evidence():
            self.end_wave()

    def settled(self) -> bool:
        """Whether all devices of the waves so far are done, or away."""
        own = self.own()
        busy = [m for m in self.state.members.values() if m.phase in IN_FLIGHT]
        busy += [m for m in own if m.phase == "failed" and m.attempts < self.spec.attempts]
        if busy:
            gone = [m.device for m in busy if m.phase in ("updating", "trial") and self.away(m)]
            named = ", ".join(gone[:3]) + (" and others" if gone[3:] else "")
            why = f"{named} went away in the middle of the update: waits until the deadline"
            facts = [self.facts.devices[m.device] for m in busy if m.device in self.facts.devices]
            self.set_header(waiting=why if gone else progress.waiting(facts, self.header.slot))
            return False
        reached = len(self.state.members) - len(self.members("removed", "failed"))
        if len(self.members("confirmed")) < min(self.spec.min_confirmed, reached):
            self.set_header(waiting="its devices are away: waits for one to come back")
            return False
        # Of its own devices too: what the canary proved says nothing of those that went dark here.
        # Without a sign of the update they only count while there are waves to protect.
        more = self.header.wave + 1 < len(self.spec.waves)
        confirmed = sum(m.phase == "confirmed" for m in own)
        gone_own = sum(m.phase == "deferred" and (m.lost or (more and m.told)) for m in own)
        if confirmed < min(self.spec.min_confirmed, confirmed + gone_own):
            self.set_header(waiting="its devices went away: waits for one to come back")
            return False
        return True

    def evidence(self) -> bool:
        """Whether every gate of the current wave has evidence, or need not have any."""
        rules = self.spec.gates_of(self.header.wave)
        missing = [
            r for r in self.header.readings if r.wave == self.header.wave and r.holds is None
        ]
        missing = [r for r in missing if r.gate != "max_failure_rate"]
        ran = any(m.wave == self.header.wave for m in self.members("confirmed"))
        if not missing or not ran or rules.no_evidence == "pass":
            return True
        names = ", ".join(f"{r.gate} ({r.why})" if r.why else r.gate for r in missing)
        if self.now < (self.header.bake_until or 0.0) + rules.evidence_s:
            self.set_header(waiting=f"no evidence yet for {names}")
            return False
        reason = ErrorInfo(
            "no-evidence",
            f"wave {self.header.wave + 1}: no evidence for {names} in {rules.evidence_s:g} s after "
            "the bake time; resume to wait again, or abort",
            {"gates": [r.gate for r in missing], "wave": self.header.wave},
        )
        self.set_header(status="paused", reason=reason, waiting="", bake_until=None)
        self.note("rollout-paused", reason.message, **reason.detail)
        return False

    def end_wave(self) -> None:
        wave = self.header.wave
        own = self.own()
        confirmed = sum(m.phase == "confirmed" for m in own)
        self.note(
            "wave-passed", f"wave {wave + 1} passed with {confirmed} of {len(own)} devices",
            wave=wave, confirmed=confirmed, devices=len(own),
        )  # fmt: skip
        if wave + 1 < len(self.spec.waves):
            self.set_header(wave=wave + 1, began=None, bake_until=None, waiting="")
            return
        self.set_header(status="succeeded", ended=self.now, bake_until=None, waiting="")
        done = len(self.members("confirmed"))
        self.note(
            "rollout-succeeded", f"the rollout succeeded on {done} devices",
            confirmed=done, failed=len(self.members("failed")),
            deferred=len(self.members("deferred")),
            lost=sum(m.lost for m in self.state.members.values()),
        )  # fmt: skip
        self.release_all()
        if self.spec.waves[-1].percent == 100:
            self.give_what_they_have()

    def give_what_they_have(self) -> None:
        """Devices that say that they run the version, and were never asked for it, are now.

        Nothing moves on them; they are no members. But a slot is theirs only once it was given.
        """
        for fact in self.facts.devices.values():
            if (
                fact.eligible
                and (fact.desired is None or fact.desired.kept)
                and fact.device not in self.state.members
                and fact.holder is None
                and fact.newest <= self.state.number
                and _has(fact, self.header.target, self.spec.mode)
            ):
                self.desire(fact.device, self.wish(_desired(fact)), hold=False)

    # After the end ------------------------------------------------------------------------

    def follow(self) -> None:
        """After success: late joiners of the selector get the version, one rollout at a time."""
        last = len(self.spec.waves) - 1
        ended = self.header.ended or 0.0
        if self.header.status != "succeeded" or self.now > ended + self.spec.follow_s:
            return
        everyone = self.spec.waves[last].percent == 100
        if everyone:
            self.give_what_they_have()
        if everyone and windows.is_open(self.spec.windows, self.now):
            for fact in self.candidates():
                if fact.online:
                    self.assign(fact)
                    self.note("late-joiner", f"{fact.device} joined late", device=fact.device)
        for member in self.members("confirmed", "failed", "removed", "deferred"):
            held = self.facts.devices.get(member.device)
            if held is not None and held.holder == self.state.id:
                self.actions.append(Release(member.device))


def _newest_revision(fact: DeviceFact) -> int:
    """The newest revision that the device may have seen; it ignores what is not newer."""
    ahead = fact.revision < fact.reached <= fact.revision + MAX_AHEAD
    return fact.reached if ahead else fact.revision


def _useful(members: list[Member]) -> int:
    """Members that have confirmed, or still can without coming back first."""
    return sum(m.phase not in ("deferred", "removed", "failed") for m in members)


def _online(facts: list[DeviceFact]) -> int:
    return sum(fact.online for fact in facts)


def _desired(fact: DeviceFact) -> DesiredBundle | None:
    """What is wanted in the slot; what has to be active beside a shadow is named."""
    wish = fact.desired
    if wish is None:
        return DesiredBundle(fact.serving, kept=True) if fact.serving else None
    if wish.active is None and fact.serving != wish.bundle:
        return msgspec.structs.replace(wish, beside=fact.serving)
    return wish


def _asks_for(fact: DeviceFact, target: BundleRef) -> bool:
    return fact.desired is not None and fact.desired.bundle == target


def _has(fact: DeviceFact, target: BundleRef, mode: str) -> bool:
    """Whether a device has the target already, and is meant to."""
    if fact.active != target or fact.trial:
        return False
    wanted = fact.desired
    return wanted is None or (wanted.bundle == target and wanted.mode == mode)


def step(
    spec: RolloutSpec, state: RolloutState, facts: Facts, now: float
) -> tuple[RolloutState, list[Action]]:
    """One step of a rollout.

    Args:
        spec: what was asked; never changes.
        state: as the last step left it.
        facts: the world now.
        now: seconds since the epoch.

    Returns:
        The new state, and the actions that belong to it.
    """
    run = Step(spec, state, facts, now)
    if state.header.status == "queued":
        if facts.blockers:
            run.set_header(waiting=f"waits for {', '.join(facts.blockers[:5])}")
            return run.state, run.actions
        run.set_header(status="running", waiting="")
        run.note("rollout-started", "the rollout started")
    run.judge_members()
    status = run.header.status
    if status == "rolling-back":
        run.finish_rollback()
        return run.state, run.actions
    run.retry_or_give_up()
    if status in ENDED:
        run.follow()
        return run.state, run.actions
    broken = run.read_gates()
    if status == "paused":
        return run.state, run.actions
    if broken is not None:
        run.stop(broken)
    else:
        run.advance()
    return run.state, run.actions
