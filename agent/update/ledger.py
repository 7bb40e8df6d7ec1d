"""What is written down of updates, and told of them. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.system.clock import Clock
from agent.system.filesystem import FileSystem
from agent.system.log import logger
from agent.update import machine
from agent.update.journal import Journal, JournalFiles
from agent.update.machine import Settled, Update
from contracts.messages import UpdateEvent

log = logger(__name__)

PASSING: Final = frozenset(
    {"verified", "self-tested", "held", "committed", "refused", "rolled-back"}
)
"""States that the next step ends at once, or that it says more of: who is told what the device has,
is told then. Their events are sent all the same."""


class Ledger:
    """The journal of one device, and who is told what changes in it. For one thread.

    Args:
        fs: the disk.
        root: the state folder.
        clock: the time.
        boot: the boot id, for events.
        emit: sends an update event, durably.
        changed: told when what the device has or does has changed.

    Attributes:
        journal: as it is on disk.
        untold: something changed that `changed` was not called for.
        waste: an update ended: what it left may be removed.
    """

    def __init__(
        self,
        fs: FileSystem,
        root: Path,
        clock: Clock,
        boot: str,
        emit: Callable[[UpdateEvent], None],
        changed: Callable[[], None],
    ) -> None:
        self._files = JournalFiles(fs, root)
        self._clock = clock
        self._boot = boot
        self._emit = emit
        self._changed = changed
        self.journal = Journal()
        self.untold = False
        self.waste = False

    def load(self) -> None:
        """Reads the journal; raises ``OSError``."""
        self.journal = self._files.load()

    def save(self, new: Journal) -> None:
        """The journal on disk comes first: what is not written has not happened."""
        self._files.save(new)
        self.journal = new

    def apply(self, event: machine.Event, *, announce: bool = False) -> None:
        """Advances the running update, journals it, then tells the controller.

        Args:
            event: what happened.
            announce: tell it, though the state is the same.
        """
        before = self.journal.update
        assert before is not None
        after = machine.advance(before, event, self._clock.time())
        new = msgspec.structs.replace(self.journal, update=after)
        told = after.state not in ("desired", "rolling-back") and (
            announce or after.state != before.state
        )
        if told:
            new = self.with_event(new, after)
        if after.final and after.state != "committed":
            base = after.reason.detail.get(machine.BASE, "") if after.reason else ""
            settled = Settled(after.revision, after.bundle, after.mode, str(base))
            where = machine.place(after.slot, after.mode)
            new = msgspec.structs.replace(new, settled={**new.settled, where: settled})
        self.save(new)
        self.waste = self.waste or after.final
        _log(after)
        if told:
            self.send()
        self.untold = True
        if announce or (after.state != before.state and after.state not in PASSING):
            self.tell()

    def begin(self, new: Journal) -> None:
        """Journals it, and tells of the update that began with it."""
        began = new.event_seq > self.journal.event_seq
        self.save(new)
        if began and new.update is not None:
            _log(new.update)
            self.send()
            self.tell()

    def with_event(self, new: Journal, update: Update, bytes_per_s: float = 0.0) -> Journal:
        """A journal with an event of its update as the newest."""
        event = UpdateEvent(
            boot=self._boot,
            seq=new.event_seq,
            revision=update.revision,
            slot=update.slot,
            bundle=update.bundle,
            # The journal's other own states have no event.
            state="self-tested" if update.state == "held" else update.state,  # type: ignore[arg-type]
            at=update.at,
            rollout=update.rollout,
            done_bytes=update.done_bytes,
            total_bytes=update.total_bytes,
            reason=update.reason,
            golden_accuracy=update.golden_accuracy,
            bytes_per_s=bytes_per_s,
        )
        return msgspec.structs.replace(new, event_seq=new.event_seq + 1, last_event=event)

    def send(self) -> None:
        """Sends the newest event, if there is one."""
        if self.journal.last_event is not None:
            self._emit(self.journal.last_event)

    def tell(self) -> None:
        """What the device has or does has changed."""
        self.untold = False
        self._changed()


def _log(update: Update) -> None:
    log.info("update", state=update.state, bundle=str(update.bundle), slot=update.slot)
