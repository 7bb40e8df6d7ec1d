"""What a device answers: the message ``res/{id}`` of protocol v1, with the result of each request.

The requests are in :mod:`contracts.requests`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from contracts import limits
from contracts.errors import ErrorInfo
from contracts.messages import (
    BundleRef,
    Count,
    Label,
    Lessons,
    Name,
    Reported,
    Scored,
    Text,
    Whole,
)
from contracts.requests import LogLevel, SampleId, ToolCall


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
    in the request: `chosen` has each token of `text` that was taken, `logprobs` the most likely
    ones there, by their texts; a part of a character is ``bytes:`` and each byte in hexadecimal, as
    OpenAI writes it. Those of calls and of stop strings are left out.

    With `min_confidence`: `confidence` is the geometric mean of the probabilities of the tokens
    that were taken, the one that ended the answer and those of calls among them. Where the bundle
    was calibrated, and the request names no form of its own and no tools, it is `calibrated`: the
    chance that a greedy answer is exactly right. Below what was asked the answer is `unknown`:
    `text` is empty, there are no calls, and `best` is what would have been said, a call as a line
    of its name and its arguments.

    `forgotten`: messages that were left out, the oldest, since the context was full.
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
    calibrated: bool = False
    unknown: bool = False
    best: str = ""
    forgotten: Count = 0


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


LogWords = Annotated[str, msgspec.Meta(max_length=limits.MAX_LOG_CHARS)]


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a device's log, without texts of users and without secrets.

    Attributes:
        seq: grows by one with every line of a boot.
        at: when, by the device's clock.
        event: what happened.
        module: of the agent.
        facts: of the event; what may hold more than facts of the agent is ``<redacted>``.
    """

    seq: Whole
    at: float
    level: LogLevel
    event: LogWords
    module: Annotated[str, msgspec.Meta(max_length=limits.MAX_ID_CHARS)] = ""
    facts: Annotated[dict[Name, LogWords], msgspec.Meta(max_length=limits.MAX_LOG_FACTS)] = {}


class Logged(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to ``logs``.

    Attributes:
        boot: of the lines.
        lines: the oldest first.
        last: number of the last line that was looked at, also where its level is too low; -1:
            there is none. The next request names it as `after`.
        missed: lines after the asker's that are kept no more.
        more: others follow at once.
    """

    boot: Name
    lines: Annotated[list[LogLine], msgspec.Meta(max_length=limits.MAX_LOG_LINES)]
    last: Annotated[int, msgspec.Meta(ge=-1, le=limits.MAX_WHOLE)]
    missed: Whole = 0
    more: bool = False


class CallPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a call in a stream: first its `id` and `name`, then `arguments` bit by bit.

    `index`: of the call in the answer, from 0. A call that ends without the whole of its
    arguments is none: the final message has those that count.
    """

    index: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_TOOL_CALLS - 1)]
    id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    arguments: Text = ""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """``res/{id}``: exactly one of the result fields, or a piece, or an error.

    A stream is pieces (`chunk` of text, `call` of a tool) with `seq` 0, 1, 2, ... and `done`
    false, then one with `done` true.
    """

    id: Name
    device: Name
    seq: Count = 0
    done: bool = True
    chunk: str | None = None
    call: CallPiece | None = None
    classified: Classified | None = None
    generated: Generated | None = None
    embedded: Embedded | None = None
    selftested: Selftested | None = None
    reported: Reported | None = None
    cancelled: bool | None = None
    noted: Noted | None = None
    shared: Shared | None = None
    taught: Taught | None = None
    logged: Logged | None = None
    error: ErrorInfo | None = None
