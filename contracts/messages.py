"""Every JSON message of protocol v1, as a msgspec Struct.

`docs/protocol.md` describes the same in prose. Times are seconds since the Unix epoch by the
sender's clock; durations carry their unit in their name. Unknown fields are ignored, so that
a newer sender can talk to an older receiver; unknown enum values are refused.

Over 400 lines: a list of messages without logic, in the order of docs/protocol.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

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


class SlotReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one slot of a device runs.

    Attributes:
        active: the bundle that serves; none while `problem` says why the slot serves nothing.
        previous: the one before it, which is still on the device.
        shadow: the bundle that answers beside it.
        trial: `active` is on trial.
        problem: why the bundle that should serve does not.
        taught: lessons of this slot.
    """

    active: BundleRef | None = None
    previous: BundleRef | None = None
    shadow: BundleRef | None = None
    trial: bool = False
    problem: ErrorInfo | None = None
    taught: Lessons = []


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


LeaveReason = Literal["revoked", "retired", "renamed"]


class Leave(msgspec.Struct, frozen=True, omit_defaults=True):
    """``req/leave``: the controller's last word to a device; it is not answered.

    Its certificate counts no more, or will in a moment. The device says so, and connects only
    now and then.

    Attributes:
        reason: why.
        message: for people.
    """

    reason: LeaveReason
    message: Annotated[str, msgspec.Meta(max_length=limits.MAX_REASON_CHARS)] = ""


# Requests and answers ---------------------------------------------------------------------------

Deadline = Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_DEADLINE_MS)]


class Request(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields of every request.

    The id, the reply topic and the deadline may also come as MQTT 5 properties (correlation
    data, response topic, message expiry); a field wins over a property. The same request sent
    again while it waits or runs is answered once; another request under its id is refused as
    ``id-in-use``.
    """

    id: Name | None = None
    reply_to: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    deadline_ms: Deadline | None = None
    requester: Annotated[str, msgspec.Meta(max_length=64)] = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5


class ClassifyRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/classify``."""

    text: Text
    slot: Name = "classify"
    top_k: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3


class EmbedRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/embed``: the text as a vector, by a bundle whose model is a sentence encoder."""

    text: Text
    slot: Name = "classify"


ToolName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model may call: `parameters` is the JSON schema of an object; empty: it takes none."""

    name: ToolName
    description: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    parameters: dict[str, Any] = {}


class ToolCall(msgspec.Struct, frozen=True):
    """A call that a model asks for: `arguments` is the text of a JSON object."""

    id: Annotated[str, msgspec.Meta(max_length=64)]
    name: ToolName
    arguments: Text


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat.

    `tool_calls`: of an assistant's turn. `tool_call_id`: of the call that a turn of the role
    ``tool`` has the result of.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: Text
    tool_calls: Annotated[list[ToolCall], msgspec.Meta(max_length=16)] = []
    tool_call_id: Annotated[str, msgspec.Meta(max_length=64)] = ""


MAX_LOGIT_BIASES: Final = 300
"""Tokens with a bias in one request."""


class GenerateRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/generate``: either `prompt` (as it is) or `messages` (through the chat template).

    `tools` go with `messages`. With `tool_choice` ``required`` the answer is a call; with
    ``none`` the model does not see them. With `min_confidence` an answer comes in one piece, and
    only if the model was that sure of it (:attr:`Generated.confidence`); 0 asks for the figure
    alone.

    `adapter`: the slot or the name of an adapter of the slot's bundle, which answers in its place.
    """

    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], msgspec.Meta(max_length=256)] | None = None
    slot: Name = "generate"
    adapter: Name | None = None
    session: Name | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_GENERATE_TOKENS)] = 256
    max_time_ms: Deadline | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        dict[
            Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,7}$")],
            Annotated[float, msgspec.Meta(ge=-100, le=100)],
        ],
        msgspec.Meta(max_length=MAX_LOGIT_BIASES),
    ] = {}
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=256)]],
        msgspec.Meta(max_length=16),
    ] = []
    json_schema: dict[str, Any] | None = None
    regex: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    min_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    stream: bool = True
    tools: Annotated[list[Tool], msgspec.Meta(max_length=64)] = []
    tool_choice: Literal["auto", "none", "required"] = "auto"
    parallel_tool_calls: bool = True


class CancelRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/cancel``: stop the request with id `cancel`.

    The id is all it takes: whoever may write to a device's ``req`` may cancel what it does.
    """

    cancel: Name


class SelftestRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/selftest``: replay the golden vectors of the active bundle of `slot`."""

    slot: Name = "classify"


class FeedbackRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/feedback``: what somebody says of an answer of this device. Only counts are kept.

    Exactly one of `right`, `label`, `labels` and `text`. An answer is judged once: the same said
    again changes nothing, another verdict is refused as ``already-judged``.

    Attributes:
        answer: the id of the request that was answered; of a result of a local source its
            `boot`, a dot, and its `seq`.
        right: whether the answer is right.
        label: the right label; the answer may have it.
        labels: the right labels, all of them, of an answer that may have several; none: it has
            none.
        text: the right completion, of a generator; it is compared, and forgotten.
        sampled: the answer was picked to be judged before anybody looked whether it is right.
    """

    answer: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    right: bool | None = None
    label: Label | None = None
    text: Text | None = None
    sampled: bool = False
    labels: Annotated[list[Label], msgspec.Meta(max_length=limits.MAX_SAID)] | None = None


SampleId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


class SamplesRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/samples``: hard examples of one model, where their owner consents. Never queued.

    A device answers with at most `MAX_SAMPLES_BYTES` of text; the same request again, with `kept`,
    brings the next ones. What is not said to be kept is sent again with the next request.

    Attributes:
        ask: what is asked for: the owner approves it, once, by this name.
        model: the name of the bundle that gave the answers.
        most: how many, over all requests with this `ask`.
        kept: samples that are stored: the device sends them never again.
        why: for the owner.
    """

    ask: Name
    model: Name
    most: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_SAMPLES)] = 50
    kept: Annotated[list[SampleId], msgspec.Meta(max_length=limits.MAX_SAMPLES)] = []
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""


class TeachRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/teach``: a label from a few examples, until the next version of the model.

    Of the examples the device keeps features alone, for the model that serves now.

    Attributes:
        action: ``add`` a lesson, ``undo`` it, or ``list`` what there is.
        lesson: its name; the same lesson again changes nothing, another of its name is refused.
        label: of all `texts`; one of the model's, or a new one.
        model: name of the bundle that is meant; where another one serves it is refused.
    """

    slot: Name = "classify"
    action: Literal["add", "undo", "list"] = "add"
    lesson: Name | None = None
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_LABEL_CHARS)] | None = (
        None
    )
    texts: Annotated[list[Text], msgspec.Meta(max_length=limits.MAX_LESSON_TEXTS)] = []
    model: Name | None = None


class StatusRequest(Request, frozen=True, omit_defaults=True, kw_only=True):
    """``req/status``: answer with the reported document."""


class Classified(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``classify``.

    Attributes:
        label: the best label, or ``unknown`` when below the bundle's threshold.
        confidence: calibrated, of the best label.
        top: the best labels, best first.
        bundle: the model that answered.
        latency_us: front end and model on the device, microseconds.
        truncated: the text was longer than the model's window.
        best: the label that won, where `label` is ``unknown`` because it is below the threshold.
        taught: a lesson gave the label, not the model.
        labels: of a model that gives a text several labels: those that it gives, the surest
            first; `label` is the first of them, or ``unknown`` where there is none. Confidences
            then are each label's own and do not add up to 1. None: a text has one label.
    """

    label: Label
    confidence: float
    top: list[Scored]
    bundle: BundleRef
    latency_us: float
    truncated: bool = False
    best: Label | None = None
    taught: bool = False
    labels: Annotated[list[Scored], msgspec.Meta(max_length=limits.MAX_SAID)] | None = None

    @property
    def said(self) -> list[str]:
        """The labels that the answer gives: one, or several; ``unknown`` where it is none."""
        return [one.label for one in self.labels or []] or [self.label]

    @property
    def given(self) -> str | frozenset[str]:
        """The label; where a text may have several: all that were given, without ``unknown``."""
        return self.label if self.labels is None else frozenset(o.label for o in self.labels)

    @property
    def whole(self) -> str:
        """The answer as one name: equal where all labels are; several in their order, by ``+``."""
        return " + ".join(sorted(self.said))


class Embedded(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``embed``.

    Attributes:
        embedding: of length 1: the product of two is their cosine.
        bundle: the model that answered; vectors of different bundles cannot be compared.
        tokens: of the text.
        latency_us: front end and model on the device, microseconds.
        truncated: the text was longer than the model's window.
    """

    embedding: Annotated[list[float], msgspec.Meta(max_length=limits.MAX_EMBEDDING)]
    bundle: BundleRef
    tokens: Count
    latency_us: float
    truncated: bool = False


FinishReason = Literal["stop", "length", "time", "cancelled"]


class Generated(msgspec.Struct, frozen=True, omit_defaults=True):
    """The final message of ``generate``: totals. `text` is the whole output.

    `tokens_per_step`: of each run of the model; more than 1 where guesses stood. With `logprobs`
    in the request: `chosen` has each token that was taken, `logprobs` the most likely ones there.

    With `min_confidence`: `confidence` is the geometric mean of the probabilities of the tokens
    that were taken, the one that ended the answer among them (not calibrated). Below what was
    asked the answer is `unknown`: `text` is empty, and `best` is what would have been said.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: Count
    tokens: Count
    bundle: BundleRef
    first_token_ms: float = 0.0
    tokens_per_s: float = 0.0
    tokens_per_step: float = 0.0
    logprobs: list[list[tuple[str, float]]] = []
    chosen: list[tuple[str, float]] = []
    tool_calls: list[ToolCall] = []
    confidence: float | None = None
    unknown: bool = False
    best: str = ""


class Selftested(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``selftest``."""

    bundle: BundleRef
    vectors: Count
    passed: Count
    max_steps: Count
    runtime: str = ""


class Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``feedback``: the verdict counts.

    Attributes:
        bundle: the model that had answered.
        label: its label; ``(text)`` of a generator.
        right: whether it was right.
        again: the same was said before: it was counted then.
    """

    bundle: BundleRef
    label: Label
    right: bool
    again: bool = False


HardReason = Literal["low-confidence", "near-threshold", "shadow-disagrees", "corrected"]


class FieldSample(msgspec.Struct, frozen=True, omit_defaults=True):
    """A hard example that leaves its device.

    Attributes:
        id: of the text on its device; it tells nothing of the text.
        at: when it was last asked, on the device.
        text: redacted.
        label, confidence, bundle: what was answered, how sure, by which model.
        reasons: why it is hard.
        best: the label that won, where `label` is ``unknown``.
        meant: the right label, where somebody said it.
        times: how often it was asked.
    """

    id: SampleId
    at: float
    text: Annotated[str, msgspec.Meta(max_length=limits.MAX_SAMPLE_BYTES)]
    label: Label
    confidence: float
    bundle: BundleRef
    reasons: Annotated[list[HardReason], msgspec.Meta(max_length=4)]
    best: Label | None = None
    meant: Label | None = None
    times: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_WHOLE)] = 1


class Shared(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``samples``.

    Attributes:
        ask: that is answered.
        samples: the most telling first.
        more: how many are left for the next request.
        consent: who consented: ``configuration``, or ``owner``.
    """

    ask: Name
    samples: Annotated[list[FieldSample], msgspec.Meta(max_length=limits.MAX_SAMPLES)]
    more: Count = 0
    consent: Literal["configuration", "owner"] = "configuration"


class Taught(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``teach``: the lessons of the slot, and how long this one took to learn."""

    slot: Name
    lessons: Lessons
    took_ms: float = 0.0


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``res/{id}``: exactly one of the result fields, or a chunk, or an error.

    A stream is chunks with `seq` 0, 1, 2, ... and `done` false, then one with `done` true.
    """

    id: Name
    device: Name
    seq: Count = 0
    done: bool = True
    chunk: str | None = None
    classified: Classified | None = None
    generated: Generated | None = None
    embedded: Embedded | None = None
    selftested: Selftested | None = None
    reported: Reported | None = None
    cancelled: bool | None = None
    noted: Noted | None = None
    shared: Shared | None = None
    taught: Taught | None = None
    error: ErrorInfo | None = None


class BlobGet(msgspec.Struct, frozen=True):
    """``blob/get``: a range of a file of the repository, by its path there."""

    id: Name
    path: Annotated[str, msgspec.Meta(max_length=300)]
    offset: Count
    length: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_BLOCK_BYTES)]
