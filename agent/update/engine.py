"""The update engine: carries out what the state machine asks for, one step at a time.

The machine decides, the journal remembers, the store holds. A step may fail or the process
may die anywhere: the journal's state says which step to do again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from agent.serving.models import Models
from agent.serving.worker import STALL_S
from agent.system.clock import Clock
from agent.system.filesystem import FileSystem, is_full
from agent.system.log import logger
from agent.telemetry.observed import Observed
from agent.update import fit, leftovers, machine
from agent.update.download import Downloader, Progress
from agent.update.fetch import NO_SUCH_FILE, Fetcher
from agent.update.health import verdict
from agent.update.inbox import Inbox
from agent.update.journal import Journal, JournalFiles
from agent.update.loading import CRASHED, Loader, LoadingMarks, fault, insist, refusal
from agent.update.machine import Settled, Update
from agent.update.store import Store
from agent.update.waiting import Waiting, patience
from contracts.board import Board
from contracts.bundle import decode_manifest, sha256_of
from contracts.errors import ErrorInfo, InputError, RefusedError, ShoalError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import (
    BundleRef,
    Desired,
    Selftested,
    SlotReport,
    UpdateEvent,
    Wait,
)

log = logger(__name__)

FIRST_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
"""Seconds before a failed step is tried again: doubled from the first to the second."""

UNSERVED_S: Final = 10.0
"""Seconds before a slot that the disk refused is loaded again."""

PROBLEM_S: Final = 300.0
"""Seconds before a slot of which nothing loads is loaded again: its runtime may be repaired."""

PROGRESS_S: Final = 5.0
"""Seconds between two progress events of one download."""

REPORT_S: Final = 60.0
"""Seconds between two reports of it, which the broker keeps."""

TRIAL_CHECK_S: Final = 0.5
"""Seconds between two looks at a trial's health."""

PASSING: Final = frozenset({"verified", "self-tested", "committed", "refused", "rolled-back"})
"""States that the next step ends at once: who is told what the device has, is told then. Their
events are sent all the same."""


class Trusted(Protocol):
    """Where signed manifests come from (:class:`agent.trust.client.Trust`)."""

    def newest(self, ref: BundleRef) -> bytes:
        """The manifest of a bundle that the newest signed list has."""


class Health(Protocol):
    """Where a trial's observations come from."""

    def begin_trial(self, slot: str) -> None:
        """Starts counting from zero."""

    def trial(self, slot: str) -> Observed:
        """What was seen since."""


class _Abandoned(Exception):  # noqa: N818  # control flow, not an error
    """A newer desired document changed what is wanted in the middle of a step."""


class Engine:
    """The updates of one device.

    Args:
        fs: the disk.
        root: the state folder.
        board: the device's profile.
        trust: signed manifests.
        fetcher: bundle files.
        models: what serves.
        selftest: replays the golden vectors of a bundle folder, apart from this process.
        health: observations of a trial.
        clock: the time.
        stop: set when the agent stops.
        boot: the boot id, for events.
        emit: sends an update event, durably.
        changed: told when what the device has or does has changed.
        device: measures the device.
        clock_fault: why the device's clock is wrong, if it is known to be.
    """

    def __init__(
        self,
        *,
        fs: FileSystem,
        root: Path,
        board: Board,
        trust: Trusted,
        fetcher: Fetcher,
        models: Models,
        selftest: Callable[[Path], Selftested],
        health: Health,
        clock: Clock,
        stop: threading.Event,
        boot: str,
        emit: Callable[[UpdateEvent], None],
        changed: Callable[[], None] = lambda: None,
        device: Callable[[], fit.Device] = fit.Device.measure,
        clock_fault: Callable[[], ErrorInfo | None] = lambda: None,
    ) -> None:
        self.store = Store(
            fs,
            root,
            leftover_bytes=min(leftovers.MAX_BYTES, board.model_flash_bytes // 2),
            clock=clock.time,
        )
        self._files = JournalFiles(fs, root)
        self._board = board
        self._trust = trust
        self._fetcher = fetcher
        self._models = models
        self._selftest = selftest
        self._health = health
        self._clock = clock
        self._stop = stop
        self._boot = boot
        self._emit = emit
        self._changed = changed
        self._device = device
        self._clock_fault = clock_fault
        self._waiting = Waiting(clock)
        self._journal = Journal()
        self._loader = Loader(self.store, models, LoadingMarks(fs, root), clock)
        self._unserved: set[str] = set()
        self._problems: dict[str, ErrorInfo] = {}
        self._retry_at: dict[str, float] = {}
        self._inbox = Inbox(lambda: self._journal.desired, clock)
        self._wake = threading.Event()
        self._retry_s = FIRST_RETRY_S
        self._trial_began: float | None = None
        self._next_progress = self._next_report = 0.0
        self._untold = False
        self._waste = False
        self._collect_due = 0.0

    # What others see. -------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """The journal as it is on disk."""
        return self._journal

    def offer(self, desired: Desired) -> None:
        """Takes a desired document from the broker, if it counts."""
        self._inbox.offer(desired)
        self._wake.set()

    def refuse(self, reason: ErrorInfo) -> None:
        """What came from the broker is no desired document: that is told."""
        self._inbox.refuse(reason)
        self._wake.set()

    def slots(self) -> dict[str, SlotReport]:
        """What every slot has, for the reported document."""
        update = self._journal.update
        trial = update.slot if update and update.state == "trial" else None
        found = {}
        for slot, report in self.store.reports().items():
            problem = self._problems.get(slot)
            found[slot] = msgspec.structs.replace(
                report,
                active=None if problem else report.active,
                trial=slot == trial,
                problem=problem,
            )
        return found

    def waits(self) -> list[Wait]:
        """Why no update gets on, for the reported document; nothing when one does."""
        return self._waiting.now() + self._inbox.waits()

    # Start. -----------------------------------------------------------------------------

    def recover(self) -> None:
        """After a start: counts it, repairs links, and loads what has to serve.

        Raises:
            OSError: the state folder cannot be read.
        """
        self._journal = insist(self._files.load)
        try:
            insist(self.store.prepare)
            insist(self._count_start)
        except OSError as error:  # a full disk must not keep the agent from serving
            log.error("start not recorded", reason=str(error))
        try:
            insist(self._empty_unwanted)
        except OSError as error:
            log.error("slot not emptied", reason=str(error))
        slots = insist(self.store.slots)
        self._unserved = set(slots) - set(self._unwanted(slots))
        self._serve_rest()
        if self._journal.last_event is not None:
            self._emit(self._journal.last_event)  # it may have died before it was sent

    def _count_start(self) -> None:
        update = self._journal.update
        if update is None or update.final:
            return
        counted = machine.advance(update, machine.Restarted(), self._clock.time())
        if counted != update:
            self._apply(machine.Restarted())
        if counted.state == "rolling-back":
            self._restore_links()

    def _serve_rest(self) -> None:
        """Loads what has to serve and does not yet; what the disk refuses is left for later."""
        for slot in sorted(self._unserved):
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

    def _serve(self, slot: str) -> None:
        """Loads what a slot has to serve.

        Raises:
            OSError: the disk refuses; to be tried again.
        """
        update = self._journal.update
        ours = update is not None and (update.slot, update.mode) == (slot, "active")
        if update is not None and ours and update.state == "rolling-back":
            self._restore()
        elif update is not None and ours and update.state == "trial":
            self._serve_trial(update)
        else:
            self._serve_linked(slot)
        shadow = self.store.linked(slot, "shadow")
        if shadow is not None:
            self._activate_shadow(slot, shadow)

    def _serve_linked(self, slot: str) -> None:
        """Loads the current bundle of a slot, or else the previous one.

        Then that is the current one: what is reported is what serves, and what is desired
        comes again, through its checks. Where neither loads, the links stay: what keeps them
        from it may pass.
        """
        current = self.store.linked(slot, "current")
        if current is None:
            self._note(slot, None)
            return
        served, problem = self._loader.first(slot, [current, self.store.linked(slot, "previous")])
        if served not in (None, current):
            self.store.link(slot, "current", served)
        self._note(slot, problem if served is None else None)

    def _note(self, slot: str, problem: ErrorInfo | None) -> None:
        """Remembers why a slot serves nothing, and tells it when that has changed.

        It is tried again if there still is a bundle to try.
        """
        before = self._problems.pop(slot, None)
        self._unserved.discard(slot)
        if problem is not None:
            self._problems[slot] = problem
            links = [self.store.linked(slot, link) for link in ("current", "previous")]
            if any(sha256 and self.store.has_release(sha256) for sha256 in links):
                self._unserved.add(slot)
        if problem != before:
            self._tell()

    def _serve_trial(self, update: Update) -> None:
        """Loads the bundle on trial, or rolls back at once."""
        slot = update.slot
        current = self.store.linked(slot, "current")
        problem = (
            self._loader.load(slot, current)
            if current == update.bundle.manifest_sha256
            else ErrorInfo("bundle-corrupt", f"the link to {update.bundle} is gone", {})
        )
        if problem is None:
            self._note(slot, None)
            self._begin_trial(update)
            return
        try:
            self._apply(machine.Failed(problem))
        except OSError:  # the disk takes no note of it, but something has to serve
            self._loader.first(slot, _before(update))
            raise
        self._restore()

    def _activate_shadow(self, slot: str, sha256: str) -> None:
        if self._loader.first(machine.place(slot, "shadow"), [sha256])[0] is None:
            self.store.link(slot, "shadow", None)

    # The thread. ------------------------------------------------------------------------

    def run(self) -> None:
        """Works until the agent stops."""
        while not self._stop.is_set():
            pause = self.step()
            if pause is None or pause > 0:
                self._clock.wait(self._wake, 3600.0 if pause is None else pause)
                self._wake.clear()

    def wake(self) -> None:
        """Ends a pause, for example because the connection is back."""
        self._wake.set()

    def step(self) -> float | None:
        """Does one step.

        Returns:
            Seconds to wait before the next; None: until something is offered.
        """
        try:
            self._serve_rest()
            pause = self._advance()
            self._got_on()
        except _Abandoned:
            return 0
        except (RefusedError, InputError) as error:
            waits = patience(error, self._clock_fault())
            return self._hindered(waits, local=False) if waits else self._failed(error.info)
        except ShoalError as error:
            local = not isinstance(error, UnavailableError) or error.code == NO_SUCH_FILE
            return self._hindered(error.info, local=local)
        except OSError as error:
            return self._hindered(refusal(error), local=not is_full(error))
        except Exception as error:  # a fault of ours: the thread must go on, and say so
            log.exception("update step broke")
            return self._hindered(fault(error), local=True)
        if self._unserved:
            next_try = min(self._retry_at.get(slot, 0.0) for slot in self._unserved)
            wait = max(0.0, next_try - self._clock.monotonic())
            return wait if pause is None else min(wait, pause)
        return pause

    def _advance(self) -> float | None:
        self._accept()
        if self._inbox.news():
            self._tell()
        self._empty_unwanted()
        update = self._journal.update
        if update is None or update.final:
            return self._begin_next()
        begun = update.state in ("trial", "rolling-back") and update.mode == "active"
        if begun and update.slot in self._unserved:
            return UNSERVED_S  # nothing is judged by the bundle before
        desired = self._journal.desired
        if desired is not None and update.state != "rolling-back":
            reason = machine.superseded(update, desired)
            if reason is not None:
                self._apply(machine.Failed(reason))
                return 0
        pause = self._act(update)
        if pause == 0:
            self._retry_s = FIRST_RETRY_S
        return pause

    def _failed(self, reason: ErrorInfo) -> float:
        update = self._journal.update
        if update is None or update.final or update.state == "rolling-back":
            return self._hindered(reason, local=True)
        try:
            self._apply(machine.Failed(reason))
        except OSError as error:
            log.error("journal not written", reason=str(error))
            return self._backoff()
        return 0

    def _hindered(self, reason: ErrorInfo, *, local: bool) -> float:
        log.warning("update step failed", code=reason.code, reason=reason.message)
        update = self._journal.update
        running = update is not None and not update.final
        news = self._waiting.begin(reason, update.slot if update and running else "")
        if running:
            try:
                self._apply(machine.Hindered(reason, local), announce=news)
                return self._backoff()
            except OSError as error:
                log.error("journal not written", reason=str(error))
            except Exception:
                log.exception("failure not noted")
        if news:
            self._tell()
        return self._backoff()

    def _got_on(self) -> None:
        if self._waiting.end():
            self._tell()

    def _backoff(self) -> float:
        pause = self._retry_s * random.uniform(0.5, 1.0)
        self._retry_s = min(MAX_RETRY_S, self._retry_s * 2)
        return pause

    # The journal. -----------------------------------------------------------------------

    def _save(self, new: Journal) -> None:
        """The journal on disk comes first: what is not written has not happened."""
        self._files.save(new)
        self._journal = new

    def _apply(self, event: machine.Event, *, announce: bool = False) -> None:
        """Advances the running update, journals it, then tells the controller."""
        before = self._journal.update
        assert before is not None
        after = machine.advance(before, event, self._clock.time())
        new = msgspec.structs.replace(self._journal, update=after)
        told = after.state not in ("desired", "rolling-back") and (
            announce or after.state != before.state
        )
        if told:
            new = self._with_event(new, after)
        if after.final and after.state != "committed":
            settled = Settled(after.revision, after.bundle, after.mode)
            where = machine.place(after.slot, after.mode)
            new = msgspec.structs.replace(new, settled={**new.settled, where: settled})
        self._save(new)
        self._waste = self._waste or after.final
        self._log(after)
        if told and new.last_event is not None:
            self._emit(new.last_event)
        self._untold = True
        if announce or (after.state != before.state and after.state not in PASSING):
            self._tell()

    def _log(self, update: Update) -> None:
        log.info("update", state=update.state, bundle=str(update.bundle), slot=update.slot)

    def _tell(self) -> None:
        self._untold = False
        self._changed()

    def _with_event(self, new: Journal, update: Update, bytes_per_s: float = 0.0) -> Journal:
        event = UpdateEvent(
            boot=self._boot,
            seq=new.event_seq,
            revision=update.revision,
            slot=update.slot,
            bundle=update.bundle,
            state=update.state,  # type: ignore[arg-type]  # the journal's own states have no event
            at=update.at,
            rollout=update.rollout,
            done_bytes=update.done_bytes,
            total_bytes=update.total_bytes,
            reason=update.reason,
            golden_accuracy=update.golden_accuracy,
            bytes_per_s=bytes_per_s,
        )
        return msgspec.structs.replace(new, event_seq=new.event_seq + 1, last_event=event)

    def _accept(self) -> None:
        """Journals an offered document that is newer, and carries it into the running update.

        When none runs, its first update begins with it: one write.
        """
        desired = self._inbox.take()
        if desired is None:
            return
        known = self._journal.desired
        # A revision that was reached under another fence says nothing under this one.
        reached = self._journal.reached if known and known.fence == desired.fence else 0
        new = msgspec.structs.replace(self._journal, desired=desired, reached=reached)
        update = new.update
        try:
            if update is None or update.final:
                new = self._with_next(new, desired)
            elif (
                machine.superseded(update, desired) is None
                and (wish := desired.slots.get(update.slot)) is not None
            ):
                update = msgspec.structs.replace(
                    update, revision=desired.revision, rollout=desired.rollout, trial=wish.trial
                )
                new = msgspec.structs.replace(new, update=update)
            self._begin(new)
        except OSError:
            self._inbox.give_back(desired)
            raise

    def _with_next(self, new: Journal, desired: Desired) -> Journal:
        """The journal with the next update that is to be done begun, if there is one."""
        updates = machine.plan(desired, self._have(), new.settled)
        if not updates:
            return new
        update = machine.advance(updates[0], machine.Began(), self._clock.time())
        return self._with_event(msgspec.structs.replace(new, update=update), update)

    def _have(self) -> dict[str, SlotReport]:
        """What every slot has. What is not loaded at a start any more has to come anew."""
        return {
            slot: msgspec.structs.replace(report, active=None)
            if slot in self._problems and self._problems[slot].code == CRASHED
            else report
            for slot, report in self.store.reports().items()
        }

    def _begin(self, new: Journal) -> None:
        """Journals it, and tells of the update that began with it."""
        began = new.event_seq > self._journal.event_seq
        self._save(new)
        if began and new.update is not None and new.last_event is not None:
            self._log(new.update)
            self._emit(new.last_event)
            self._tell()

    def _unwanted(self, slots: list[str]) -> list[str]:
        return machine.unwanted(self._journal.update, self._journal.desired, slots)

    def _empty_unwanted(self) -> None:
        """Empties the slots that desired does not name: what is not wanted does not serve."""
        for slot in self._unwanted(self.store.slots()):
            log.info("slot emptied: it is not desired", slot=slot)
            for mode in ("shadow", "active"):
                self._models.activate(machine.place(slot, mode), None)
            self._unserved.discard(slot)
            self._retry_at.pop(slot, None)
            try:
                self.store.empty(slot)
            except OSError as error:  # it serves nothing all the same, whatever its links say
                self._problems[slot] = refusal(error)
                raise
            self._problems.pop(slot, None)
            self._waste = self._untold = True

    def _drop_shadow(self, slot: str) -> None:
        self._models.activate(machine.place(slot, "shadow"), None)
        self.store.link(slot, "shadow", None)

    # Steps. -----------------------------------------------------------------------------

    def _begin_next(self) -> float | None:
        desired = self._journal.desired
        if desired is None:
            return None
        new = self._with_next(self._journal, desired)
        if new is not self._journal:
            self._begin(new)
            return 0
        for slot in self.store.slots():
            shadow = self.store.linked(slot, "shadow")
            wish = desired.slots[slot].shadow
            if shadow and (wish is None or wish.manifest_sha256 != shadow):
                self._drop_shadow(slot)
        now = self._clock.monotonic()
        aged = self.store.has_leftovers and now >= self._collect_due
        if self._waste or aged or self._journal.reached != desired.revision:
            self.store.collect()
            self._waste = False
            self._collect_due = now + leftovers.LOOK_S
        if self._journal.reached != desired.revision:
            self._save(msgspec.structs.replace(self._journal, reached=desired.revision))
            self._untold = True
        if self._untold:
            self._tell()
        self._retry_s = FIRST_RETRY_S
        return None

    def _act(self, update: Update) -> float:
        match machine.action(update):
            case "download":
                return self._download(update)
            case "check-fit":
                manifest = self.store.manifest(update.bundle.manifest_sha256)
                fit.check_fit(manifest, self._board, self._device())
                self._apply(machine.Fitted())
            case "self-test":
                result = self._selftest(self.store.folder(update.bundle.manifest_sha256))
                self._apply(machine.SelfTested(result.passed / max(1, result.vectors)))
            case "activate":
                self._activate(update)
            case "watch-trial":
                return self._watch(update)
            case "restore":
                self._restore()
        return 0

    def _download(self, update: Update) -> float:
        if update.state == "desired":
            self._apply(machine.Began())
        self.store.prepare()
        data = self._trust.newest(update.bundle)
        manifest = _checked(data, update.bundle)
        fit.check_fit(manifest, self._board, self._device())
        sha256 = update.bundle.manifest_sha256
        self.store.collect(manifest, sha256)
        self.store.drop_wrong_blobs(manifest)
        if fit.is_short(manifest, self.store, self._board):
            self.store.collect(manifest, sha256, short=True)
        fit.check_space(manifest, self.store, self._board)
        self.store.note(sha256, manifest)
        self._next_progress = self._clock.monotonic() + PROGRESS_S
        self._next_report = self._clock.monotonic() + PROGRESS_S
        active = self._active_manifest(update)

        def check(progress: Progress) -> None:
            self._progress(progress, manifest.total_bytes)

        downloader = Downloader(self.store, self._fetcher, check, monotonic=self._clock.monotonic)
        try:
            downloader.fetch(manifest, active)
            self.store.build(data, manifest)
        except OSError as error:
            if is_full(error):
                raise fit.disk_full(manifest, self.store) from None
            raise
        self._apply(machine.Downloaded(manifest.total_bytes))
        return 0

    def _active_manifest(self, update: Update) -> Manifest | None:
        if update.old is None:
            return None
        try:
            return self.store.manifest(update.old.manifest_sha256)
        except (InputError, OSError):  # then there is no delta
            return None

    def _progress(self, progress: Progress, total: int) -> None:
        """Between pieces of a download: stop, change of mind, progress event."""
        if self._stop.is_set():
            raise UnavailableError("shutting-down", "the agent is stopping")
        if self._inbox.waiting:
            raise _Abandoned
        now = self._clock.monotonic()
        update = self._journal.update
        if now >= self._next_progress and update is not None:
            self._next_progress = now + PROGRESS_S
            update = msgspec.structs.replace(
                update, done_bytes=progress.done_bytes, total_bytes=total, reason=None
            )
            new = msgspec.structs.replace(self._journal, update=update)
            new = self._with_event(new, update, round(progress.bytes_per_s, 1))
            self._save(new)
            if new.last_event is not None:
                self._emit(new.last_event)
            if self._waiting.end() or now >= self._next_report:
                self._next_report = now + REPORT_S
                self._tell()

    def _activate(self, update: Update) -> None:
        """Points the links at the new bundle, journals the trial, and only then loads it.

        In this order a model that kills the process while it loads is met by the trial's
        count of restarts.
        """
        sha256 = update.bundle.manifest_sha256
        if update.mode == "shadow":
            self.store.link(update.slot, "shadow", sha256)
            problem = self._loader.load(machine.place(update.slot, "shadow"), sha256)
            self._apply(machine.Failed(problem) if problem else machine.Activated())
            return
        serves = self.store.linked(update.slot, "current")
        if serves not in (None, sha256):
            self.store.link(update.slot, "previous", serves)
        self.store.link(update.slot, "current", sha256)
        if self.store.linked(update.slot, "shadow") == sha256:
            self._drop_shadow(update.slot)
        self._trial_began = None
        self._apply(machine.Activated())
        self._unserved.add(update.slot)  # until it is loaded, the trial does not run
        self._retry_at.pop(update.slot, None)
        self._serve_trial(update)

    def _begin_trial(self, update: Update) -> None:
        self._health.begin_trial(update.slot)
        self._trial_began = self._clock.monotonic()

    def _watch(self, update: Update) -> float:
        if self._trial_began is None:  # the agent started in the trial: its time begins again
            self._begin_trial(update)
        assert self._trial_began is not None
        seen = self._health.trial(update.slot)
        broken = verdict(update.trial, seen)
        if broken is not None:
            self._apply(machine.Failed(broken))
            return 0
        left = self._trial_began + update.trial.seconds - self._clock.monotonic()
        if -STALL_S < left <= 0 and seen.silent_s > TRIAL_CHECK_S:
            left = TRIAL_CHECK_S  # a request runs: whether it gets on or hangs is awaited
        if left > 0:
            return min(TRIAL_CHECK_S, left)
        self._apply(machine.TrialPassed())
        self._trial_began = None
        return 0

    def _restore(self) -> None:
        """Serves what served before, points the links at it, and ends the update.

        What was there before may be damaged, too: then what was there before that serves, or
        nothing, and the end of the update says so.
        """
        update = self._journal.update
        assert update is not None
        problem = None
        if update.mode == "shadow":
            self._drop_shadow(update.slot)
        else:
            served, problem = self._loader.first(update.slot, _before(update))
            self._restore_links()
            if served not in (None, _before(update)[0]):
                self.store.link(update.slot, "current", served)
            self._note(update.slot, problem if served is None else None)
        self._trial_began = None
        self._apply(machine.Restored(problem))

    def _restore_links(self) -> None:
        update = self._journal.update
        assert update is not None
        if update.mode == "shadow":
            self.store.link(update.slot, "shadow", None)
            return
        old = update.old.manifest_sha256 if update.old else None
        older = update.older.manifest_sha256 if update.older else None
        self.store.link(update.slot, "current", old)
        self.store.link(update.slot, "previous", older)


def _before(update: Update) -> list[str | None]:
    """What a slot had before an update: the bundle that served, and the one before it."""
    return [ref.manifest_sha256 if ref else None for ref in (update.old, update.older)]


def _checked(data: bytes, ref: BundleRef) -> Manifest:
    """The signed manifest, which must be the one that was asked for."""
    manifest = decode_manifest(data)
    found = manifest.ref(sha256_of(data))
    if found != ref:
        raise RefusedError(
            "wrong-manifest",
            f"the signed manifest is of {found} ({found.manifest_sha256[:12]}...), "
            f"expected {ref} ({ref.manifest_sha256[:12]}...)",
        )
    return manifest
