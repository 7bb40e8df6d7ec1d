"""What a person asks of a rollout. The same document is the API's body and the CLI's file."""

from __future__ import annotations

import itertools
import math
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from contracts import codec, limits, wording
from contracts.desired import TrialRules
from contracts.errors import InputError
from fleet.rollout.selector import MAX_CHARS, parse
from fleet.rollout.windows import Window

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
VERSION_PATTERN = r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$"

Ratio = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=366 * 24 * 3600)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Gates(_Model):
    """What must hold in a wave. A gate that is null is not looked at.

    Rates, latency and drifts are over the devices of one wave together; rates and latency also
    of the median device with evidence enough by itself, so that one that claims much cannot
    hide the others. Memory and golden accuracy are of each device. Drift is the distance to the
    manifest's baseline (total variation of labels, Kolmogorov-Smirnov of confidences) less what
    chance alone would give. Field accuracy is an estimate: a gate fails when its whole 95 %
    interval is beyond the limit, holds when the estimate is not, and waits for more between the
    two, or while the verdict would be another without one of the devices.
    """

    max_failure_rate: Ratio = Field(
        0.05,
        description="failed devices / devices of the wave that were reached; one that went away "
        "in the middle of the update and was not back by its deadline has failed until it confirms",
    )
    max_error_rate: Ratio | None = Field(None, description="errors / requests")
    max_latency_p95_us: Annotated[float, Field(gt=0)] | None = None
    max_rss_bytes: Annotated[int, Field(gt=0)] | None = None
    min_golden_accuracy: Ratio | None = None
    max_label_drift: Ratio | None = None
    max_confidence_drift: Ratio | None = None
    max_unknown_rate: Ratio | None = Field(None, description="answers 'unknown' / requests")
    max_shadow_disagreement: Ratio | None = None
    min_field_accuracy: Ratio | None = Field(
        None, description="answers that people say are right / answers judged"
    )
    max_field_regression: Ratio | None = Field(
        None, description="by how much field accuracy may be below that of the version before"
    )
    min_field_judged: Annotated[int, Field(ge=1, le=10**9)] = Field(
        50, description="answers judged before field accuracy is evidence, of each version"
    )
    min_field_devices: Annotated[int, Field(ge=1, le=10**7)] = Field(
        3,
        description="devices that had answers judged before it is evidence; with 1, one device "
        "may decide alone",
    )
    field_feedback: Literal["all", "sampled"] = Field(
        "all", description="sampled: only answers that were picked before anybody looked count"
    )
    field_by: Annotated[str, Field(min_length=1, max_length=80)] | None = Field(
        None,
        description="a label of devices, as site or own:board: each of its values with enough "
        "feedback must hold by itself too",
    )
    field_noise: Annotated[float, Field(ge=0, le=0.4)] = Field(
        0.0, description="share of feedback that is itself wrong; it is taken out of the figure"
    )
    min_requests: Annotated[int, Field(ge=1, le=10**9)] = Field(
        50, description="requests of the wave before a figure counts as evidence"
    )
    no_evidence: Literal["wait", "pass"] = Field(
        "wait", description="what a gate without evidence does when the bake time is over"
    )
    evidence_s: Seconds = Field(
        3600, description="how long to wait for evidence before the rollout pauses"
    )


class Wave(_Model):
    """One step: how many devices have the version when it is done, counted from the start."""

    count: Annotated[int, Field(ge=1, le=10**7)] | None = None
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    bake_s: Seconds | None = Field(None, description="null: the rollout's")
    approval: bool = Field(False, description="a person must approve before the wave begins")
    gates: Gates | None = Field(None, description="null: the rollout's")

    @model_validator(mode="after")
    def _one_size(self) -> Wave:
        if (self.count is None) == (self.percent is None):
            raise ValueError("a wave needs either count or percent")
        return self

    def target(self, pool: int) -> int:
        """How many of `pool` devices have the version when this wave is done."""
        if self.count is not None:
            return min(self.count, pool)
        assert self.percent is not None
        return min(math.ceil(pool * self.percent / 100 - 1e-9), pool)

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"{self.percent:g}%"


class Trial(_Model):
    """When a device commits the version by itself, and when it rolls back by itself."""

    seconds: Annotated[float, Field(ge=0, le=7 * 24 * 3600)] = 30.0
    max_error_rate: Ratio = 0.1
    min_requests: Annotated[int, Field(ge=0, le=10**9)] = 20
    max_latency_p95_us: Annotated[float, Field(gt=0)] | None = None
    max_restarts: Annotated[int, Field(ge=1, le=100)] = 3
    max_rss_bytes: Annotated[int, Field(gt=0)] | None = None

    def rules(self) -> TrialRules:
        """The same as the wire's type."""
        return TrialRules(**self.model_dump())


class RolloutSpec(_Model):
    """A rollout: move the devices of a selector to one version of one bundle, in waves."""

    bundle: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    selector: Annotated[str, Field(min_length=1, max_length=MAX_CHARS)] = "all"
    slot: Annotated[str, Field(pattern=NAME_PATTERN)] | None = Field(
        None,
        description="which of the devices' models is replaced; null: the bundle's task, "
        "or the name of an adapter",
    )
    mode: Literal["active", "shadow"] = Field(
        "active", description="shadow: answer beside the active model, show nothing"
    )
    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=100)] = (
        Wave(count=1),
        Wave(percent=10),
        Wave(percent=50),
        Wave(percent=100),
    )
    gates: Gates = Gates()
    bake_s: Seconds = Field(60, description="how long a wave is watched after its last device")
    deadline_s: Annotated[float, Field(gt=0, le=90 * 24 * 3600)] = Field(
        1800,
        description="for one device that is online and does not get on: from its assignment, or "
        "the last progress of its update",
    )
    patience_s: Annotated[float, Field(gt=0, le=366 * 24 * 3600)] = Field(
        7 * 24 * 3600,
        description="for one device that gets on, however slowly, from its assignment; never "
        "less than deadline_s",
    )
    offline_s: Seconds = Field(
        120,
        description="a device that is away this long before it began the update is deferred: no "
        "wave waits for it; one that had begun is waited for until its deadline",
    )
    min_confirmed: Annotated[int, Field(ge=0, le=10**7)] = Field(
        1,
        description="devices that must confirm before a wave can pass: in the rollout so far, and "
        "in the wave itself, of those that it reached",
    )
    max_in_flight: Annotated[int, Field(ge=1, le=10**7)] | None = None
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(1, description="tries for each device")
    retry_s: Seconds = 60
    windows: Annotated[tuple[Window, ...], Field(max_length=limits.MAX_WINDOWS)] = Field(
        (),
        description="when devices may be given the version and activate it; what is downloaded by "
        "then holds until the next one. A trial that began may end, going back waits for nothing",
    )
    on_gate: Literal["abort", "pause"] = Field("abort", description="what a gate that fails does")
    rollback: bool = Field(True, description="an abort gives devices their previous version back")
    if_busy: Literal["refuse", "queue"] = Field(
        "refuse", description="when another rollout holds some of the devices"
    )
    follow_s: Annotated[float, Field(ge=0, le=366 * 24 * 3600)] = Field(
        30 * 24 * 3600,
        description="how long after success late joiners and returning devices are still served",
    )
    allow_empty: bool = Field(
        False,
        description="start although every device that is meant has the version already: late "
        "joiners and returning devices are served",
    )
    trial: Trial = Trial()
    note: Annotated[str, Field(max_length=2000)] = ""

    @field_validator("selector")
    @classmethod
    def _readable_selector(cls, value: str) -> str:
        try:
            return str(parse(value))
        except InputError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _waves_grow(self) -> RolloutSpec:
        for kind in ("count", "percent"):
            sizes = [getattr(w, kind) for w in self.waves if getattr(w, kind) is not None]
            if any(b <= a for a, b in itertools.pairwise(sizes)):
                raise ValueError("waves count from the start: each must be larger than the last")
        return self

    def gates_of(self, wave: int) -> Gates:
        """The gates of a wave, by its index."""
        return self.waves[wave].gates or self.gates

    def bake_of(self, wave: int) -> float:
        """The bake time of a wave, by its index, in seconds."""
        own = self.waves[wave].bake_s
        return self.bake_s if own is None else own


def parse_waves(text: str) -> tuple[Wave, ...]:
    """Reads waves as people type them: ``1,10%,50%,100%``; a final ``?`` asks for approval.

    Raises:
        InputError: ``bad-waves``.
    """
    waves: list[Wave] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,8}(?:\.\d{1,3})?)(%?)(\??)\s*", part)
        try:
            if match is None or ("." in match[1] and not match[2]):
                raise ValueError
            approval = bool(match[3])
            if match[2]:
                waves.append(Wave(percent=float(match[1]), approval=approval))
            else:
                waves.append(Wave(count=int(match[1]), approval=approval))
        except ValueError:
            raise InputError(
                "bad-waves",
                f"cannot read wave {part[:40]!r} of {text[:80]!r}: write counts or percents from "
                "small to large, for example 1,10%,50%,100%",
            ) from None
    return tuple(waves)


def describe(error: ValidationError) -> str:
    """What is wrong where, in one line."""
    parts = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:5]:
        where = ".".join(str(part) for part in item["loc"]) or "document"
        parts.append(f"{where}: {wording.pattern(item['msg']).removeprefix('Value error, ')}")
    return "; ".join(parts)


def load(text: bytes) -> RolloutSpec:
    """Reads a rollout from YAML or JSON.

    Raises:
        InputError: ``bad-rollout`` with what is wrong where.
    """
    if len(text) > limits.MAX_CONFIG_BYTES:
        raise InputError("too-large", f"a rollout file is over {limits.MAX_CONFIG_BYTES} bytes")
    try:
        return RolloutSpec.model_validate(codec.load_yaml(text, what="the rollout"))
    except RecursionError:
        raise InputError("bad-rollout", "the rollout refers to itself") from None
    except ValidationError as error:
        raise InputError("bad-rollout", f"the rollout is not valid: {describe(error)}") from None
