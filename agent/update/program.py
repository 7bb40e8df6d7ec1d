"""Updates of the agent's own program: what the engine does for them, step by step.

They go through the states that bundles go through (:mod:`agent.update.machine`). What differs is
how: an archive of wheels becomes an environment beside the one that runs, which has to pass its
own self-test; activating it writes down a trial and ends this process; and the process that comes
next is the new release, or, when the starter gave it up, the old one, which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from agent.release.environment import SPACE_BYTES, SPACE_FACTOR, Environments
from agent.release.home import Fetched, Home, Ready, Trial
from agent.system.clock import Clock
from agent.system.filesystem import is_full
from agent.system.log import logger
from agent.telemetry.gauges import available_memory
from agent.update import machine
from agent.update.download import Downloader, Progress
from agent.update.fetch import Fetcher
from agent.update.health import Health, verdict
from agent.update.ledger import Ledger
from agent.update.machine import Update
from agent.update.obtain import Trusted
from agent.update.store import Store
from contracts import __version__, limits, program, release
from contracts.errors import ErrorInfo, RefusedError, UnavailableError
from contracts.manifest import FileEntry
from contracts.messages import SlotReport
from contracts.progress import megabytes

log = logger(__name__)

CONNECT_S: Final = 120.0
"""Seconds within which a release on trial has to reach the broker."""

MARGIN_S: Final = 60.0
"""Seconds beyond that and the trial after which the starter gives it up."""

DELTA_BYTES: Final = 64 * limits.MIB
"""Bytes of an archive that may come as a delta: two of them are held in memory meanwhile."""

LOOK_S: Final = 0.5
"""Seconds between two looks at a trial."""


NO_STARTER: Final = (
    "this agent was not started by a starter, which would go back to the old program if a new one "
    "failed: install it with the command that `shoal fleet enroll` prints"
)


class Own(msgspec.Struct, kw_only=True):
    """What a device needs to replace its own program.

    Attributes:
        version: of the agent that runs.
        home: of the releases; None: the device cannot replace its program.
        environments: makes and tries them.
        fixed: why it cannot.
        restart: ends this process for the next one.
        connected: whether there is a connection to the broker.
    """

    version: str = __version__
    home: Home | None = None
    environments: Environments | None = None
    fixed: str = NO_STARTER
    restart: Callable[[], None] = lambda: None
    connected: Callable[[], bool] = lambda: False

    def facts(self) -> dict[str, str]:
        """For `platform` of the reported document: which archives it takes, or why none."""
        if self.home is None or self.environments is None:
            return {program.FIXED: self.fixed}
        return {program.TAG: "-".join(self.environments.target)}


class Program:
    """The updates of one device's own program. For one thread.

    Args:
        own: what it has for them.
        ledger: the running update.
        trust: signed targets.
        fetcher: their bytes.
        health: observations of a trial.
        clock: the time.
        slots: what the other slots have.
        progressed: told how far a download is; raises when it may not go on.
    """

    def __init__(
        self,
        own: Own,
        *,
        ledger: Ledger,
        trust: Trusted,
        fetcher: Fetcher,
        health: Health,
        clock: Clock,
        slots: Callable[[], dict[str, SlotReport]],
        progressed: Callable[[Progress, int], None],
    ) -> None:
        self._own = own
        self._ledger = ledger
        self._trust = trust
        self._fetcher = fetcher
        self._health = health
        self._clock = clock
        self._slots = slots
        self._progressed = progressed
        self._began: float | None = None
        self.restarting = False

    def reports(self) -> dict[str, SlotReport]:
        """The slot of the program, on a device that can replace it."""
        if self._own.home is None:
            return {}
        update = self._ledger.journal.update
        trial = update is not None and update.state == "trial" and _ours(update)
        return {program.SLOT: SlotReport(program.ref(self._own.version), trial=trial)}

    # A start. ------------------------------------------------------------------------------

    def recover(self, update: Update) -> None:
        """After a start: what the starter did about the running update.

        Raises:
            OSError: the disk refuses.
        """
        home = self._own.home
        if home is None or update.state not in ("self-tested", "trial"):
            return
        name = update.bundle.manifest_sha256
        if home.running == name:
            if update.state == "self-tested":  # the power failed before that was written down
                self._ledger.apply(machine.Activated())
            return
        failed = home.failed()
        if failed is not None and failed.release == name:
            self._ledger.apply(machine.Failed(failed.reason))
        elif update.state == "trial":
            reason = ErrorInfo("release-missing", "the new release was not started", {})
            self._ledger.apply(machine.Failed(reason))

    # Steps. --------------------------------------------------------------------------------

    def act(self, update: Update) -> float | None:
        """Does what the update's state asks for; returns the seconds until the next step.

        Raises:
            ShoalError: it cannot be done, or not now.
            OSError: the disk refuses.
        """
        if self.restarting:
            return None
        home, environments = self._own.home, self._own.environments
        if home is None or environments is None:
            raise RefusedError("program-fixed", self._own.fixed)
        if update.mode != "active":
            raise RefusedError("not-a-model", f"{update.bundle} cannot run beside another release")
        match machine.action(update):
            case "download":
                self._download(home, environments, update)
            case "check-fit":
                # Its name was asked for: it is for this platform and Python.
                self._ledger.apply(machine.Fitted())
            case "self-test":
                self._build(home, environments, update)
            case "activate":
                self._activate(home, update)
            case "watch-trial":
                return self._watch(home, update)
            case "restore":
                self._restore(home, update)
        return None if self.restarting else 0.0

    def _download(self, home: Home, environments: Environments, update: Update) -> None:
        if update.state == "desired":
            self._ledger.apply(machine.Began())
        name = update.bundle.manifest_sha256
        home.prepare()
        home.forget(name)
        target = release.target(update.bundle.version, *environments.target)
        signed = self._trust.signed(target)
        before = home.ready(home.running) if home.running else None
        home.drop_archives({signed.sha256, before.sha256 if before else ""})
        ready = home.ready(name)
        if ready is not None and ready.sha256 == signed.sha256:
            self._ledger.apply(machine.Downloaded(signed.size))
            return
        for unneeded in home.unneeded(name):
            environments.remove(home.folder(unneeded))
        if home.running == name:
            raise RefusedError("wrong-release", f"{update.bundle} runs, from another archive")
        store = Store(home.fs, home.path)
        entry = FileEntry(target.rpartition("/")[2], signed.sha256, signed.size)
        if store.has_blob(entry) and home.fs.digest(home.blob(signed.sha256)) != signed.sha256:
            home.fs.remove(home.blob(signed.sha256))
        self._check_room(home, store, entry)
        old = None
        if before is not None and (size := home.fs.size(home.blob(before.sha256))):
            old = FileEntry(entry.path, before.sha256, size)

        def check(progress: Progress) -> None:
            self._progressed(progress, signed.size)

        downloader = Downloader(
            store,
            self._fetcher,
            check,
            delta_bytes=min(DELTA_BYTES, available_memory() // 4),
            monotonic=self._clock.monotonic,
        )
        try:
            downloader.file(entry, old, Progress())
            home.note(Fetched(name, signed.sha256, signed.size))
        except OSError as error:
            if is_full(error):
                raise self._full(home, store, entry) from None
            raise
        self._ledger.apply(machine.Downloaded(signed.size))

    def _build(self, home: Home, environments: Environments, update: Update) -> None:
        name = update.bundle.manifest_sha256
        version, serves = update.bundle.version, self._serves()
        if home.ready(name) is None:
            fetched = home.fetched()
            if fetched is None or fetched.release != name:
                raise RefusedError("release-missing", "its archive is no longer on the disk")
            # Before each try: one that fills the disk to find out writes as much each time.
            entry = FileEntry("archive", fetched.sha256, fetched.size)
            self._check_room(home, Store(home.fs, home.path), entry)
            try:
                environments.build(home.blob(fetched.sha256), home.folder(name), version)
                home.finish(name, Ready(version, fetched.sha256))
            except OSError as error:
                environments.remove(home.folder(name))
                if is_full(error):
                    raise UnavailableError(
                        "disk-full",
                        "the disk is full: the release's environment needs more room: make room "
                        "on the device",
                    ) from None
                raise
        try:
            environments.selftest(home.folder(name), version, serves)
        except RefusedError:
            if name not in (home.running, home.current):
                environments.remove(home.folder(name))
            raise
        self._ledger.apply(machine.SelfTested(1.0))

    def _activate(self, home: Home, update: Update) -> None:
        """Writes down the trial, and ends this process: the starter takes the new release."""
        name, rules = update.bundle.manifest_sha256, update.trial
        if home.running == name:  # it is there already: nothing to try
            self._ledger.apply(machine.Activated())
            return
        home.try_next(
            Trial(
                name,
                update.bundle.version,
                0,
                rules.max_restarts,
                rules.seconds + CONNECT_S + MARGIN_S,
                self._serves(),
            )
        )
        self._ledger.apply(machine.Activated())
        self._restart()

    def _serves(self) -> list[str]:
        """Slots whose models serve."""
        return [slot for slot, report in self._slots().items() if report.active is not None]

    def _restart(self) -> None:
        self.restarting = True
        self._own.restart()

    def _watch(self, home: Home, update: Update) -> float:
        """Ends a trial that is over or broke a rule; seconds until the next look."""
        name = update.bundle.manifest_sha256
        if home.running != name:
            reason = ErrorInfo("release-missing", "the new release does not run", {})
            self._ledger.apply(machine.Failed(reason))
            return 0.0
        now = self._clock.monotonic()
        if self._began is None:
            self._began = now
            self._health.begin_trial(program.SLOT)
        trial = home.trial()
        left = self._began + update.trial.seconds - now
        wanting = self._wanting(trial.serves if trial else [])
        broken = verdict(update.trial, self._health.trial(program.SLOT))
        if broken is None and wanting is not None and left < -CONNECT_S:
            broken = wanting
        if broken is not None:
            self._ledger.apply(machine.Failed(broken))
            return 0.0
        if left > 0 or wanting is not None:
            return min(LOOK_S, left) if left > 0 else LOOK_S
        home.commit(name)
        self._ledger.apply(machine.TrialPassed())
        return 0.0

    def _wanting(self, served: Sequence[str]) -> ErrorInfo | None:
        """What a release on trial still owes; None: nothing."""
        if not self._own.connected():
            return ErrorInfo(
                "trial-offline",
                f"the new release has no connection to the broker {CONNECT_S:.0f} s after its "
                "trial should have ended",
                {},
            )
        slots = self._slots()
        silent = [slot for slot in served if slot in slots and not slots[slot].active]
        if silent:
            why = f"the new release does not serve {', '.join(silent)}, which the old one did"
            return ErrorInfo("trial-models", why, {})
        return None

    def _restore(self, home: Home, update: Update) -> None:
        """Goes back to what is current, by another start if the new release runs."""
        name = update.bundle.manifest_sha256
        trial = home.trial()
        if trial is not None and trial.release == name:
            home.withdraw()
        home.go_back(name)
        if home.running == name:
            self._restart()
            return
        self._ledger.apply(machine.Restored())

    # Space. --------------------------------------------------------------------------------

    def _check_room(self, home: Home, store: Store, entry: FileEntry) -> None:
        if home.fs.free_bytes(home.path) < _needs(store, entry):
            raise self._full(home, store, entry)

    def _full(self, home: Home, store: Store, entry: FileEntry) -> UnavailableError:
        needs, free = _needs(store, entry), home.fs.free_bytes(home.path)
        return UnavailableError(
            "disk-full",
            f"the disk is full: the release needs {megabytes(needs)}, {megabytes(free)} are free: "
            "make room on the device",
            needs_bytes=needs,
            free_bytes=free,
        )


def _needs(store: Store, entry: FileEntry) -> int:
    there = entry.size if store.has_blob(entry) else store.partial_size(entry.sha256)
    return entry.size * SPACE_FACTOR + SPACE_BYTES - there


def _ours(update: Update) -> bool:
    return program.is_program(update.slot, update.bundle)


__all__ = ["Own", "Program"]
