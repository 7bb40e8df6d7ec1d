"""What a device and its controller say without being asked, in JSON, and the words of all messages.

Requests are in :mod:`contracts.requests`, answers in :mod:`contracts.answers`, what is wanted of
a device in :mod:`contracts.desired`; `docs/protocol.md` describes all in prose. Times are seconds
since the Unix epoch by the sender's clock; durations carry their unit in their name. Unknown
fields are ignored, so that a newer sender can talk to an older receiver; unknown enum values are
refused.

Over 400 lines: one vocabulary, which a reader finds in one place.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from contracts import limits
from contracts.errors import ErrorInfo
from contracts.histogram import Histogram
from contracts.judged import Judged

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_WHOLE)]
Before = Annotated[int, msgspec.Meta(ge=-1)]
"""The number of a message before another one; -1: there is none."""
Text = Annotated[str, msgspec.Meta(max_length=limits.MAX_TEXT_BYTES)]
Label = Annotated[str, msgspec.Meta(max_length=limits.MAX_LABEL_CHARS)]
DeviceLabels = Annotated[
    dict[Name, Annotated[str, msgspec.Meta(max_length=64)]],
    msgspec.Meta(max_length=limits.MAX_DEVICE_LABELS),
]


class BundleRef(msgspec.Struct, frozen=True):
    """One version of one bundle, pinned by the sha256 of its manifest."""

    name: Name
    version: Version
    manifest_sha256: Sha256

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


# Device state -------------------------------------------------------------------------------


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """``status`` (retained, and the will).

    `session` grows with every connection of a device, over restarts too: a reader drops a
    status whose session is lower than the highest it has seen. A device counts on from its last
    session or, where its clock is set and that is more, from the milliseconds since the Unix
    epoch: so it is heard again when it lost its count. The highest is 2**53 - 1, where it stays.

    Attributes:
        state: of the connection.
        boot: the device's boot id.
        session: number of the connection.
        since: when it was made.
        address: of the device on its own side of the connection, where it is known.
        certificate: SHA-256 of the client certificate (DER) that the connection was made with.
        takeovers: how often another client with the same identity took the session of this boot.
    """

    state: Literal["online", "offline"]
    boot: Name
    session: Count
    since: float
    address: Annotated[str, msgspec.Meta(max_length=64)] = ""
    certificate: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    takeovers: Count = 0


UpdateState = Literal[
    "downloading",
    "verified",
    "fits",
    "self-tested",
    "trial",
    "committed",
    "rolled-back",
    "refused",
]
"""``rolled-back``: it was active and no longer is. ``refused``: it was never activated."""

FINAL_UPDATE_STATES: frozenset[str] = frozenset({"committed", "rolled-back", "refused"})


class UpdateEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """``update``: one state change of one update. Also kept as `last_update` in `Reported`.

    Attributes:
        boot: the device's boot id.
        seq: grows by one with every event of a device and never restarts. Not every event is
            sent: a device without a connection keeps what is new, not each step of a progress.
        revision: the desired revision that asked for it.
        slot: which of the device's models it replaces.
        state: where the update is now.
        at: when it got there.
        rollout: the rollout that asked for it.
        done_bytes: bytes on disk.
        total_bytes: bytes of the bundle.
        reason: why it was refused or rolled back, or why it waits.
        golden_accuracy: share of golden vectors that held, once self-tested.
        bytes_per_s: that the link gave lately, while it downloads; 0: not known.
        after: see `Telemetry`.
    """

    boot: Name
    seq: Count
    revision: Count
    slot: Name
    bundle: BundleRef
    state: UpdateState
    at: float
    rollout: str | None = None
    done_bytes: Count = 0
    total_bytes: Count = 0
    reason: ErrorInfo | None = None
    golden_accuracy: float | None = None
    bytes_per_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    after: Before | None = None


class Lesson(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device was taught beside its model; none of its examples can be read.

    Attributes:
        name: by which it is taken back.
        label: that its examples have; the model may know it, or not.
        examples: how many.
        at: when it was taught, by the device's clock.
        bundle: the model that it belongs to.
        serves: that model serves. If not, the lesson does not answer; it does again if its model
            comes back.
        by: who taught it, by their own word.
    """

    name: Name
    label: Label
    examples: Count
    at: float
    bundle: BundleRef
    serves: bool = True
    by: Annotated[str, msgspec.Meta(max_length=64)] = ""


Lessons = Annotated[list[Lesson], msgspec.Meta(max_length=limits.MAX_LESSONS)]


class Acceleration(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of trying an accelerator with a slot's bundle.

    Attributes:
        name: ``gpu``, ``npu``, or the file name of a delegate's library.
        used: it serves; else the processor does.
        speedup: the processor's time over the accelerator's; 0: not measured.
        max_steps: the largest difference between an int8 output and the golden one.
        reason: why it does not serve.
    """

    name: Annotated[str, msgspec.Meta(max_length=limits.MAX_ID_CHARS)]
    used: bool = False
    speedup: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_steps: Count = 0
    reason: ErrorInfo | None = None

    def words(self) -> str:
        """A line for people."""
        if self.used:
            return f"{self.name}: {self.speedup:.2g} times as fast as the processor"
        why = self.reason.message if self.reason is not None else "not said why"
        return f"not used, the processor serves: {self.name}: {why}"


class SlotReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one slot of a device runs.

    Attributes:
        active: the bundle that serves; none while `problem` says why the slot serves nothing.
        previous: the one before it, which is still on the device.
        shadow: the bundle that answers beside it.
        trial: `active` is on trial.
        problem: why the bundle that should serve does not.
        taught: lessons of this slot.
        acceleration: what came of an accelerator; none: the device's owner asked for none.
    """

    active: BundleRef | None = None
    previous: BundleRef | None = None
    shadow: BundleRef | None = None
    trial: bool = False
    problem: ErrorInfo | None = None
    taught: Lessons = []
    acceleration: Acceleration | None = None


class Wait(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device waits for, or does without.

    Attributes:
        reason: why: ``disk-full``, ``clock-wrong``, ``repository-unreachable``, ``freeze`` and
            ``expired`` (signatures), ``window-closed``, ``time-unknown`` (a window cannot be told
            without the controller's time), ``telemetry-in-memory``, ``not-allowed`` (by the
            broker), or another code.
        since: since when, by the device's clock.
        slot: whose update waits; empty: the whole device.
        blocks: nothing gets on meanwhile; false: the device does without, and all else goes on.
    """

    reason: ErrorInfo
    since: float
    slot: Annotated[str, msgspec.Meta(max_length=limits.MAX_ID_CHARS)] = ""
    blocks: bool = True


class Reported(msgspec.Struct, frozen=True, omit_defaults=True):
    """``reported`` (retained): what a device is and has, by its own word.

    Attributes:
        at: when it was said.
        labels, groups: nobody checks them: a selector asks for them as ``own:KEY``.
        desired_revision: the newest revision whose every slot has ended, one way or the other.
        desired_fence: the fence of the newest document that was accepted.
        last_update: the newest event of an update, also how far a download is.
        clock: ``unsynced``: the device's clock was never set.
        waits: what keeps it from getting on, or what it does without; nothing: it gets on.
        clock_offset_s: seconds that its clock was ahead of the controller's when it last heard it.
    """

    device: Name
    boot: Name
    agent_version: str
    board: Name
    runtime: str
    at: float
    labels: DeviceLabels = {}
    groups: list[Name] = []
    slots: dict[Name, SlotReport] = {}
    desired_revision: Count = 0
    last_update: UpdateEvent | None = None
    free_bytes: Count = 0
    memory_bytes: Count = 0
    clock: Literal["synced", "unsynced"] = "synced"
    platform: dict[str, str] = {}
    waits: Annotated[list[Wait], msgspec.Meta(max_length=limits.MAX_WAITS)] = []
    clock_offset_s: float | None = None
    desired_fence: Whole = 0


# Telemetry ------------------------------------------------------------------------------------


class Sample(msgspec.Struct, omit_defaults=True):
    """What one slot of a device did in one window of time. All counters are for the window.

    Attributes:
        at: end of the window.
        window_s: its length.
        slot, bundle: which model.
        requests, errors, busy: counts; `busy` was refused for a full queue.
        unknown: answers below the out-of-scope threshold.
        latency_us: model and front end, microseconds (``log8``).
        confidence: of the answers (``unit20``).
        labels: answers by label; an answer with several counts under each of them, so that they
            may add up to more than there are answers.
        tokens: tokens generated.
        shadow_requests, shadow_disagreements: shadow mode.
        drift: distance of this window's labels from the manifest's baseline, 0 to 1.
        judged: what people said of answers, in this window, whenever those were given.
        gauges: process and board facts at the end of the window, by name with unit
            (``rss_bytes``, ``cpu_ratio``, ``temperature_c``, ``queue``, ``spool_bytes``, ...).
    """

    at: float
    window_s: float
    slot: Name = "device"
    bundle: BundleRef | None = None
    requests: Count = 0
    errors: Count = 0
    busy: Count = 0
    unknown: Count = 0
    latency_us: Histogram | None = None
    confidence: Histogram | None = None
    labels: dict[Label, Count] = {}
    tokens: Count = 0
    shadow_requests: Count = 0
    shadow_disagreements: Count = 0
    drift: float | None = None
    judged: Judged | None = None
    gauges: dict[str, float] = {}


class Telemetry(msgspec.Struct, frozen=True, omit_defaults=True):
    """``telemetry``: a batch. ``(device, boot, seq)`` is unique: a reader counts it once.

    Attributes:
        boot: the boot in which it was measured.
        seq: grows by one with every batch of a boot.
        samples: what was measured.
        dropped: batches dropped on the device since the one before, as agents without `drops`
            count them.
        drops: what the device dropped and has not told before, by place (``spool-full``,
            ``source-line``, ...): samples, results, events and lines. What tells of it and is
            dropped itself is told again: each is told exactly once.
        after: what has a number between this one and `seq` does not exist, or not any more; -1:
            nothing below `seq`. Not given where that is `seq` - 1 and was acknowledged, or sent
            before this.
    """

    boot: Name
    seq: Count
    samples: Annotated[list[Sample], msgspec.Meta(max_length=limits.MAX_TELEMETRY_SAMPLES)]
    dropped: Count = 0
    drops: Annotated[dict[Name, Count], msgspec.Meta(max_length=limits.MAX_DROP_PLACES)] = {}
    after: Before | None = None


class Scored(msgspec.Struct, frozen=True):
    """A label and its calibrated confidence, 0 to 1."""

    label: Label
    confidence: float


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """``result``: the output for one line of a local source. `text` only if shared.

    `labels`: as in `Classified`, of a model that gives a text several labels.
    `boot`, `seq` and `after` number it, as in `Telemetry`; agents without ``ack`` do not.
    """

    source: Name
    at: float
    label: Label
    confidence: float
    bundle: BundleRef
    text: str | None = None
    boot: Name | None = None
    seq: Count | None = None
    after: Before | None = None
    labels: Annotated[list[Scored], msgspec.Meta(max_length=limits.MAX_SAID)] | None = None


Acknowledged = Literal["telemetry", "update", "result"]
"""Kinds of messages that the controller acknowledges: they are numbered, apart from each other."""

Range = tuple[Count, Count]
"""First and last of a range of numbers."""


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """``ack``: what the controller has committed, or refused for good, of one kind and boot.

    Everything that it covers may be forgotten by the device; nothing else may.

    Attributes:
        boot: of the messages.
        seq: everything up to this number; -1: nothing, as of a boot that the controller does not
            know. The device then says where it begins: it sends its first again, with `after`.
        kind: of the messages.
        ahead: what is there beyond a gap.
        wait_s: the device has used up what it may send today: it waits so long before it sends
            more.
        reason: why it has to wait.
    """

    boot: Name
    seq: Before
    kind: Acknowledged = "telemetry"
    ahead: Annotated[list[Range], msgspec.Meta(max_length=limits.MAX_ACK_RANGES)] = []
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=24 * 3600)] = 0.0
    reason: ErrorInfo | None = None

    def covers(self, seq: int) -> bool:
        """Whether a number is covered."""
        return seq <= self.seq or any(first <= seq <= last for first, last in self.ahead)


LeaveReason = Literal["revoked", "retired", "renamed", "replaced"]


class Leave(msgspec.Struct, frozen=True, omit_defaults=True):
    """``req/leave``: the controller's last word to a device.

    Its certificate counts no more, or will in a moment. The device says so, and connects only
    now and then.

    Attributes:
        reason: why.
        message: for people.
        id: the device answers on ``res/{id}`` as soon as it has read this, with no result: its
            connection is ended then, and what it has not read is lost with it. None: it does
            not answer.
    """

    reason: LeaveReason
    message: Annotated[str, msgspec.Meta(max_length=limits.MAX_REASON_CHARS)] = ""
    id: Name | None = None
