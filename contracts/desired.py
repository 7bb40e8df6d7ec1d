"""What the controller wants of a device, and which controller may want it.

The messages ``desired`` and ``owner`` of protocol v1. What a device says is in
:mod:`contracts.messages`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from contracts import limits
from contracts.messages import BundleRef, Count, Name, Whole


class TrialRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a device commits a new bundle, and when it rolls back by itself.

    Attributes:
        seconds: how long the trial lasts.
        max_error_rate: errors / requests above which it rolls back.
        min_requests: requests before the error rate and latency count.
        max_latency_p95_us: p95 of the inference above which it rolls back; None: no limit.
        max_restarts: restarts of the agent within the trial that roll back.
        max_rss_bytes: resident memory above which it rolls back; None: no limit.
    """

    seconds: Annotated[float, msgspec.Meta(ge=0, le=7 * 24 * 3600)] = 30.0
    max_error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    min_requests: Count = 20
    max_latency_p95_us: float | None = None
    max_restarts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    max_rss_bytes: Count | None = None


_Minute = Annotated[int, msgspec.Meta(ge=0, le=1439)]


_Offset = Annotated[int, msgspec.Meta(ge=-86400, le=86400)]


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recurring span of time in which a device may let another bundle serve.

    It holds for ever and needs no database of time zones: `offsets` say when the zone changes.

    Attributes:
        start, end: minutes after midnight, local time. An end that is not after the start is on
            the next day.
        days: on which it starts; 0: Monday.
        offsets: ``[from, seconds]``: seconds east of UTC from a moment (seconds since the epoch)
            on. Before the first it is the first; without any it is UTC.
    """

    start: _Minute
    end: _Minute
    days: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0, le=6)]], msgspec.Meta(min_length=1, max_length=7)
    ]
    offsets: Annotated[
        list[tuple[Whole, _Offset]], msgspec.Meta(max_length=limits.MAX_ZONE_CHANGES)
    ] = []


class DesiredBundle(msgspec.Struct, frozen=True, omit_defaults=True):
    """One slot of ``desired``.

    Attributes:
        bundle: which.
        mode: ``active``: it answers; ``shadow``: it answers beside the active one, unseen.
        trial: when the device keeps it.
        beside: with ``shadow``: the bundle that has to be active; none: whatever is stays.
        kept: nobody gave it: the device said that it has it, and may keep it.
        windows: when it may be activated, by the controller's time; none: at any time. It is
            downloaded and tested before. A trial that began may end, and a rollback and an
            emptied slot wait for nothing.
    """

    bundle: BundleRef
    mode: Literal["active", "shadow"] = "active"
    trial: TrialRules = TrialRules()
    beside: BundleRef | None = None
    kept: bool = False
    windows: Annotated[list[Window], msgspec.Meta(max_length=limits.MAX_WINDOWS)] = []

    @property
    def active(self) -> BundleRef | None:
        """The bundle that has to be active; none: whatever is stays."""
        return self.bundle if self.mode == "active" else self.beside

    @property
    def shadow(self) -> BundleRef | None:
        """The bundle that has to answer beside it."""
        return self.bundle if self.mode == "shadow" else None


DESIRED_REFUSALS: frozenset[str] = frozenset(
    {"old-fence", "fence-jump", "old-revision", "revision-jump", "other-content", "bad-desired"}
)
"""Codes of waits: a desired document was refused."""


class Desired(msgspec.Struct, frozen=True, omit_defaults=True):
    """``desired`` (retained): what the controller wants of a device.

    It is all that is wanted: a device empties every slot that `slots` does not name.
    `revision` only grows below one `fence`; a higher fence begins it anew.

    Attributes:
        fence: grows with every controller that becomes the fleet's owner (:class:`Owner`); a
            device refuses a document with a lower one than it has seen. 0: of a controller that
            has none.
        groups: whose requests the device answers, in place of those of its configuration. None:
            those of its configuration.

    A device refuses what is above the last that it accepted by more than `MAX_REVISION_STEP`,
    or `MAX_FENCE_STEP` (``contracts/limits.py``): one document must not shut out all later ones.
    It says so in its `waits`, by the codes ``old-fence``, ``fence-jump``, ``old-revision``,
    ``revision-jump`` and ``other-content`` (under a revision that was used), with `fence`,
    `revision`, `known_fence` and `known_revision` in the detail. Then the owner sends its
    document again, above what the device holds.
    """

    revision: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_WHOLE)]
    slots: dict[Name, DesiredBundle] = {}
    settings: dict[str, Any] = {}
    rollout: str | None = None
    at: float = 0.0
    fence: Whole = 0
    groups: Annotated[list[Name], msgspec.Meta(max_length=64)] | None = None


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest version that is published for one slot of a device.

    Attributes:
        bundle: of the bundle that the slot runs, for the device's board, and of no version whose
            newest rollout was stopped; what it runs where nothing newer is.
        note: why it was not installed when somebody asked for it.
    """

    bundle: BundleRef
    note: Annotated[str, msgspec.Meta(max_length=limits.MAX_REASON_CHARS)] = ""


class Offered(msgspec.Struct, frozen=True):
    """``offered`` (retained): what is published for a device, for those who look after it.

    Only in fleets with ``home_assistant: true``. Its device does not read it.
    """

    slots: dict[Name, Offer]


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """``owner`` (retained, and the will): which controller has the fleet. Devices cannot read it.

    A controller sends nothing before its own document stands here; one whose database is another
    stands back before it.

    Attributes:
        database: which database: made with it, and anew by a restore.
        fence: grows with every owner: the seconds since the epoch when it took the fleet, or one
            more than the last fence that it knew of, whichever is higher.
        instance: which process; another on the same database may take over from it.
        host: where it runs, for people.
        since: when it took the fleet.
        state: of its connection.
    """

    database: Name
    fence: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    instance: Name
    host: Annotated[str, msgspec.Meta(max_length=256)]
    since: float
    state: Literal["online", "offline"]
