"""What serves: each slot's bundle loaded, restored or emptied, and why one serves nothing.

Something serves, whatever fails: the current bundle, or else the one before. What then serves is
what the links say and what is reported.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agent.serving.models import Models
from agent.serving.worker import STALL_S
from agent.system.clock import Clock
from agent.system.log import logger
from agent.update import machine
from agent.update.health import Health, verdict
from agent.update.ledger import Ledger
from agent.update.loading import CRASHED, Loader, insist, refusal
from agent.update.machine import Update
from agent.update.store import Store
from contracts.desired import Desired
from contracts.errors import ErrorInfo, InputError
from contracts.messages import SlotReport

log = logger(__name__)

UNSERVED_S: Final = 10.0
"""Seconds before a slot that the disk refused is loaded again."""

TRIAL_CHECK_S: Final = 0.5
"""Seconds between two looks at a trial's health."""

NO_BASE: Final = frozenset({"no-base", "wrong-base"})
"""Codes of an adapter that has no base to serve with."""

PROBLEM_S: Final = 300.0
"""Seconds before a slot of which nothing loads is loaded again: its runtime may be repaired."""


class Slots:
    """The slots of one device. For one thread; any may ask for :meth:`reports`.

    Args:
        store: bundles and links.
        models: what serves.
        loader: loads bundles of the store.
        ledger: the running update.
        health: observations of a trial, which begins when its bundle is loaded.
        clock: the time.

    Attributes:
        trial_began: when the running trial began; None: it has to begin anew.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        loader: Loader,
        ledger: Ledger,
        health: Health,
        clock: Clock,
    ) -> None:
        self._store = store
        self._models = models
        self._loader = loader
        self._ledger = ledger
        self.health = health
        self._clock = clock
        self._unserved: set[str] = set()
        self._problems: dict[str, ErrorInfo] = {}
        self._retry_at: dict[str, float] = {}
        self.trial_began: float | None = None

    # What there is. ---------------------------------------------------------------------

    def reports(self) -> dict[str, SlotReport]:
        """What every slot has, for the reported document."""
        update = self._ledger.journal.update
        trial = update.slot if update and update.state == "trial" else None
        found = {}
        for slot, report in self._store.reports().items():
            problem = self._problems.get(slot) or self._models.problem(slot)
            found[slot] = msgspec.structs.replace(
                report,
                active=None if problem else report.active,
                trial=slot == trial,
                problem=problem,
            )
        return found

    def have(self) -> dict[str, SlotReport]:
        """What every slot has. What is not loaded at a start any more has to come anew."""
        return {
            slot: msgspec.structs.replace(report, active=None)
            if slot in self._problems and self._problems[slot].code == CRASHED
            else report
            for slot, report in self._store.reports().items()
        }

    def waits(self, slot: str) -> bool:
        """Whether a slot has to serve something and does not yet."""
        return slot in self._unserved

    def next_try(self) -> float | None:
        """Seconds until a slot that does not serve is loaded again; None: all serve."""
        if not self._unserved:
            return None
        next_try = min(self._retry_at.get(slot, 0.0) for slot in self._unserved)
        return max(0.0, next_try - self._clock.monotonic())

    # Loading. ---------------------------------------------------------------------------

    def recover(self) -> None:
        """After a start: loads what has to serve, and empties what is not desired.

        Raises:
            OSError: the state folder cannot be read.
        """
        try:
            insist(self.empty_unwanted)
        except OSError as error:
            log.error("slot not emptied", reason=str(error))
        slots = insist(self._store.slots)
        self._unserved = set(slots) - set(self._unwanted(slots))
        self.serve_rest()

    def serve_rest(self) -> None:
        """Loads what has to serve and does not yet; what the disk refuses is left for later."""
        for slot in sorted(self._unserved, key=self._adapters_last):
            if self._clock.monotonic() < self._retry_at.get(slot, 0.0):
                continue
            wait = PROBLEM_S
            try:
                self._serve(slot)
            except OSError as error:
                log.error("slot not served", slot=slot, reason=str(error))
                self._unserved.add(slot)
                wait = UNSERVED_S
            self._retry_at[slot] = self._clock.monotonic() + wait

    def _adapters_last(self, slot: str) -> tuple[bool, str]:
        """The order in which slots are loaded: an adapter needs its base."""
        try:
            current = self._store.linked(slot, "current")
            adapts = current is not None and self._store.manifest(current).adapter is not None
        except (InputError, OSError):
            adapts = False
        return adapts, slot

    def _base_came(self) -> None:
        """Another bundle serves: adapters that had no base are tried at once."""
        for slot, problem in self._problems.items():
            if problem.code in NO_BASE:
                self._retry_at.pop(slot, None)

    def _serve(self, slot: str) -> None:
        """Loads what a slot has to serve.

        Raises:
            OSError: the disk refuses; to be tried again.
        """
        update = self._ledger.journal.update
        ours = update is not None and (update.slot, update.mode) == (slot, "active")
        if update is not None and ours and update.state == "rolling-back":
            self.restore()
        elif update is not None and ours and update.state == "trial":
            self._serve_trial(update)
        else:
            self._serve_linked(slot)
        shadow = self._store.linked(slot, "shadow")
        if shadow is not None:
            self._activate_shadow(slot, shadow)

    def _serve_linked(self, slot: str) -> None:
        """Loads the current bundle of a slot, or else the previous one.

        Then that is the current one: what is reported is what serves, and what is desired
        comes again, through its checks. Where neither loads, the links stay: what keeps them
        from it may pass.
        """
        current = self._store.linked(slot, "current")
        if current is None:
            self._note(slot, None)
            return
        served, problem = self._loader.first(slot, [current, self._store.linked(slot, "previous")])
        if served not in (None, current):
            self._store.link(slot, "current", served)
        self._note(slot, problem if served is None else None)

    def _note(self, slot: str, problem: ErrorInfo | None) -> None:
        """Remembers why a slot serves nothing, and tells it when that has changed.

        It is tried again if there still is a bundle to try.
        """
        before = self._problems.pop(slot, None)
        self._unserved.discard(slot)
        if problem is None:
            self._base_came()
        if problem is not None:
            self._problems[slot] = problem
            links = [self._store.linked(slot, link) for link in ("current", "previous")]
            if any(sha256 and self._store.has_release(sha256) for sha256 in links):
                self._unserved.add(slot)
        if problem != before:
            self._ledger.tell()

    def _serve_trial(self, update: Update) -> None:
        """Loads the bundle on trial, or rolls back at once."""
        slot = update.slot
        current = self._store.linked(slot, "current")
        problem = (
            self._loader.load(slot, current)
            if current == update.bundle.manifest_sha256
            else ErrorInfo("bundle-corrupt", f"the link to {update.bundle} is gone", {})
        )
        if problem is None:
            self._note(slot, None)
            self.begin_trial(slot)
            return
        try:
            self._ledger.apply(machine.Failed(problem))
        except OSError:  # the disk takes no note of it, but something has to serve
            self._loader.first(slot, _before(update))
            raise
        self.restore()

    def begin_trial(self, slot: str) -> None:
        """The bundle on trial serves from now on."""
        self.health.begin_trial(slot)
        self.trial_began = self._clock.monotonic()

    def watch(self, update: Update) -> float:
        """Ends a trial that is over or broke a rule; seconds until the next look."""
        if self.trial_began is None:  # the agent started in the trial: its time begins again
            self.begin_trial(update.slot)
        assert self.trial_began is not None
        seen = self.health.trial(update.slot)
        broken = verdict(update.trial, seen)
        if broken is not None:
            self._ledger.apply(machine.Failed(broken))
            return 0
        left = self.trial_began + update.trial.seconds - self._clock.monotonic()
        if -STALL_S < left <= 0 and seen.silent_s > TRIAL_CHECK_S:
            left = TRIAL_CHECK_S  # a request runs: whether it gets on or hangs is awaited
        if left > 0:
            return min(TRIAL_CHECK_S, left)
        self._ledger.apply(machine.TrialPassed())
        self.trial_began = None
        return 0

    def _activate_shadow(self, slot: str, sha256: str) -> None:
        if self._loader.first(machine.place(slot, "shadow"), [sha256])[0] is None:
            self._store.link(slot, "shadow", None)

    # Changing. --------------------------------------------------------------------------

    def activate(self, update: Update) -> None:
        """Points the links at the new bundle, journals the trial, and only then loads it.

        In this order a model that kills the process while it loads is met by the trial's
        count of restarts.
        """
        sha256 = update.bundle.manifest_sha256
        if update.mode == "shadow":
            self._store.link(update.slot, "shadow", sha256)
            problem = self._loader.load(machine.place(update.slot, "shadow"), sha256)
            self._ledger.apply(machine.Failed(problem) if problem else machine.Activated())
            return
        serves = self._store.linked(update.slot, "current")
        if serves not in (None, sha256):
            self._store.link(update.slot, "previous", serves)
        self._store.link(update.slot, "current", sha256)
        if self._store.linked(update.slot, "shadow") == sha256:
            self._drop_shadow(update.slot)
        self.trial_began = None
        self._ledger.apply(machine.Activated())
        self._unserved.add(update.slot)  # until it is loaded, the trial does not run
        self._retry_at.pop(update.slot, None)
        self._serve_trial(update)

    def restore(self) -> None:
        """Serves what served before, points the links at it, and ends the update.

        What was there before may be damaged, too: then what was there before that serves, or
        nothing, and the end of the update says so.
        """
        update = self._ledger.journal.update
        assert update is not None
        problem = None
        if update.mode == "shadow":
            self._drop_shadow(update.slot)
        else:
            served, problem = self._loader.first(update.slot, _before(update))
            self.restore_links()
            if served not in (None, _before(update)[0]):
                self._store.link(update.slot, "current", served)
            self._note(update.slot, problem if served is None else None)
        self.trial_began = None
        self._ledger.apply(machine.Restored(problem))

    def restore_links(self) -> None:
        """Points the links of the update's slot at what they pointed at before it."""
        update = self._ledger.journal.update
        assert update is not None
        if update.mode == "shadow":
            self._store.link(update.slot, "shadow", None)
            return
        old, older = _before(update)
        self._store.link(update.slot, "current", old)
        self._store.link(update.slot, "previous", older)

    # Emptying. --------------------------------------------------------------------------

    def _unwanted(self, slots: list[str]) -> list[str]:
        journal = self._ledger.journal
        return machine.unwanted(journal.update, journal.desired, slots)

    def empty_unwanted(self) -> None:
        """Empties the slots that desired does not name: what is not wanted does not serve."""
        for slot in self._unwanted(self._store.slots()):
            log.info("slot emptied: it is not desired", slot=slot)
            for mode in ("shadow", "active"):
                self._models.activate(machine.place(slot, mode), None)
            self._unserved.discard(slot)
            self._retry_at.pop(slot, None)
            try:
                self._store.empty(slot)
            except OSError as error:  # it serves nothing all the same, whatever its links say
                self._problems[slot] = refusal(error)
                raise
            self._problems.pop(slot, None)
            self._ledger.waste = self._ledger.untold = True

    def drop_shadows(self, desired: Desired) -> None:
        """Lets go of shadows that are not desired. Every slot is."""
        for slot in self._store.slots():
            shadow = self._store.linked(slot, "shadow")
            wish = desired.slots[slot].shadow
            if shadow and (wish is None or wish.manifest_sha256 != shadow):
                self._drop_shadow(slot)

    def _drop_shadow(self, slot: str) -> None:
        self._models.activate(machine.place(slot, "shadow"), None)
        self._store.link(slot, "shadow", None)


def _before(update: Update) -> list[str | None]:
    """What a slot had before an update: the bundle that served, and the one before it."""
    return [ref.manifest_sha256 if ref else None for ref in (update.old, update.older)]
