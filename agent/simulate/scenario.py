"""Scenario files: how simulated devices behave, and which of them go wrong."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Annotated, Any, Literal

import msgspec

from contracts import codec, limits, wording
from contracts.errors import InputError
from contracts.messages import Label, Name, Version

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=7 * 24 * 3600)]
Weights = Annotated[
    dict[Label, Annotated[float, msgspec.Meta(ge=0, le=1e9)]], msgspec.Meta(max_length=4096)
]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a scenario: unknown keys are refused."""


class Behaviour(_Strict, frozen=True):
    """How a bundle does on the devices.

    Attributes:
        bundle, version: which bundle; ``*`` for any. The first entry that matches counts.
        fail_selftest: share of devices whose golden vectors do not hold: they refuse it.
        roll_back: share of devices on which requests fail in the trial, which rolls back.
        refuse_fit: share of devices that have no memory for it.
        golden_accuracy: share of the golden vectors that hold; below what the manifest demands,
            devices refuse it.
        labels: distribution of the answers; empty: the baseline of the bundle's manifest.
        confidence: mean confidence of the answers; None: the baseline's distribution.
        latency_us: median time of one inference on a device that is not slow.
        error_rate: errors / requests.
        unknown_rate: answers below the threshold / requests.
        disagreement: of a shadow model with the active one.
        rss_bytes: resident memory of the agent while it runs.
    """

    bundle: str = "*"
    version: str = "*"
    fail_selftest: Share = 0.0
    roll_back: Share = 0.0
    refuse_fit: Share = 0.0
    golden_accuracy: Share = 1.0
    labels: Weights = {}
    confidence: Share | None = None
    latency_us: Positive = 900.0
    error_rate: Share = 0.0
    unknown_rate: Share = 0.0
    disagreement: Share = 0.02
    rss_bytes: Annotated[int, msgspec.Meta(ge=0)] = 60_000_000

    def matches(self, bundle: str, version: str) -> bool:
        """Whether this entry is about a bundle."""
        return self.bundle in ("*", bundle) and self.version in ("*", version)


class Start(_Strict, frozen=True):
    """A bundle that devices already run when the simulation begins."""

    bundle: Name
    version: Version
    manifest_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    slot: Name = "classify"


class Traffic(_Strict, frozen=True):
    """Local requests of each device, which its telemetry counts.

    Attributes:
        requests_per_s: of each; 0: the devices are idle.
        telemetry_s, idle_s: as in ``agent.yaml``.
        tokens_per_s: how fast they generate.
    """

    requests_per_s: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 1.0
    telemetry_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 10.0
    idle_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 900.0
    tokens_per_s: Positive = 40.0


class Updates(_Strict, frozen=True):
    """How updates go.

    Attributes:
        step_s: seconds that fetching the manifest, the self-test and loading take, each, on a
            device that is not slow.
        download: ``full``: each device fetches every file; ``once``: what many devices fetch is
            fetched once for all of them. Each device checks all digests in both.
        trial_factor: the trial of a desired document lasts this many times as long.
    """

    step_s: Seconds = 0.2
    download: Literal["full", "once"] = "once"
    trial_factor: Share = 1.0


class Offline(_Strict, frozen=True):
    """Devices that are away when the simulation begins.

    Attributes:
        share: of the devices.
        back_after_s: when they connect; None: never.
    """

    share: Share = 0.0
    back_after_s: Seconds | None = None


class Slow(_Strict, frozen=True):
    """Devices that take `factor` times as long for everything."""

    share: Share = 0.0
    factor: Annotated[float, msgspec.Meta(ge=1, le=10_000)] = 5.0


class Churn(_Strict, frozen=True):
    """Devices whose connection breaks again and again, without a goodbye.

    Attributes:
        share: of the devices.
        every_s: mean time between breaks.
        away_s: how long each lasts.
        reboot: they come back with a new boot id.
    """

    share: Share = 0.0
    every_s: Annotated[float, msgspec.Meta(ge=1, le=7 * 24 * 3600)] = 60.0
    away_s: Seconds = 5.0
    reboot: bool = False


class Scenario(_Strict, frozen=True):
    """A scenario file.

    Attributes:
        schema: 1.
        seed: the same seed gives the same devices the same fate.
        boards: weight of each board profile.
        labels: device labels; each device gets one of the values.
        groups: every device is in each of them.
        start: bundles that devices already run.
        bundles: how bundles do; what no entry matches does well.
    """

    schema: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    boards: Annotated[dict[Name, Positive], msgspec.Meta(min_length=1, max_length=64)] = (
        msgspec.field(default_factory=lambda: {"raspberry-pi-5": 1.0})
    )
    labels: Annotated[
        dict[Name, Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]],
                             msgspec.Meta(min_length=1, max_length=1000)]],
        msgspec.Meta(max_length=limits.MAX_DEVICE_LABELS),
    ] = {}  # fmt: skip
    groups: Annotated[list[Name], msgspec.Meta(max_length=64)] = []
    start: Annotated[list[Start], msgspec.Meta(max_length=16)] = []
    traffic: Traffic = Traffic()
    updates: Updates = Updates()
    offline: Offline = Offline()
    slow: Slow = Slow()
    churn: Churn = Churn()
    bundles: Annotated[list[Behaviour], msgspec.Meta(max_length=256)] = []

    def behaviour(self, bundle: str, version: str) -> Behaviour:
        """How a bundle does."""
        return next((b for b in self.bundles if b.matches(bundle, version)), Behaviour())


def load(text: bytes, *, what: str = "the scenario") -> Scenario:
    """Reads a scenario (YAML).

    Raises:
        InputError: ``bad-scenario`` with what is wrong where; an unknown key with the nearest
            known one. ``too-large``.
    """
    if len(text) > limits.MAX_CONFIG_BYTES:
        raise InputError("too-large", f"{what} is over {limits.MAX_CONFIG_BYTES} bytes")
    try:
        document = codec.load_yaml(text, what=what)
    except InputError as error:
        raise InputError("bad-scenario", str(error)) from None
    if document is None:
        document = {}
    _check_keys(document, Scenario, what)
    try:
        return msgspec.convert(document, type=Scenario)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(
            "bad-scenario", f"{what} is not valid: {wording.of(error, Scenario)[:300]}"
        ) from None


def _check_keys(value: Any, kind: Any, where: str) -> None:
    """Refuses keys that no struct has, with the nearest that it has."""
    if typing.get_origin(kind) is Annotated:
        return _check_keys(value, typing.get_args(kind)[0], where)
    if isinstance(kind, types.UnionType):
        return None
    if typing.get_origin(kind) is list and isinstance(value, list):
        for index, item in enumerate(value):
            _check_keys(item, typing.get_args(kind)[0], f"{where}[{index}]")
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        fields = {f.name: f.type for f in msgspec.structs.fields(kind)}
        for key, item in value.items():
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
                raise InputError("bad-scenario", f"{where} has no key {str(key)[:64]!r}; {hint}")
            _check_keys(item, fields[key], f"{where}.{key}")
    return None
