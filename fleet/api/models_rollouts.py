"""The API's documents on bundles and rollouts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from fleet.api.models import Answer, ErrorInfo, Ref
from fleet.api.models_devices import WaitModel
from fleet.rollout.spec import RolloutSpec


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
    metrics: dict[str, Any] = Field({})
    boards: list[str] = Field([])
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
    waves: dict[str, dict[str, int]] = Field({})
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
    detail: dict[str, Any] = Field({})


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
