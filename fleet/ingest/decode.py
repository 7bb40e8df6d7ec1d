"""One message of a device, checked: what the rest of the controller may trust."""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from contracts import codec, limits, topics
from contracts.errors import ErrorInfo, InputError
from contracts.histogram import Histogram, Scale
from contracts.judged import Judged
from contracts.messages import (
    Acknowledged,
    Before,
    Count,
    Name,
    Reported,
    Result,
    Sample,
    Status,
    Telemetry,
    UpdateEvent,
)
from fleet.figures import MAX_GAUGE_CHARS, MAX_GAUGES
from fleet.ingest.heard import Heard

MAX_INTEGER: Final = 2**53
"""The largest number that is believed: exact as a JSON number in every language."""

MAX_COUNT: Final = 2**40
"""The largest count of one sample that is believed: thousands add up to less than a sum holds."""

MAX_VALUE: Final = 1e15
"""The largest measured value of one sample that is believed: a petabyte, or 31 years in µs."""

MAX_DEPTH: Final = 16
"""Levels of the detail of an error. What can just be decoded here, on a short stack, is too deep
for whoever reads it back on a longer one."""

MAX_CODES: Final = 64
"""Codes of refused feedback in one sample."""

_BUCKETS: Final[dict[Scale, frozenset[str]]] = {
    "log8": frozenset(str(index) for index in range(8 * 63 + 1)),
    "unit20": frozenset(str(index) for index in range(20)),
}
_KINDS: Final[dict[str, type]] = {
    "status": Status,
    "reported": Reported,
    "update": UpdateEvent,
    "telemetry": Telemetry,
    "result": Result,
}


# Without `gc`: thousands wait for their commit, and the collector would walk over all of them.
class Batch(msgspec.Struct, frozen=True, gc=False):
    """What names a batch of telemetry. Its samples, once checked, are stored as they came.

    `spans` are the minutes that they are of, each with its slot and bundle.
    """

    boot: str
    seq: int
    spans: tuple[tuple[str, int], ...] = ()


class Number(msgspec.Struct, frozen=True, gc=False):
    """What a message is numbered by; `after` is None where it does not say."""

    kind: Acknowledged
    boot: str
    seq: int
    after: int | None = None


Body = Status | Reported | UpdateEvent | Batch | Result


class Message(msgspec.Struct, frozen=True, gc=False):
    """A checked message.

    Attributes:
        device: who sent it, by the topic (the broker enforces that).
        body: the decoded document.
        payload: as it came.
        at: when it was said, by the device's clock; 0: it does not say.
        heard: how it came.
        number: by which it is acknowledged; None: it is not.
        over: the device has stored all that it may today.
        cost: bytes that it counts for.
    """

    device: str
    body: Body
    payload: bytes
    at: float = 0.0
    heard: Heard = "live"
    number: Number | None = None
    over: bool = False
    cost: int = 0

    @property
    def counts(self) -> bool:
        """Whether it counts for a quota: what is stored again and again, numbered or not."""
        return isinstance(self.body, Batch | Result | UpdateEvent)

    @property
    def greets(self) -> str:
        """The boot of a device that has just connected; empty: it is no such message."""
        body = self.body
        live = isinstance(body, Status) and body.state == "online" and self.heard == "live"
        return body.boot if isinstance(body, Status) and live else ""


class _Envelope(msgspec.Struct, frozen=True):
    """As much of a message that is refused as it takes to say so."""

    boot: Name
    seq: Count
    after: Before | None = None


# Devices send on few topics, many times: parsing each topic once is a third of the work.
@functools.lru_cache(maxsize=20_000)
def _address(topic: str) -> tuple[str, str, str]:
    address = topics.parse(topic)
    return address.fleet, address.kind, address.target


def decode(fleet: str, topic: str, payload: bytes) -> Message:
    """Decodes and checks one message.

    Raises:
        InputError: it is not one that ingest accepts; the message says why.
    """
    of_fleet, kind, device = _address(topic)
    wanted = _KINDS.get(kind)
    if of_fleet != fleet or wanted is None:
        raise InputError("bad-topic", f"{topic[:200]!r} is not for the ingest of fleet {fleet}")
    if wanted is Telemetry:
        batch = codec.decode(payload, Telemetry, what=f"{kind} of {device}")
        _check_telemetry(batch)
        at = max([sample.at for sample in batch.samples], default=0.0)
        number = Number("telemetry", batch.boot, batch.seq, batch.after)
        return Message(
            device, Batch(batch.boot, batch.seq, _spans(batch)), payload, at, number=number
        )
    body: Body = codec.decode(payload, wanted, what=f"{kind} of {device}")
    _check(body, device)
    at = body.since if isinstance(body, Status) else getattr(body, "at", 0.0)
    return Message(device, body, payload, at, number=_number(body))


def _spans(batch: Telemetry) -> tuple[tuple[str, int], ...]:
    return tuple(
        [
            (f"{s.slot} {s.bundle.manifest_sha256}" if s.bundle else s.slot, int(s.at // 60))
            for s in batch.samples
        ]
    )


def _number(body: Body) -> Number | None:
    match body:
        case UpdateEvent():
            return Number("update", body.boot, body.seq, body.after)
        case Result() if body.boot is not None and body.seq is not None:
            return Number("result", body.boot, body.seq, body.after)
    return None


def sender(fleet: str, topic: str) -> tuple[str, str] | None:
    """The kind of topic and the device behind a message; None: it is no device's of this fleet."""
    try:
        of_fleet, kind, device = _address(topic)
    except InputError:
        return None
    return (kind, device) if of_fleet == fleet and kind in _KINDS else None


def number_of_refused(kind: str, payload: bytes) -> Number | None:
    """The number of a message that cannot be read whole; None: not even that can be."""
    if kind not in ("telemetry", "update", "result"):
        return None
    try:
        found = codec.decode(payload, _Envelope, what=kind, cap=limits.MIB)
        _small(found.seq)
        _check_after(found.seq, found.after)
    except InputError:
        return None
    return Number(kind, found.boot, found.seq, found.after)  # type: ignore[arg-type]


def _check_after(seq: int | None, after: int | None) -> None:
    if after is not None and (seq is None or after >= seq):
        raise InputError("bad-message", f"a message with the number {seq} cannot be after {after}")


def _check_telemetry(batch: Telemetry) -> None:
    _small(batch.seq, batch.dropped, *batch.drops.values())
    _check_after(batch.seq, batch.after)
    for sample in batch.samples:
        _check_sample(sample)


def _check(body: Body, device: str) -> None:
    match body:
        case UpdateEvent():
            if body.rollout is not None:
                topics.check_name(body.rollout, "rollout")
            _small(body.seq, body.revision, body.done_bytes, body.total_bytes)
            _values(body.bytes_per_s)
            _check_after(body.seq, body.after)
            _check_reason(body.reason)
        case Reported():
            if body.device != device:
                raise InputError("bad-message", f"{device} reports as {body.device}")
            _small(body.desired_revision, body.free_bytes, body.memory_bytes)
            _values(body.clock_offset_s or 0.0)
            for wait in body.waits:
                _check_reason(wait.reason)
            for slot in body.slots.values():
                _check_reason(slot.problem)
            if body.last_update is not None:
                _check(body.last_update, device)
        case Status():
            _small(body.session, body.takeovers)
        case Result():
            _small(body.seq or 0)
            _check_after(body.seq, body.after)
            # What the database keeps as text of its own; documents escape it.
            if "\0" in body.label or "\0" in (body.text or ""):
                raise InputError("bad-message", "a text holds a zero byte")


def _check_reason(reason: ErrorInfo | None) -> None:
    if reason is not None and reason.detail:
        _shallow(reason.detail, MAX_DEPTH)


def _shallow(value: Any, levels: int) -> None:
    if not isinstance(value, dict | list):
        return
    if levels == 0:
        raise InputError("bad-message", f"an error's detail is nested over {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value:
        _shallow(item, levels - 1)


def _check_sample(sample: Sample) -> None:
    _counts(
        sample.requests, sample.errors, sample.busy, sample.unknown, sample.tokens,
        sample.shadow_requests, sample.shadow_disagreements, *sample.labels.values(),
    )  # fmt: skip
    _values(sample.window_s, sample.drift or 0.0, *sample.gauges.values())
    if len(sample.labels) > limits.MAX_LABELS:
        raise InputError("bad-message", f"a sample has over {limits.MAX_LABELS} labels")
    if len(sample.gauges) > MAX_GAUGES:
        raise InputError("bad-message", f"a sample has over {MAX_GAUGES} gauges")
    if sample.gauges and max(map(len, sample.gauges)) > MAX_GAUGE_CHARS:
        raise InputError("bad-message", f"a gauge's name is over {MAX_GAUGE_CHARS} characters")
    if sample.judged is not None:
        _check_judged(sample.judged)
    if sample.latency_us is not None:
        _check_histogram(sample.latency_us, "log8")
    if sample.confidence is not None:
        _check_histogram(sample.confidence, "unit20")


def _check_judged(judged: Judged) -> None:
    wrong = [count for meant in judged.confusions.values() for count in meant.values()]
    _counts(judged.right, judged.wrong, *judged.labels.values(), *wrong, *judged.refused.values())
    # Of an answer with several labels each counts: one that is right, or too many, or missing.
    more = judged.several * limits.MAX_SAID
    if len(judged.labels) > limits.MAX_LABELS or len(wrong) > limits.MAX_CONFUSIONS + 1:
        raise InputError("bad-message", "feedback is told by more labels than it may be")
    if len(judged.confusions) > limits.MAX_CONFUSIONS + 1 or len(judged.refused) > MAX_CODES:
        raise InputError("bad-message", "feedback is told by more labels than it may be")
    if (
        judged.sampled_right > judged.right
        or judged.sampled_wrong > judged.wrong
        or judged.several > judged.right + judged.wrong
        or sum(judged.labels.values()) > judged.right + more
        or sum(wrong) > judged.wrong + 2 * more
        or sum(judged.sure_right) > judged.right
        or sum(judged.sure_wrong) > judged.wrong
    ):
        raise InputError("bad-message", "a part of the feedback is more than all of it")


def _small(*numbers: int) -> None:
    if numbers and max(numbers) > MAX_INTEGER:
        raise InputError("bad-message", "a number is over 2**53")


def _counts(*counts: int) -> None:
    if counts and max(counts) > MAX_COUNT:
        raise InputError("bad-message", "a count of a sample is over 2**40")


def _values(*values: float) -> None:
    if max(values) > MAX_VALUE or min(values) < -MAX_VALUE:
        raise InputError("bad-message", f"a value of a sample is beyond {MAX_VALUE:g}")


def _check_histogram(histogram: Histogram, scale: Scale) -> None:
    # One set comparison in C: key by key this was two thirds of all decoding.
    if histogram.scale != scale or not histogram.counts.keys() <= _BUCKETS[scale]:
        raise InputError("bad-message", f"a histogram has another scale or bucket than {scale}")
    _counts(*histogram.counts.values())
    _values(histogram.total)
