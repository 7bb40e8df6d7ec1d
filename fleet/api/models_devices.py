"""The API's documents on devices: what each is and did, and how it joins and leaves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from contracts import limits
from fleet.api.models import Acceleration, Answer, Counted, ErrorInfo, Given, Labels, Name, Ref


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
    acceleration: Acceleration | None = Field(None, description="null: none was asked for")


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
    platform: dict[str, str] = Field({})
    slots: dict[str, SlotModel] = Field({})
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
    labels: Labels = Field({})
    unlabel: Annotated[list[Name], Field(max_length=limits.MAX_DEVICE_LABELS)] = Field([])
    join: Annotated[list[Name], Field(max_length=64)] = Field([])
    leave: Annotated[list[Name], Field(max_length=64)] = Field([])


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


class PointModel(Counted):
    """Figures of one slot in one span of time."""

    start: int
    resolution: int
    slot: str
    bundle: str = Field(description="sha256 of the manifest; empty: not of a model")
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


class HappenedModel(Answer):
    """Something that happened to a device."""

    at: float
    kind: Literal["audit", "wanted", "update", "presence", "alert", "resolved", "samples"]
    id: int
    what: str = Field(description="the action, state, rule or request")
    text: str
    by: str = ""
    detail: dict[str, Any] = Field({})


class TimelinePage(Answer):
    """What happened to a device, newest first."""

    items: list[HappenedModel]
    next: str | None = None


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


class ClaimBody(Given):
    """A board with a claim token names itself; `machine` tells it from a copy of it."""

    token: Annotated[str, Field(max_length=256)]
    serial: Annotated[str, Field(max_length=128)]
    machine: Annotated[str, Field(min_length=16, max_length=256)]


class Claimed(Answer):
    """The one-time token of a board."""

    device: str
    token: str


class NewBoard(Given):
    """A board that is to join by its serial number; without a name it is called by that."""

    serial: Annotated[str, Field(max_length=128)]
    name: Name | None = None
    board: Name
    labels: Labels = Field({})
    groups: Annotated[list[Name], Field(max_length=64)] = Field([])


class NewBoards(Given):
    """Boards for the list: all of them, or none."""

    boards: Annotated[list[NewBoard], Field(min_length=1, max_length=2000)]


class NewLine(Given):
    """How long the line for all boards of the list lasts."""

    seconds: Annotated[float, Field(gt=0, le=30 * 24 * 3600)] = 7 * 24 * 3600.0


class Line(Answer):
    """What is typed on each board; its secret is shown this once."""

    command: str


class BoardModel(Answer):
    """A board of the list; `claimed`: when one came with this number."""

    serial: str
    device: str
    board: str
    labels: dict[str, str]
    groups: list[str]
    claimed: float | None


class BoardPage(Answer):
    """All boards of the list."""

    items: list[BoardModel]


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
    facts: dict[str, Any] = Field({})


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
    addresses: list[str] = Field([])
    boots: list[str] = Field([])


class ClonePage(Answer):
    """All of them, by device."""

    items: list[CloneModel]
