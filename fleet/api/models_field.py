"""Documents of feedback and of accuracy in the field."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from contracts import limits
from fleet.api.models import Answer, Given, Name, Ref, Text


class Feedback(Given):
    """What somebody says of an answer. Exactly one of `right`, `label`, `labels` and `text`."""

    device: Name
    answer: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")] = Field(
        description="the `id` of the device's answer to a query"
    )
    right: bool | None = None
    label: Annotated[str, Field(max_length=limits.MAX_LABEL_CHARS)] | None = Field(
        None, description="the right label; the answer may have it"
    )
    labels: (
        Annotated[
            list[Annotated[str, Field(max_length=limits.MAX_LABEL_CHARS)]],
            Field(max_length=limits.MAX_SAID),
        ]
        | None
    ) = Field(
        None, description="all right labels, of an answer that may have several; empty: none is"
    )
    text: Text | None = Field(
        None, description="the right completion of a generator; only whether it is the same counts"
    )
    sampled: bool = Field(
        False, description="the answer was picked before anybody looked whether it is right"
    )
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0


class NotedModel(Answer):
    """A verdict that counts; `again`: it was counted before."""

    device: str
    bundle: Ref
    label: str
    right: bool
    again: bool = False


class EstimateModel(Answer):
    """An accuracy with its 95 % interval; `enough` is false while it says next to nothing."""

    accuracy: float
    low: float
    high: float
    judged: int
    devices: int
    enough: bool


class ApartModel(Answer):
    """A device whose users say something else than all others."""

    device: str
    accuracy: float
    judged: int


class FieldVersion(Answer):
    """What people said of one version's answers; estimates are of the answers that they judge."""

    slot: str
    bundle: str
    name: str = ""
    version: str = ""
    right: int
    wrong: int
    sampled_right: int
    sampled_wrong: int
    estimate: EstimateModel | None = Field(None, description="from all feedback")
    sampled: EstimateModel | None = Field(
        None, description="from answers that were picked before anybody looked"
    )
    apart: list[ApartModel] = Field([], description="devices whose users say otherwise")


class FieldPage(Answer):
    """All versions of which something was judged."""

    since: float
    versions: list[FieldVersion]
    refused: dict[str, int] = Field({}, description="feedback that did not count, by error code")


class LineModel(Answer):
    """An estimate of a part: of answers with a label, or of devices with a value of one."""

    name: str
    right: int
    wrong: int
    estimate: EstimateModel


class ConfusionModel(Answer):
    """How often `given` was answered where `right` is right."""

    given: str
    right: str
    count: int


class FieldDetail(FieldVersion):
    """One version, by label and by group."""

    since: float
    labels: list[LineModel]
    confusions: list[ConfusionModel]
    groups: list[LineModel] = Field([], description="by the values of the label `by`")


class PairModel(Answer):
    """How often `given` was answered where `right` is right; the same twice: it is right."""

    given: str
    right: str
    count: int


class TenthModel(Answer):
    """Answers of which the model was sure from `low` to a tenth more: right and wrong ones."""

    low: float
    right: int
    wrong: int


class PooledGroup(Answer):
    """What is told of a group of devices; with noise, `devices` is the least there may be."""

    name: str
    devices: int
    right: int
    wrong: int
    accuracy: float | None = None
    low: float = Field(description="of the 95 % interval of the accuracy, of counts without noise")
    high: float
    confusion: list[PairModel]
    calibration: list[TenthModel]


class PoolModel(Answer):
    """Pooled figures of a version in a week; no groups: all devices together are too few."""

    slot: str
    bundle: Ref
    week: str
    by: str = Field(description="the label of devices whose values are the groups")
    least: int = Field(description="devices of which something is told, of a group or a pair")
    cap: int = Field(description="verdicts of a device that count")
    epsilon: float = Field(description="of the noise of each count; 0: there is none")
    groups: list[PooledGroup]
