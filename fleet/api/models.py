"""The documents that the whole API shares, and those of queries and figures.

What a room of the API has for itself is in a `models_*` beside it. The typed client reads the
same types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts import limits
from fleet.rollout.spec import NAME_PATTERN

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


class Acceleration(Answer):
    """What came of trying an accelerator with a slot's bundle."""

    name: str = Field(examples=["gpu"])
    used: bool = Field(False, description="false: the processor serves")
    speedup: float = Field(0.0, description="the processor's time over the accelerator's")
    max_steps: int = Field(0, description="largest difference from a golden int8 output")
    reason: ErrorInfo | None = Field(None, description="why it does not serve")


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
    call: dict[str, Any] | None = Field(None, description="a piece of a call of a tool")
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


class Counted(Answer):
    """What one model did in some time."""

    requests: int
    errors: int
    busy: int
    unknown: int
    tokens: int
    latency_p50_us: float | None
    latency_p95_us: float | None
    confidence_mean: float | None
    labels: dict[str, int]


class FiguresModel(Counted):
    """Figures of a slot and bundle, over the fleet."""

    slot: str
    bundle: str
    name: str = ""


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


class Health(Answer):
    """Whether the process lives."""

    status: Literal["ok"]


class Ready(Answer):
    """Whether the process can do its work."""

    ready: bool
    parts: dict[str, bool]
