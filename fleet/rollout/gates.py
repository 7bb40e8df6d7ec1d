"""Gates: figures of a wave against their limits, with the devices that made them bad."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from contracts.errors import ErrorInfo
from contracts.judged import Judged
from contracts.manifest import Baseline
from fleet.accuracy import Noise, Tally, Verdict, Z, at_least, regressed, tally, z_of
from fleet.figures import Figures
from fleet.rollout.drift import confidence_drift, label_drift
from fleet.rollout.spec import Gates
from fleet.rollout.state import Member, Reading

MAX_BLAMED: Final = 20
"""Devices that a reading names."""

_SUSPICION: Final = 5
"""How many times less evidence makes a part of the fleet look worse than shows that it is."""

_Figure = Callable[[Figures], float | None]

_COUNTED: Final = (
    "max_error_rate", "max_latency_p95_us", "max_rss_bytes", "max_label_drift",
    "max_confidence_drift", "max_unknown_rate", "max_shadow_disagreement", "min_field_accuracy",
    "max_field_regression",
)  # fmt: skip

_TITLES: Final[Mapping[str, str]] = {
    "max_failure_rate": "failure rate",
    "max_error_rate": "error rate",
    "max_latency_p95_us": "latency p95 (us)",
    "max_rss_bytes": "resident memory (bytes)",
    "min_golden_accuracy": "golden accuracy",
    "max_label_drift": "drift of labels",
    "max_confidence_drift": "drift of confidences",
    "max_unknown_rate": "rate of 'unknown'",
    "max_shadow_disagreement": "disagreement in shadow mode",
    "min_field_accuracy": "accuracy in the field",
    "max_field_regression": "accuracy lost in the field",
}


def counts(gates: Gates) -> bool:
    """Whether some gate looks at what devices measure."""
    return any(getattr(gates, name) is not None for name in _COUNTED)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _rss(figures: Figures) -> float | None:
    return figures.peaks.get("rss_bytes")


def _ranked(values: Iterable[tuple[str, float]], *, least: bool = False) -> list[tuple[str, float]]:
    sign = 1 if least else -1
    return sorted(values, key=lambda item: (sign * item[1], item[0]))[:MAX_BLAMED]


def failure_reading(members: Sequence[Member], wave: int, limit: float, attempts: int) -> Reading:
    """Failed devices over those that the wave reached; one that has tries left has not failed.

    A device that was lost in the middle of the update has failed until it confirms: nobody can
    tell a dead one from one that is merely away.
    """
    counted = [m for m in members if m.phase != "removed" and (m.lost or m.phase != "deferred")]
    failed = [m for m in counted if m.lost or (m.phase == "failed" and m.attempts >= attempts)]
    value = _ratio(len(failed), len(counted))
    return Reading(
        "max_failure_rate",
        wave,
        limit,
        value,
        None if value is None else value <= limit,
        len(counted),
        [(m.device, 1.0) for m in failed[:MAX_BLAMED]],
        sum(m.lost for m in failed),
    )


def _together(
    gate: str,
    wave: int,
    limit: float,
    figure: _Figure,
    samples: Callable[[Figures], int],
    by_device: Mapping[str, Figures],
    need: int,
    *,
    median: bool,
) -> Reading:
    """A figure over all devices of the wave; blames those that are over the limit alone.

    With `median` that of the median device counts if it is worse, of those that have evidence
    enough by themselves: one device that claims a great many requests cannot hide the others.
    """
    total = Figures()
    for figures in by_device.values():
        total.merge(figures)
    count = samples(total)
    value = figure(total) if count >= need else None
    if value is None:
        return Reading(gate, wave, limit, samples=count)
    if median:
        alone = [figure(one) for one in by_device.values() if samples(one) >= need]
        value = max(value, statistics.median_low([one for one in alone if one is not None] or [0]))
    holds = value <= limit
    blamed: list[tuple[str, float]] = []
    if not holds:
        own = [(d, v) for d, f in by_device.items() if (v := figure(f)) is not None]
        blamed = _ranked([item for item in own if item[1] > limit] or own)
    return Reading(gate, wave, limit, value, holds, count, blamed)


def field_readings(
    gates: Gates,
    wave: int,
    said: Mapping[str, Judged],
    before: Mapping[str, Judged],
    groups: Mapping[str, str],
) -> list[Reading]:
    """What people say of answers, against the limits: see :mod:`fleet.accuracy`.

    `groups`: the value of the label by which each part of the fleet must hold by itself.
    """
    found: list[Reading] = []
    noise = Noise(gates.field_noise, gates.field_noise)
    sampled = gates.field_feedback == "sampled"
    need, devices = gates.min_field_judged, gates.min_field_devices
    now = {device: tally(one, sampled=sampled) for device, one in said.items()}
    old = {device: tally(one, sampled=sampled) for device, one in before.items()}

    def verdict(
        judge: Callable[[Mapping[str, Tally], Mapping[str, Tally], float, int], Verdict],
    ) -> Verdict:
        whole = judge(now, old, Z, need)
        suspects: list[str] = []
        parts = sorted({groups[device] for device in now if device in groups})
        for part in parts if whole.holds is not False else ():
            mine, theirs = _only(now, groups, part), _only(old, groups, part)
            alone = judge(mine, theirs, z_of(len(parts)), need)
            if alone.holds is False:
                return msgspec.structs.replace(alone, why=f"{gates.field_by}={part} alone")
            few = max(1, need // _SUSPICION)
            if whole.holds and judge(mine, theirs, z_of(len(parts)) / 4, few).holds is False:
                # What is likely worse there is not known to be: more feedback tells.
                suspects.append(f"{gates.field_by}={part}")
        if suspects:
            why = f"it looks beyond the limit at {', '.join(suspects[:5])} alone"
            return msgspec.structs.replace(whole, holds=None, why=why)
        return whole

    if (least := gates.min_field_accuracy) is not None:
        one = verdict(lambda n, _, z, few: at_least(n, least, few, devices, noise, z))
        found.append(_judged("min_field_accuracy", wave, least, one))
    if (most := gates.max_field_regression) is not None:
        one = verdict(lambda n, o, z, few: regressed(o, n, most, few, devices, noise, z))
        found.append(_judged("max_field_regression", wave, most, one))
    return found


def _only(tallies: Mapping[str, Tally], groups: Mapping[str, str], part: str) -> dict[str, Tally]:
    return {device: one for device, one in tallies.items() if groups.get(device) == part}


def _judged(gate: str, wave: int, limit: float, verdict: Verdict) -> Reading:
    return Reading(
        gate, wave, limit, verdict.value, verdict.holds, int(verdict.judged), verdict.devices,
        why=verdict.why,
    )  # fmt: skip


def _of_each(
    gate: str, wave: int, limit: float, values: Mapping[str, float], *, least: bool = False
) -> Reading:
    """A figure of each device: the worst one decides."""
    if not values:
        return Reading(gate, wave, limit)
    worst = min(values.values()) if least else max(values.values())
    holds = worst >= limit if least else worst <= limit
    bad = [(d, v) for d, v in values.items() if (v < limit if least else v > limit)]
    return Reading(gate, wave, limit, worst, holds, len(values), _ranked(bad, least=least))


def readings(
    gates: Gates,
    wave: int,
    members: Sequence[Member],
    figures: Mapping[str, Figures],
    baseline: Baseline | None,
    attempts: int,
    before: Mapping[str, Judged] | None = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Reading]:
    """All gates of one wave.

    Args:
        gates: the limits.
        wave: index of the wave.
        members: of the wave.
        figures: by device, from the time it ran the rollout's bundle.
        baseline: of the bundle's manifest; None: drift has no evidence.
        attempts: tries that each device has.
        before: what was said of the version before, by device.
        groups: by the name of a label, the value that each device has.

    Returns:
        One reading for each gate that is set; the failure rate first.
    """
    found = [failure_reading(members, wave, gates.max_failure_rate, attempts)]
    ran = {
        m.device: figures[m.device]
        for m in members
        if m.phase in ("trial", "confirmed") and m.device in figures
    }

    def together(
        gate: str,
        limit: float | None,
        figure: _Figure,
        *,
        shadow: bool = False,
        median: bool = True,
    ) -> None:
        if limit is not None:
            samples: Callable[[Figures], int] = (
                (lambda f: f.shadow_requests) if shadow else (lambda f: f.requests)
            )
            found.append(
                _together(
                    gate, wave, limit, figure, samples, ran, gates.min_requests, median=median
                )
            )

    together("max_error_rate", gates.max_error_rate, lambda f: _ratio(f.errors, f.requests))
    together(
        "max_latency_p95_us",
        gates.max_latency_p95_us,
        lambda f: f.latency_us.quantile(0.95) if f.latency_us else None,
    )
    together("max_unknown_rate", gates.max_unknown_rate, lambda f: _ratio(f.unknown, f.requests))
    together(
        "max_label_drift",
        gates.max_label_drift,
        lambda f: label_drift(baseline.labels, f.labels) if baseline else None,
        median=False,  # each device hears other things; only together they are the baseline's
    )
    together(
        "max_confidence_drift",
        gates.max_confidence_drift,
        lambda f: (
            confidence_drift(baseline.confidence, f.confidence)
            if baseline and f.confidence
            else None
        ),
        median=False,
    )
    together(
        "max_shadow_disagreement",
        gates.max_shadow_disagreement,
        lambda f: _ratio(f.shadow_disagreements, f.shadow_requests),
        shadow=True,
    )
    if gates.max_rss_bytes is not None:
        rss = {d: v for d, f in ran.items() if (v := _rss(f)) is not None}
        found.append(_of_each("max_rss_bytes", wave, gates.max_rss_bytes, rss))
    if gates.min_golden_accuracy is not None:
        golden = {m.device: m.golden_accuracy for m in members if m.golden_accuracy is not None}
        found.append(
            _of_each("min_golden_accuracy", wave, gates.min_golden_accuracy, golden, least=True)
        )
    said = {device: one.judged for device, one in ran.items() if one.judged is not None}
    of = (groups or {}).get(gates.field_by or "", {})
    return found + field_readings(gates, wave, said, before or {}, of)


def explain(reading: Reading) -> ErrorInfo:
    """Why a gate stopped a rollout: the figure, its limit, and the devices."""
    title = _TITLES[reading.gate]
    named = ", ".join(device for device, _ in reading.devices[:5])
    more = f" and {len(reading.devices) - 5} more" if len(reading.devices) > 5 else ""
    lost = (
        f"; went away in the middle of the update and did not come back: {reading.lost}"
        if reading.lost
        else ""
    )
    part = f" ({reading.why})" if reading.why else ""
    sign = "at least" if reading.gate.startswith("min_") else "at most"
    return ErrorInfo(
        "gate-failed",
        f"wave {reading.wave + 1}: {title} is {reading.value:.6g}, allowed is {sign} "
        f"{reading.limit:.6g}{part}; devices: {named or 'none alone'}{more}{lost}",
        {
            "gate": reading.gate,
            "wave": reading.wave,
            "value": reading.value,
            "limit": reading.limit,
            "samples": reading.samples,
            "devices": [device for device, _ in reading.devices],
            "lost": reading.lost,
        },
    )
