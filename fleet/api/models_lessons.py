"""Documents of lessons: labels taught to devices from a few examples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts import limits
from fleet.api.models import Answer, ErrorInfo, Given, Name, Text


class _Means(Given):
    """Which devices. Exactly one of `selector` and `devices`."""

    selector: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    devices: Annotated[list[Name], Field(min_length=1, max_length=10_000)] | None = None
    slot: Name = "classify"
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0


class NewLesson(_Means):
    """A label from a few examples. Devices keep features of them, and no text."""

    model: Name = Field(description="the bundle that is meant; where another serves it is refused")
    lesson: Name = Field(description="its name; the same lesson again changes nothing")
    label: Annotated[str, Field(min_length=1, max_length=limits.MAX_LABEL_CHARS)]
    texts: Annotated[list[Text], Field(min_length=1, max_length=limits.MAX_LESSON_TEXTS)]
    keep: bool = Field(
        True, description="keep the examples here as labelled texts: the next version learns them"
    )


class OldLesson(_Means):
    """A lesson that is taken back."""

    lesson: Name


class LessonModel(Answer):
    """What a device was taught; `serves`: its model serves, so that it answers."""

    name: str
    label: str
    examples: int
    at: float
    bundle: str
    serves: bool
    by: str


class TaughtModel(Answer):
    """What one device says: its lessons, or an error."""

    device: str
    lessons: list[LessonModel] = Field([])
    took_ms: float = 0.0
    error: ErrorInfo | None = None


class TaughtPage(Answer):
    """All answers, by device."""

    devices: list[TaughtModel]
