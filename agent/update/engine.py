"""The update engine: carries out what the state machine asks for, one step at a time.

The machine decides, the journal remembers, the store holds. A step may fail or the process
may die anywhere: the journal's state says which step to do again.

Over 400 lines: every step of every update, and what follows when one fails.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.serving.models import Models
from agent.system.clock import Clock
from agent.system.filesystem import FileSystem, is_full
from agent.system.log import logger
from agent.update import fit, leftovers, machine
from agent.update.fetch import NO_SUCH_FILE, Fetcher
from agent.update.health import Health
from agent.update.hold import Holding
from agent.update.inbox import Inbox
from agent.update.journal import Journal
from agent.update.ledger import Ledger
from agent.update.loading import Loader, LoadingMarks, fault, insist, refusal
from agent.update.machine import Update
from agent.update.obtain import Obtain, Trusted
from agent.update.program import Own, Program
from agent.update.slots import UNSERVED_S, Slots
from agent.update.store import Store
from agent.update.waiting import Waiting, patience
from contracts.answers import Selftested
from contracts.board import Board
from contracts.desired import Desired
from contracts.errors import ErrorInfo, InputError, RefusedError, ShoalError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import SlotReport, UpdateEvent, Wait
from contracts.program import is_program

log = logger(__name__)

FIRST_RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
"""Seconds before a failed step is tried again: doubled from the first to the second."""


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
        holding: whether an update may be activated; None: by the device's own clock.
        wake: set when there is something to do; None: of its own.
        own: what the device has to replace its own program.
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
        holding: Holding | None = None,
        wake: threading.Event | None = None,
        own: Own | None = None,
    ) -> None:
        self.store = Store(
            fs,
            root,
            leftover_bytes=min(leftovers.MAX_BYTES, board.model_flash_bytes // 2),
            clock=clock.time,
        )
        self._ledger = Ledger(fs, root, clock, boot, emit, changed)
        loader = Loader(self.store, models, LoadingMarks(fs, root), clock)
        self._slots = Slots(self.store, models, loader, self._ledger, health, clock)
        self._inbox = Inbox(lambda: self.journal.desired, clock)
        self._waiting = Waiting(clock)
        self._board = board
        self._obtain = Obtain(
            self.store,
            self._ledger,
            trust=trust,
            fetcher=fetcher,
            fits=self._check_fit,
            board=board,
            clock=clock,
            waiting=self._waiting,
            interrupted=self._interrupted,
        )
        self._program = Program(
            own or Own(),
            ledger=self._ledger,
            trust=trust,
            fetcher=fetcher,
            health=health,
            clock=clock,
            slots=self._slots.reports,
            progressed=self._obtain.progressed,
        )
        self._selftest = selftest
        self._clock = clock
        self._stop = stop
        self._device = device
        self._clock_fault = clock_fault
        self._holding = holding or Holding(clock.time, lambda: None)
        self._wake = wake or threading.Event()
        self._retry_s = FIRST_RETRY_S
        self._collect_due = 0.0

    # What others see. -------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """The journal as it is on disk."""
        return self._ledger.journal

    def offer(self, desired: Desired) -> bool:
        """Takes a desired document from the broker, if it counts; whether it does."""
        counts = self._inbox.offer(desired)
        self._wake.set()
        return counts

    def refuse(self, reason: ErrorInfo) -> None:
        """What came from the broker is no desired document: that is told."""
        self._inbox.refuse(reason)
        self._wake.set()

    def slots(self) -> dict[str, SlotReport]:
        """What every slot has, for the reported document."""
        return self._slots.reports() | self._program.reports()

    def waits(self) -> list[Wait]:
        """Why no update gets on, for the reported document; nothing when one does."""
        return self._waiting.now() + self._inbox.waits()

    # Start. -----------------------------------------------------------------------------

    def recover(self) -> None:
        """After a start: counts it, repairs links, and loads what has to serve.

        Raises:
            OSError: the state folder cannot be read.
        """
        insist(self._ledger.load)
        try:
            insist(self.store.prepare)
            insist(self._count_start)
        except OSError as error:  # a full disk must not keep the agent from serving
            log.error("start not recorded", reason=str(error))
        self._slots.recover()
        self._ledger.send()  # it may have died before it was sent

    def _count_start(self) -> None:
        update = self.journal.update
        if update is None or update.final:
            return
        if is_program(update.slot, update.bundle):
            self._program.recover(update)
            return
        counted = machine.advance(update, machine.Restarted(), self._clock.time())
        if counted != update:
            self._ledger.apply(machine.Restarted())
        cut_short = counted.state == "held" and counted.restarts > 0
        if counted.state == "rolling-back" or cut_short:
            self._slots.restore_links()

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
            self._slots.serve_rest()
            pause = self._advance()
            if not self._held:
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
        wait = self._slots.next_try()
        if wait is None or pause is None:
            return pause if wait is None else wait
        return min(wait, pause)

    def _advance(self) -> float | None:
        self._accept()
        if self._inbox.news():
            self._ledger.tell()
        self._slots.empty_unwanted()
        update = self.journal.update
        if update is None or update.final:
            return self._begin_next()
        begun = update.state in ("trial", "rolling-back") and update.mode == "active"
        if begun and self._slots.waits(update.slot):
            return UNSERVED_S  # nothing is judged by the bundle before
        desired = self.journal.desired
        if desired is not None and update.state != "rolling-back":
            reason = machine.superseded(update, desired)
            if reason is not None:
                self._ledger.apply(machine.Failed(reason))
                return 0
        pause = self._act(update)
        if pause == 0:
            self._retry_s = FIRST_RETRY_S
        return pause

    def _failed(self, reason: ErrorInfo) -> float:
        update = self.journal.update
        if update is None or update.final or update.state == "rolling-back":
            return self._hindered(reason, local=True)
        try:
            self._ledger.apply(machine.Failed(reason))
        except OSError as error:
            log.error("journal not written", reason=str(error))
            return self._backoff()
        return 0

    def _hindered(self, reason: ErrorInfo, *, local: bool) -> float:
        log.warning("update step failed", code=reason.code, reason=reason.message)
        update = self.journal.update
        running = update is not None and not update.final
        news = self._waiting.begin(reason, update.slot if update and running else "")
        if running:
            try:
                self._ledger.apply(machine.Hindered(reason, local), announce=news)
                return self._backoff()
            except OSError as error:
                log.error("journal not written", reason=str(error))
            except Exception:
                log.exception("failure not noted")
        if news:
            self._ledger.tell()
        return self._backoff()

    def _got_on(self) -> None:
        if self._waiting.end():
            self._ledger.tell()

    def _backoff(self) -> float:
        pause = self._retry_s * random.uniform(0.5, 1.0)
        self._retry_s = min(MAX_RETRY_S, self._retry_s * 2)
        return pause

    # The journal. -----------------------------------------------------------------------

    def _accept(self) -> None:
        """Journals an offered document that is newer, and carries it into the running update.

        When none runs, its first update begins with it: one write.
        """
        desired = self._inbox.take()
        if desired is None:
            return
        known = self.journal.desired
        # A revision that was reached under another fence says nothing under this one.
        reached = self.journal.reached if known and known.fence == desired.fence else 0
        new = msgspec.structs.replace(self.journal, desired=desired, reached=reached)
        update = new.update
        try:
            if update is None or update.final:
                new = self._with_next(new, desired)
            elif (
                machine.superseded(update, desired) is None
                and (wish := desired.slots.get(update.slot)) is not None
            ):
                update = msgspec.structs.replace(
                    update,
                    revision=desired.revision,
                    rollout=desired.rollout,
                    trial=wish.trial,
                    windows=wish.windows,
                )
                new = msgspec.structs.replace(new, update=update)
            self._ledger.begin(new)
        except Exception:
            self._inbox.give_back(desired)
            raise

    def _with_next(self, new: Journal, desired: Desired) -> Journal:
        """The journal with the next update that is to be done begun, if there is one."""
        updates = machine.plan(desired, self._slots.have() | self._program.reports(), new.settled)
        if not updates:
            return new
        update = machine.advance(updates[0], machine.Began(), self._clock.time())
        return self._ledger.with_event(msgspec.structs.replace(new, update=update), update)

    # Steps. -----------------------------------------------------------------------------

    def _begin_next(self) -> float | None:
        desired = self.journal.desired
        if desired is None:
            return None
        new = self._with_next(self.journal, desired)
        if new is not self.journal:
            self._ledger.begin(new)
            return 0
        self._slots.drop_shadows(desired)
        now = self._clock.monotonic()
        aged = self.store.has_leftovers and now >= self._collect_due
        if self._ledger.waste or aged or self.journal.reached != desired.revision:
            self.store.collect()
            self._ledger.waste = False
            self._collect_due = now + leftovers.LOOK_S
        if self.journal.reached != desired.revision:
            self._ledger.save(msgspec.structs.replace(self.journal, reached=desired.revision))
            self._ledger.untold = True
        if self._ledger.untold:
            self._ledger.tell()
        self._retry_s = FIRST_RETRY_S
        return None

    def _act(self, update: Update) -> float | None:
        ours = is_program(update.slot, update.bundle)
        match machine.action(update):
            case "await-window":
                return self._await_window(update)
            case _ if ours:
                return self._program.act(update)
            case "download":
                self._obtain.bundle(update)
            case "check-fit":
                manifest = self.store.manifest(update.bundle.manifest_sha256)
                self._check_fit(manifest, update.slot)
                self._ledger.apply(machine.Fitted())
            case "self-test":
                result = self._selftest(self.store.folder(update.bundle.manifest_sha256))
                self._ledger.apply(machine.SelfTested(result.passed / max(1, result.vectors)))
            case "activate":
                self._slots.activate(update)
            case "watch-trial":
                return self._slots.watch(update)
            case "restore":
                self._slots.restore()
        return 0

    def _check_fit(self, manifest: Manifest, slot: str) -> None:
        fit.check_fit(manifest, self._board, self._device())
        fit.check_base(manifest, slot, self._slots.have())

    @property
    def _held(self) -> bool:
        update = self.journal.update
        return update is not None and update.state == "held"

    def _await_window(self, update: Update) -> float:
        hold = self._holding.look(update)
        if hold is None:
            self._ledger.apply(machine.Opened())
            return 0
        if self._waiting.begin(hold.reason, update.slot):  # only what is new is written down
            self._ledger.apply(machine.Hindered(hold.reason, local=False), announce=True)
        return self._backoff() if hold.pause_s is None else hold.pause_s

    def _interrupted(self) -> None:
        """Between pieces of a download: whether it may go on."""
        if self._stop.is_set():
            raise UnavailableError("shutting-down", "the agent is stopping")
        if self._inbox.waiting:
            raise _Abandoned
