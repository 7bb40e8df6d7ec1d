"""What suits a rollout of so many devices, and what a rollout will do, in words. Pure."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from fleet.rollout.plan import Plan
from fleet.rollout.spec import Gates, RolloutSpec


class Advice(msgspec.Struct, frozen=True):
    """What to begin with: waves as they are typed, and seconds."""

    waves: str
    trial_s: int
    bake_s: int


_BY_SIZE: Final = (
    (1, Advice("100%", 30, 0)),
    (5, Advice("1,100%", 30, 60)),
    (20, Advice("1,50%,100%", 30, 60)),
    (200, Advice("1,10%,50%,100%", 60, 300)),
    (2000, Advice("1,5%,25%,100%", 120, 900)),
)
"""Up to so many devices: the more there are, the less a first mistake may cost."""

_LARGEST: Final = Advice("1,1%,10%,50%,100%", 300, 3600)


def suggested(devices: int) -> Advice:
    """Waves and times for so many devices."""
    return next((advice for most, advice in _BY_SIZE if devices <= most), _LARGEST)


def span(seconds: float) -> str:
    """A time as people say it."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            count = round(seconds / size)
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return f"{seconds:g} seconds"


def may_fail(gates: Gates, devices: int) -> str:
    """What the gate of failures means for a wave of so many devices."""
    if not devices:
        return "adds no device"
    allowed = math.floor(devices * gates.max_failure_rate + 1e-9)
    if allowed >= devices:
        return "no number of failures stops it"
    if not allowed:
        return "one failure stops it"
    return f"{allowed} of its {devices} may fail, one more stops it"


def explained(spec: RolloutSpec, plan: Plan) -> list[str]:
    """What will happen, step by step, for somebody who has not read the manual."""
    trial, gates = spec.trial, spec.gates
    tries = f"tries it for {span(trial.seconds)}" if trial.seconds else "uses it at once"
    test = (
        f"Each device checks the signature, replays the model's own test, and {tries}. It goes "
        "back to its old version by itself when the test does not hold, when over "
        f"{trial.max_error_rate:.0%} of its answers are errors ({trial.min_requests} answers "
        f"at least), or after {trial.max_restarts} restarts. That is a failure."
    )
    watched = f", were watched for {span(spec.bake_s)}," if spec.bake_s else ""
    asks = "; where a wave says so, a person must approve it" if _asks(spec) else ""
    ends = "pauses" if spec.on_gate == "pause" else "stops"
    back = ", and the devices that have the version get their old one back"
    undone = back if spec.rollback and spec.on_gate == "abort" else ""
    found = [
        test,
        f"The next wave begins when all of one are through{watched} and every gate holds{asks}.",
        f"A gate that fails {ends} the rollout{undone}.",
        *_gates(gates),
    ]
    away = plan.moving - sum(wave.online for wave in plan.waves)
    found.append(
        (f"{away} of these devices are away now. " if away else "")
        + f"No wave waits for a device that is away for {span(spec.offline_s)}; it gets the "
        f"version when it comes back within {span(spec.follow_s)}."
    )
    return found


def _ms(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1000


def _asks(spec: RolloutSpec) -> bool:
    return any(wave.approval for wave in spec.waves)


def _gates(gates: Gates) -> list[str]:
    """Every gate that is looked at, but that of failures, which each wave says itself."""
    evidence = f"once there are {gates.min_requests} answers"
    said = [
        ("at most {:.1%} of answers may be errors", gates.max_error_rate),
        ("19 of 20 answers must come within {:g} ms", _ms(gates.max_latency_p95_us)),
        ("at most {:.1%} of answers may be “unknown”", gates.max_unknown_rate),
        ("labels may drift by {:.1%} from the builder's texts", gates.max_label_drift),
        ("confidences may drift by {:.1%}", gates.max_confidence_drift),
        ("at most {:.1%} of shadow answers may differ", gates.max_shadow_disagreement),
    ]
    found = [
        f"Gate: {text.format(limit)}, {evidence}." for text, limit in said if limit is not None
    ]
    alone = [
        ("no device may use over {:,} bytes of memory", gates.max_rss_bytes),
        ("{:.1%} of the model's own test must hold on each device", gates.min_golden_accuracy),
        ("{:.1%} of judged answers must be right", gates.min_field_accuracy),
        ("accuracy in the field may fall by {:.1%}", gates.max_field_regression),
    ]
    found += [f"Gate: {text.format(limit)}." for text, limit in alone if limit is not None]
    if found and gates.no_evidence == "wait":
        found.append(
            f"A gate without enough answers waits up to {span(gates.evidence_s)}, then the "
            "rollout pauses."
        )
    return found
