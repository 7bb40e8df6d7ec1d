"""From the store's types to the API's documents."""

from __future__ import annotations

from typing import Any

import msgspec

from contracts.answers import Answer
from contracts.messages import BundleRef
from fleet.api import models, models_devices, models_rollouts
from fleet.figures import Figures
from fleet.rollout.state import Member
from fleet.store import waits
from fleet.store.bundles import Published
from fleet.store.delivery import Books
from fleet.store.devices import Device
from fleet.store.rollouts import Stored
from fleet.store.telemetry import Point


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _ref(ref: BundleRef | None) -> models.Ref | None:
    if ref is None:
        return None
    return models.Ref(name=ref.name, version=ref.version, manifest_sha256=ref.manifest_sha256)


def device(one: Device, books: Books) -> models_devices.DeviceModel:
    """A device, with what is known of its data."""
    reported = one.reported
    slots: dict[str, models_devices.SlotModel] = {}
    wanted = one.desired.slots if one.desired else {}
    reports = reported.slots if reported else {}
    for name in sorted(reports.keys() | wanted.keys()):
        report, desired = reports.get(name), wanted.get(name)
        slots[name] = models_devices.SlotModel(
            active=_ref(report.active) if report else None,
            previous=_ref(report.previous) if report else None,
            shadow=_ref(report.shadow) if report else None,
            trial=report.trial if report else False,
            problem=_plain(report.problem) if report else None,
            desired=_ref(desired.bundle) if desired else None,
            desired_mode=desired.mode if desired else None,
            taught=_plain(report.taught) if report else [],
            acceleration=_plain(report.acceleration) if report else None,
        )
    state: Any = "revoked" if one.revoked_at is not None else one.state
    return models_devices.DeviceModel(
        id=one.id,
        board=one.hardware,
        labels=one.labels,
        groups=one.groups,
        own_labels=one.own_labels,
        own_groups=one.own_groups,
        state=state,
        state_at=one.state_at,
        seen_at=one.seen_at,
        enrolled_at=one.enrolled_at,
        revoked_at=one.revoked_at,
        agent_version=reported.agent_version if reported else "",
        runtime=reported.runtime if reported else "",
        free_bytes=reported.free_bytes if reported else 0,
        memory_bytes=reported.memory_bytes if reported else 0,
        clock=reported.clock if reported else "",
        clock_offset_s=reported.clock_offset_s if reported else None,
        waits=waiting(one),
        dropped=books.dropped,
        stored_today=models_devices.UsageModel.model_validate(_plain(books.today)),
        platform=reported.platform if reported else {},
        slots=slots,
        desired_revision=one.desired_revision,
        reported_revision=reported.desired_revision if reported else 0,
        rollout=one.rollout,
        last_update=_plain(one.update),
        version=one.version,
    )


def waiting(one: Device) -> list[models_devices.WaitModel]:
    """What a device waits for."""
    return [models_devices.WaitModel.model_validate(_plain(wait)) for wait in waits.of(one)]


def member(one: Member, device: Device | None) -> models_rollouts.MemberModel:
    """A device of a rollout; `device`: where what it waits for is to be told."""
    found = models_rollouts.MemberModel.model_validate(_plain(one))
    if device is not None:
        found.waits = waiting(device)
    return found


def point(one: Point) -> models_devices.PointModel:
    """Figures of a span of time."""
    found = one.figures
    return models_devices.PointModel(
        start=one.start,
        resolution=one.resolution,
        slot=one.slot,
        bundle=one.bundle,
        **_counted(found),
        gauges={name: value for name, (_, value) in found.gauges.items()},
    )


def figures(slot: str, bundle: str, name: str, found: Figures) -> models.FiguresModel:
    """Figures of a slot and bundle, over the fleet."""
    return models.FiguresModel(slot=slot, bundle=bundle, name=name, **_counted(found))


def _counted(found: Figures) -> dict[str, Any]:
    """The fields of :class:`fleet.api.models.Counted`."""
    return {
        "requests": found.requests,
        "errors": found.errors,
        "busy": found.busy,
        "unknown": found.unknown,
        "tokens": found.tokens,
        "latency_p50_us": _quantile(found, 0.5),
        "latency_p95_us": _quantile(found, 0.95),
        "confidence_mean": found.confidence.mean() if found.confidence else None,
        "labels": found.labels,
    }


def _quantile(found: Figures, q: float) -> float | None:
    return found.latency_us.quantile(q) if found.latency_us else None


def bundle(one: Published) -> models_rollouts.BundleModel:
    """A published bundle."""
    manifest = one.manifest
    return models_rollouts.BundleModel(
        name=one.ref.name,
        version=one.ref.version,
        manifest_sha256=one.ref.manifest_sha256,
        task=manifest.task,
        release=one.release,
        bytes=manifest.total_bytes,
        published_at=one.published_at,
        quantization=manifest.model.quantization,
        parameters=manifest.model.parameters,
        arena_bytes=manifest.model.arena_bytes,
        labels=len(manifest.classifier.labels) if manifest.classifier else 0,
        metrics=manifest.metrics,
        boards=manifest.boards,
        has_report=one.has_report,
    )


def rollout(one: Stored, waves: dict[int, dict[str, int]]) -> models_rollouts.RolloutModel:
    """A rollout with its members counted."""
    header = one.state.header
    phases: dict[str, int] = {}
    for counts in waves.values():
        for phase, count in counts.items():
            phases[phase] = phases.get(phase, 0) + count
    return models_rollouts.RolloutModel(
        id=one.state.id,
        number=one.state.number,
        status=header.status,
        spec=one.spec,
        target=models.Ref(**_plain(header.target)),
        slot=header.slot,
        wave=header.wave,
        phases=phases,
        waves={str(wave): counts for wave, counts in sorted(waves.items())},
        readings=_plain(header.readings),
        reason=models.ErrorInfo(**_plain(header.reason)) if header.reason else None,
        waiting=header.waiting,
        bake_until=header.bake_until,
        created_at=one.created_at,
        created_by=one.created_by,
        updated_at=one.updated_at,
        ended=header.ended,
        version=one.version,
    )


def answer(one: Answer) -> models.QueryAnswer:
    """One device's answer."""
    return models.QueryAnswer.model_validate(_plain(one))
