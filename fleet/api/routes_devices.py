"""``/v1/devices`` and ``/v1/metrics``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Response

from contracts.errors import InputError
from fleet import enforcement
from fleet.api import models, models_devices, paging, views
from fleet.api.auth import Operator, TheController, Viewer
from fleet.membership import labelling
from fleet.membership.labelling import Relabelling
from fleet.rollout import selector
from fleet.rollout.spec import NAME_PATTERN
from fleet.store import (
    audit,
    bundles,
    delivery,
    departures,
    desired,
    devices,
    history,
    listing,
    selection,
    telemetry,
    timeline,
)
from fleet.store.entries import Actor
from fleet.store.listing import Listing

ROUTER = APIRouter(prefix="/v1", tags=["devices"])
DeviceId = Annotated[str, Path(pattern=NAME_PATTERN, examples=["kitchen"])]
_MAX_POINTS = 5000


@ROUTER.get("/devices")
def list_devices(
    controller: TheController,
    _token: Viewer,
    selector_: Annotated[
        str, Query(alias="selector", max_length=selector.MAX_CHARS, examples=["site=lyon"])
    ] = "all",
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> models_devices.DevicePage:
    """Devices of a selector, by id."""
    wanted = selector.parse(selector_)
    after = paging.decode_cursor(cursor)
    with controller.store.read() as connection:
        found, following = devices.page(connection, wanted, after, limit)
        counts = devices.counts(connection)
        books = delivery.books(connection, [one.id for one in found], controller.clock())
    return models_devices.DevicePage(
        items=[views.device(one, books[one.id]) for one in found],
        next=paging.encode_cursor(following),
        counts=counts,
    )


@ROUTER.get("/devices/{device}")
def get_device(
    controller: TheController, _token: Viewer, device: DeviceId, response: Response
) -> models_devices.DeviceModel:
    """One device."""
    with controller.store.read() as connection:
        found = devices.get(connection, device)
        books = delivery.books(connection, [device], controller.clock())
    response.headers["ETag"] = paging.etag(found.version)
    return views.device(found, books[device])


@ROUTER.patch("/devices/{device}")
def patch_device(
    controller: TheController,
    token: Operator,
    device: DeviceId,
    patch: models_devices.DevicePatch,
    response: Response,
    if_match: paging.IfMatch = None,
) -> models_devices.DeviceModel:
    """Changes the labels and groups that operators give; the device's own labels stay."""
    wanted = paging.match(if_match)
    with controller.store.write() as connection:
        before = devices.get(connection, device)
        paging.check_version(wanted, before.version, f"device {device}")
        devices.relabel(
            controller.store, connection, device, labels=patch.labels, groups=patch.groups
        )
        if patch.groups is not None:
            desired.regroup(controller.store, connection, device, controller.clock())
        audit.note(
            connection,
            at=controller.clock(),
            actor=token.name,
            role=token.role,
            action="device.change",
            target=device,
            detail=patch.model_dump(exclude_none=True),
        )
        after = devices.get(connection, device)
        books = delivery.books(connection, [device], controller.clock())
        # The broker's access control is made of it; a start of the controller does what follows.
        identity = controller.fleet.open_identity()
        identity.describe(device, after.labels, after.groups)
    enforcement.apply(controller.fleet, identity)
    controller.wake()
    response.headers["ETag"] = paging.etag(after.version)
    return views.device(after, books[device])


@ROUTER.patch("/devices")
def patch_devices(
    controller: TheController, token: Operator, patch: models_devices.ManyPatch
) -> models_devices.ManyChanged:
    """Changes labels and groups of many devices; each some hundred are one change."""
    if (patch.devices is None) == (patch.selector is None):
        raise InputError("bad-options", "name devices, or a selector: one of the two")
    names = patch.devices or []
    if patch.selector is not None:
        wanted = Listing(selector.parse(patch.selector))
        with controller.store.read() as connection:
            names = listing.names(connection, wanted, labelling.MAX_DEVICES + 1)
    change = Relabelling(patch.labels, patch.unlabel, patch.join, patch.leave)
    actor = Actor(token.name, token.role)
    changed = labelling.relabel(
        controller.fleet, controller.store, names, change, actor, controller.clock()
    )
    controller.wake()
    return models_devices.ManyChanged(matching=len(names), changed=changed)


@ROUTER.get("/devices/{device}/timeline")
def get_timeline(
    controller: TheController,
    token: Viewer,
    device: DeviceId,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
    kind: Annotated[list[timeline.Kind] | None, Query(max_length=10)] = None,
) -> models_devices.TimelinePage:
    """What happened to a device, newest first. Who changed what is for operators."""
    start = paging.decode_cursor(cursor)
    with controller.store.read() as connection:
        departures.check_known(connection, device)
        found, following = timeline.page(
            connection, device, start, limit, audited=token.may("operator"), kinds=kind or ()
        )
    return models_devices.TimelinePage(
        items=[models_devices.HappenedModel(**msgspec.structs.asdict(one)) for one in found],
        next=paging.encode_cursor(following),
    )


@ROUTER.get("/devices/{device}/updates")
def list_updates(
    controller: TheController,
    _token: Viewer,
    device: DeviceId,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> models_devices.UpdatePage:
    """What the device's updates did, newest first, with the reasons of refusals."""
    before = paging.decode_number(cursor)
    with controller.store.read() as connection:
        departures.check_known(connection, device)
        found, following = history.updates(connection, device, before, limit)
    return models_devices.UpdatePage(
        items=[models_devices.UpdateModel(**msgspec.structs.asdict(one)) for one in found],
        next=paging.encode_cursor(following),
    )


@ROUTER.get("/devices/{device}/telemetry")
def get_telemetry(
    controller: TheController,
    _token: Viewer,
    device: DeviceId,
    since: Annotated[float, Query(ge=0, le=1e11, description="0: an hour ago")] = 0,
    until: Annotated[float, Query(ge=0, le=1e11, description="0: now")] = 0,
    resolution: Literal["minute", "hour"] = "minute",
    slot: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
) -> models_devices.Series:
    """Figures of a device over time."""
    now = controller.clock()
    step = telemetry.MINUTE if resolution == "minute" else telemetry.HOUR
    until = until or now + step
    since = since or now - 3600
    if (until - since) / step > _MAX_POINTS:
        raise InputError("bad-range", f"the span has over {_MAX_POINTS} points: narrow it")
    with controller.store.read() as connection:
        departures.check_known(connection, device)
        found = telemetry.points(connection, device, step, since, until, slot)
    return models_devices.Series(device=device, points=[views.point(one) for one in found])


@ROUTER.get("/devices/{device}/results")
def list_results(
    controller: TheController, _token: Viewer, device: DeviceId, limit: paging.Limit = 100
) -> models_devices.ResultPage:
    """The newest outputs of the device's local sources."""
    with controller.store.read() as connection:
        departures.check_known(connection, device)
        found = history.results(connection, device, limit)
    return models_devices.ResultPage(
        items=[models_devices.ResultModel(**msgspec.structs.asdict(one)) for one in found]
    )


@ROUTER.get("/metrics", tags=["metrics"])
def get_metrics(
    controller: TheController,
    _token: Viewer,
    seconds: Annotated[float, Query(gt=0, le=14 * 24 * 3600)] = 3600,
    selector_: Annotated[str | None, Query(alias="selector", max_length=4000)] = None,
) -> models.MetricsModel:
    """What the fleet, or some of it, measured in the last while."""
    since = controller.clock() - seconds
    with controller.store.read() as connection:
        chosen = None if selector_ is None else selection.means(selector.parse(selector_))
        names = {sha256: str(ref) for sha256, ref in bundles.names(connection).items()}
        totals = telemetry.fleet_totals(connection, since, chosen)
        counts = devices.counts(connection)
        today = delivery.day_of(controller.clock())
        lost = delivery.loss_totals(connection, today - delivery.RECENT_DAYS)
        over = delivery.over_quota(connection, today, 100)
    return models.MetricsModel(
        since=since,
        devices=counts,
        models=[
            views.figures(slot, bundle, names.get(bundle, ""), found)
            for (slot, bundle), found in sorted(totals.items())
        ],
        dropped=lost.places,
        devices_dropping=lost.devices,
        over_quota=over,
    )
