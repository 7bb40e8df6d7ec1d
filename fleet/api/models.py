"""The documents of the API. The typed client reads the same types.

Over 400 lines: a list of documents without logic, in the order of the API's pages.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts import limits
from fleet.rollout.spec import NAME_PATTERN, RolloutSpec

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Labels = Annotated[
    dict[Name, Annotated[str, Field(max_length=64)]], Field(max_length=limits.MAX_DEVICE_LABELS)
]
Text = Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES)]


class Answer(BaseModel):
    """A document that the controller gives."""

    model_config = ConfigDict(extra="ignore")


class Given(BaseModel):
    """A document that a caller gives: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ErrorInfo(Answer):
    """The inside of the error shape."""

    code: str = Field(examples=["no-such-device"])
    message: str = Field(examples=["no device is called 'kitchen'"])
    detail: dict[str, Any] = {}


class Error(Answer):
    """The one error shape."""

    error: ErrorInfo


class Ref(Answer):
    """One version of one bundle."""

    name: str = Field(examples=["home-intents"])
    version: str = Field(examples=["1.2.0"])
    manifest_sha256: str


class SlotModel(Answer):
    """What one slot of a device runs, and what is wanted of it."""

    active: Ref | None = None
    previous: Ref | None = None
    shadow: Ref | None = None
    trial: bool = False
    problem: ErrorInfo | None = Field(None, description="why the slot serves nothing")
    desired: Ref | None = None
    desired_mode: str | None = None
    taught: list[dict[str, Any]] = Field([], description="lessons beside the model")


class WaitModel(Answer):
    """What a device waits for, or does without."""

    code: str = Field(examples=["disk-full"])
    message: str = Field(examples=["the disk is full: needs 135 MB, 21.0 MB are free"])
    slot: str = Field("", description="whose update waits; empty: the whole device")
    since: float | None = Field(None, description="null: nobody knows")


class UsageModel(Answer):
    """What a device stored today (UTC)."""

    messages: int = 0
    bytes: int = 0


class DeviceModel(Answer):
    """A device."""

    id: str = Field(examples=["kitchen"])
    board: str = Field(
        examples=["raspberry-pi-5"], description="from enrolment, else what the device reports"
    )
    labels: dict[str, str] = Field(
        examples=[{"site": "lyon"}],
        description="that enrolment and operators gave: what a selector means by a label",
    )
    groups: list[str] = Field([], description="that enrolment and operators gave")
    own_labels: dict[str, str] = Field(
        {}, description="that the device reports: what a selector means by `own:` and a label"
    )
    own_groups: list[str] = Field([], description="that the device reports")
    state: Literal["online", "offline", "unknown", "revoked"]
    state_at: float | None = None
    seen_at: float | None = Field(None, description="when the device last spoke")
    enrolled_at: float | None = None
    revoked_at: float | None = None
    agent_version: str = ""
    runtime: str = ""
    free_bytes: int = 0
    memory_bytes: int = 0
    clock: str = ""
    clock_offset_s: float | None = Field(
        None, description="seconds that its clock is ahead of the controller's, by its own word"
    )
    waits: list[WaitModel] = Field([], description="why it does not get on; empty: it does")
    dropped: dict[str, int] = Field(
        {},
        examples=[{"spool-full": 12}],
        description="of its data since yesterday (UTC), by place: samples, results, events, lines",
    )
    stored_today: UsageModel = UsageModel()
    platform: dict[str, str] = {}
    slots: dict[str, SlotModel] = {}
    desired_revision: int = 0
    reported_revision: int = 0
    rollout: str | None = None
    last_update: dict[str, Any] | None = None
    version: int = Field(description="for If-Match")


class DevicePage(Answer):
    """Devices; `next` is the cursor of the next page."""

    items: list[DeviceModel]
    next: str | None = None
    counts: dict[str, int] = Field({}, description="all devices by state")


class DevicePatch(Given):
    """What an operator may change of a device: what operators give, not what the device reports.

    Fields that are left out stay.
    """

    labels: Labels | None = None
    groups: Annotated[list[Name], Field(max_length=64)] | None = None


class ManyPatch(Given):
    """A change of the labels and groups of many devices: those that are named, or a selector's."""

    devices: Annotated[list[Name], Field(max_length=20_000)] | None = None
    selector: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    labels: Labels = {}
    unlabel: Annotated[list[Name], Field(max_length=limits.MAX_DEVICE_LABELS)] = []
    join: Annotated[list[Name], Field(max_length=64)] = []
    leave: Annotated[list[Name], Field(max_length=64)] = []


class ManyChanged(Answer):
    """How many devices were meant, and of how many something changed."""

    matching: int
    changed: int


class UpdateModel(Answer):
    """One step of one update of a device."""

    id: int
    received_at: float
    event: dict[str, Any]


class UpdatePage(Answer):
    """Updates, newest first."""

    items: list[UpdateModel]
    next: str | None = None


class PointModel(Answer):
    """Figures of one slot in one span of time."""

    start: int
    resolution: int
    slot: str
    bundle: str = Field(description="sha256 of the manifest; empty: not of a model")
    requests: int
    errors: int
    busy: int
    unknown: int
    tokens: int
    latency_p50_us: float | None
    latency_p95_us: float | None
    confidence_mean: float | None
    labels: dict[str, int]
    gauges: dict[str, float]


class Series(Answer):
    """Figures of a device over time."""

    device: str
    points: list[PointModel]


class ResultModel(Answer):
    """One output of a local source."""

    source: str
    at: float
    label: str
    confidence: float
    bundle: dict[str, Any]
    text: str | None = None


class ResultPage(Answer):
    """Results, newest first."""

    items: list[ResultModel]


class BundleModel(Answer):
    """A published bundle."""

    name: str
    version: str
    manifest_sha256: str
    task: str
    release: int
    bytes: int
    published_at: float
    quantization: str
    parameters: int
    arena_bytes: int | None
    labels: int = Field(0, description="how many labels a classifier has")
    metrics: dict[str, Any] = {}
    boards: list[str] = []
    has_report: bool = False


class BundlePage(Answer):
    """Published bundles, newest first."""

    items: list[BundleModel]


class RolloutModel(Answer):
    """A rollout. `waves` counts members by phase for each wave that began."""

    id: str = Field(examples=["r7"])
    number: int
    status: Literal[
        "queued", "running", "awaiting-approval", "paused", "rolling-back",
        "succeeded", "stopped", "aborted",
    ]  # fmt: skip
    spec: RolloutSpec
    target: Ref
    slot: str
    wave: int
    phases: dict[str, int] = Field({}, examples=[{"confirmed": 12, "failed": 1}])
    waves: dict[str, dict[str, int]] = {}
    readings: list[dict[str, Any]] = Field([], description="the newest figures of all gates")
    reason: ErrorInfo | None = None
    waiting: str = ""
    bake_until: float | None = None
    created_at: float
    created_by: str
    updated_at: float
    ended: float | None = None
    version: int = Field(description="for If-Match")


class RolloutPage(Answer):
    """Rollouts, newest first."""

    items: list[RolloutModel]
    next: str | None = None


class MemberModel(Answer):
    """A device of a rollout."""

    device: str
    wave: int
    phase: str
    revision: int
    since: float
    changed: float
    attempts: int = 1
    previous_ref: dict[str, Any] | None = None
    reason: dict[str, Any] | None = None
    golden_accuracy: float | None = None
    waits: list[WaitModel] = Field([], description="why it does not get on, while it is under way")


class MemberPage(Answer):
    """Members of a rollout, by device."""

    items: list[MemberModel]
    next: str | None = None


class EventModel(Answer):
    """Something that happened in a rollout."""

    id: int
    at: float
    kind: str
    message: str
    detail: dict[str, Any] = {}


class EventPage(Answer):
    """What happened in a rollout, oldest first."""

    items: list[EventModel]
    next: str | None = None


class PlannedWaveModel(Answer):
    """A wave as it would be."""

    size: str
    adds: int
    online: int
    devices: list[str]
    approval: bool
    bake_s: float


class SetbackModel(Answer):
    """An earlier rollout of the same version that was stopped, or on which devices failed."""

    rollout: str
    status: str
    wave: int
    waves: int
    at: float
    reason: ErrorInfo | None = None
    failed: int = 0
    why: ErrorInfo | None = Field(None, description="what one of the devices said")


class PlanModel(Answer):
    """What a rollout would do."""

    matching: int
    moving: int
    waves: list[PlannedWaveModel]
    left_out: dict[str, str]
    setbacks: list[SetbackModel] = Field([], description="what went wrong with it before")
    given: int = Field(
        0, description="of those left out: they run it though nobody asked it of them"
    )


class Query(Given):
    """Ask devices. Exactly one of `selector` and `devices`."""

    selector: Annotated[str, Field(min_length=1, max_length=4000)] | None = Field(
        None, examples=["board=raspberry-pi-5,site in (lyon,graz)"]
    )
    devices: Annotated[list[Name], Field(min_length=1, max_length=10_000)] | None = None
    op: Literal["classify", "embed", "generate", "selftest", "status"] = "classify"
    text: Text = Field("", description="to classify or embed, or the prompt to generate from")
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    stream: bool = Field(False, description="answer as newline-delimited JSON, as answers come")
    options: dict[str, Any] = Field(
        {}, description="further fields of the request: top_k, max_tokens, temperature, ..."
    )


class QueryAnswer(Answer):
    """One device's answer: exactly one of the result fields, or an error."""

    id: str = Field("", description="under which feedback may be given on it")
    device: str
    done: bool = True
    seq: int = 0
    chunk: str | None = None
    classified: dict[str, Any] | None = None
    generated: dict[str, Any] | None = None
    embedded: dict[str, Any] | None = None
    selftested: dict[str, Any] | None = None
    reported: dict[str, Any] | None = None
    error: ErrorInfo | None = None


class Votes(Answer):
    """What the devices say together."""

    label: str
    agreement: float
    confidence: float
    votes: dict[str, int]
    answered: int


class QueryResult(Answer):
    """All answers of a query, by device."""

    asked: int
    answered: int
    failed: int
    seconds: float
    answers: list[QueryAnswer]
    votes: Votes | None = None


class FiguresModel(Answer):
    """Figures of a slot and bundle, over the fleet."""

    slot: str
    bundle: str
    name: str = ""
    requests: int
    errors: int
    busy: int
    unknown: int
    tokens: int
    latency_p50_us: float | None
    latency_p95_us: float | None
    confidence_mean: float | None
    labels: dict[str, int]


class MetricsModel(Answer):
    """What the fleet measured in the last while."""

    since: float
    devices: dict[str, int]
    models: list[FiguresModel]
    dropped: dict[str, int] = Field({}, description="by all devices since yesterday, by place")
    devices_dropping: int = Field(0, description="of which something was dropped since yesterday")
    over_quota: dict[str, int] = Field(
        {}, description="devices over their quota today, and how many messages were refused"
    )


class HappenedModel(Answer):
    """Something that happened to a device."""

    at: float
    kind: Literal["audit", "wanted", "update", "presence", "alert", "resolved", "samples"]
    id: int
    what: str = Field(description="the action, state, rule or request")
    text: str
    by: str = ""
    detail: dict[str, Any] = {}


class TimelinePage(Answer):
    """What happened to a device, newest first."""

    items: list[HappenedModel]
    next: str | None = None


class AuditModel(Answer):
    """One change, and who made it; or what was refused or failed: `outcome` is its error's code.

    Failures of a kind within a minute are one entry: `times`, up to `until`.
    """

    id: int
    at: float
    actor: str
    role: str
    action: str
    target: str
    detail: dict[str, Any] = {}
    outcome: str = "done"
    times: int = 1
    until: float | None = None


class AuditPage(Answer):
    """Changes, newest first."""

    items: list[AuditModel]
    next: str | None = None


class TokenModel(Answer):
    """A token, without its secret."""

    id: str
    name: str
    role: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None


class TokenPage(Answer):
    """All tokens."""

    items: list[TokenModel]


class NewToken(Given):
    """A token to make."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    role: Literal["pooled", "viewer", "operator", "admin"]
    seconds: Annotated[float, Field(gt=0, le=10 * 366 * 24 * 3600)] | None = None


class MadeToken(Answer):
    """A new token: the only time that its secret is shown."""

    token: str


class NewWebhook(Given):
    """A webhook to add. `events` are kinds of events, or ``*``."""

    url: Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s]+$")]
    events: Annotated[
        list[Annotated[str, Field(pattern=r"^(\*|[a-z][a-z-]{0,63})$")]],
        Field(min_length=1, max_length=50),
    ] = ["*"]
    secret: Annotated[str, Field(min_length=16, max_length=128)] | None = None


class WebhookModel(Answer):
    """A webhook; its secret is shown when it is made, never again."""

    id: str
    url: str
    events: list[str]
    created_at: float
    secret: str | None = None


class WebhookPage(Answer):
    """All webhooks."""

    items: list[WebhookModel]


class Me(Answer):
    """Who the token is."""

    fleet: str
    name: str
    role: str


class Health(Answer):
    """Whether the process lives."""

    status: Literal["ok"]


class Ready(Answer):
    """Whether the process can do its work."""

    ready: bool
    parts: dict[str, bool]


class EnrolmentBody(Given):
    """A device with a one-time token asks to be enrolled (see ``contracts.renewal``)."""

    token: Annotated[str, Field(max_length=256)]
    request: Annotated[str, Field(max_length=16 * 1024)]


class JoinBody(Given):
    """A board with a one-time token asks what to install.

    `choices` are platforms and Pythons that it has, the best first: ``["aarch64", "cp313"]``.
    """

    token: Annotated[str, Field(max_length=256)]
    choices: Annotated[
        list[
            tuple[
                Literal["x86-64", "aarch64", "armv7l"],
                Annotated[str, Field(pattern=r"^cp3[0-9]{1,2}$")],
            ]
        ],
        Field(min_length=1, max_length=16),
    ]


class JoinRelease(Answer):
    """A signed release of the agent."""

    version: str
    platform: str
    python: str
    sha256: str
    size: int


class JoinPlan(Answer):
    """What a board installs, and as whom; `used`: its token enrolled a device already."""

    fleet: str
    device: str
    board: str
    used: bool
    release: JoinRelease


class EnrolledDevice(Answer):
    """The device's ``agent.yaml``, without its private key."""

    model_config = ConfigDict(extra="allow")

    fleet: str
    device: str
    board: str


class RenewalBody(Given):
    """A device asks for its next certificate (see ``contracts.renewal``)."""

    certificate: Annotated[str, Field(max_length=16 * 1024)]
    request: Annotated[str, Field(max_length=16 * 1024)]
    signature: Annotated[str, Field(max_length=512)]


class RenewedCertificate(Answer):
    """The next certificate, PEM."""

    certificate: str


class Departure(Answer):
    """What was done about a device that leaves, and what is left to do."""

    device: str
    certificates: int = Field(description="how many were revoked")
    told: bool = Field(description="the broker took the last word to the device")
    applied: bool = Field(description="the broker has read who is revoked, or is away")
    ended: bool = Field(description="its open connections were ended")
    cleared: bool = Field(False, description="the broker retains nothing of it")
    todo: str = Field("", description="what a person must do; empty: nothing")
    history: str = Field("", description="under which id its history is; empty: as before")


class NewName(Given):
    """The new name of a device."""

    name: Name


class Renamed(Answer):
    """A device with another name; the token is shown this once."""

    departure: Departure
    name: str
    path: str = ""
    token: str = ""


class Gone(Answer):
    """A device that was retired or renamed."""

    id: str
    device: str
    why: Literal["retired", "renamed"]
    at: float
    by: str
    cleared: bool
    facts: dict[str, Any] = {}


class DeparturePage(Answer):
    """Devices that left, by id."""

    items: list[Gone]
    next: str | None = None


class CloneModel(Answer):
    """An identity that more than one device has."""

    device: str
    message: str
    sign: Literal["sessions", "renewal", "certificates"]
    since: float
    at: float
    count: int
    addresses: list[str] = []
    boots: list[str] = []


class ClonePage(Answer):
    """All of them, by device."""

    items: list[CloneModel]


class ExpiryModel(Answer):
    """Something that runs out."""

    kind: Literal["role", "certificate", "list", "device", "application", "token", "enrolment"]
    name: str
    expires: float
    todo: str
    warning_days: int | None = Field(None, description="30, 7, 1, or 0 once it has run out")


class ExpiryPage(Answer):
    """All that runs out, the first end first."""

    items: list[ExpiryModel]
