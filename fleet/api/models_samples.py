"""Documents of hard examples, and of their labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts import limits
from fleet.api.models import Answer, Given, Name, Ref

Label = Annotated[str, Field(min_length=1, max_length=limits.MAX_LABEL_CHARS)]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class NewAsk(Given):
    """A request for hard examples of a model. Devices answer as far as their owners consent."""

    model: Name = Field(description="the name of the bundle that gave the answers")
    selector: Annotated[str, Field(max_length=4000)] = Field("all", description="which devices")
    most: Annotated[int, Field(ge=1, le=limits.MAX_SAMPLES)] = Field(50, description="of each")
    why: Annotated[str, Field(max_length=200)] = Field("", description="for owners who are asked")


class GaveModel(Answer):
    """What one device gave; `error` says why none, or no more."""

    device: str
    new: int
    sent: int
    error: dict[str, object] | None = None


class AskModel(Answer):
    """A request: it goes on for a week, as owners approve it and devices come online."""

    name: str
    model: str
    selector: str
    most: int
    why: str
    by: str
    at: float
    devices: list[GaveModel] = Field([], description="of this round alone")


class AskPage(Answer):
    """Requests of the last week, the newest first; and how many samples each model has."""

    items: list[AskModel]
    models: dict[str, int]


class SaidModel(Answer):
    """What one person says; no label: passed over."""

    person: str
    label: str | None
    at: float


class HintModel(Answer):
    """What the newest version, or a teacher, takes a text for."""

    source: str
    label: str
    confidence: float


class TextModel(Answer):
    """A text that devices had a hard time with."""

    key: str
    text: str
    answered: str = Field(description="what the model said")
    best: str | None = Field(None, description="the label that won below the threshold")
    confidence: float
    bundle: Ref
    reasons: list[str]
    times: int
    devices: int
    meant: dict[str, int] = Field({}, description="right labels by users of devices")
    said: list[SaidModel] = Field([], description="by people who label")
    hints: list[HintModel] = Field([], description="of `shoal fleet samples suggest`")
    label: str | None = Field(None, description="what most of them say")
    disputed: bool = False


class QueueModel(Answer):
    """What you should label next, the most useful first."""

    model: str
    labels: list[str]
    items: list[TextModel]
    left: int
    labelled: int
    disputed: int


class TextPage(Answer):
    """Texts of a model, the newest first."""

    model: str
    items: list[TextModel]


class NewLabel(Given):
    """What you say of a text; no label: you pass it over."""

    model: Name
    key: Key
    label: Label | None = None


class Deleted(Answer):
    """How many samples were deleted."""

    samples: int


class NewImprovement(Given):
    """Which model gets a next version."""

    model: Name


class ImprovementModel(Answer):
    """A next version, made or being made; `stops` says why it is not rolled out."""

    name: str
    version: str
    against: str
    step: str
    stops: list[str] = Field([], description="why it is not rolled out")
    running: bool = False


class ImprovementPage(Answer):
    """All of them, the newest first."""

    items: list[ImprovementModel]
