"""How devices leave, who left, who has one identity with another, and what runs out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from fleet.api import models_admin, models_devices, paging
from fleet.api.auth import SHOWN_ONCE, Admin, TheController, Viewer
from fleet.api.routes_devices import DeviceId
from fleet.membership import leaving
from fleet.store import clones, departures
from fleet.store.entries import Actor
from fleet.store.tokens import Token

ROUTER = APIRouter(prefix="/v1", tags=["devices"])


def _actor(token: Token) -> Actor:
    return Actor(token.name, token.role)


@ROUTER.post("/devices/{device}/revoke")
def revoke_device(
    controller: TheController, token: Admin, device: DeviceId
) -> models_devices.Departure:
    """Revokes a device: its certificates, and everything it may do. It stays in the list."""
    found = leaving.revoke(controller.fleet, device, _actor(token))
    controller.wake()
    return models_devices.Departure.model_validate(msgspec.to_builtins(found))


@ROUTER.post("/devices/{device}/retire")
def retire_device(
    controller: TheController, token: Admin, device: DeviceId
) -> models_devices.Departure:
    """Takes a device out of the fleet: its history stays, under another id; its name is free."""
    found = leaving.retire(controller.fleet, device, _actor(token))
    controller.wake()
    return models_devices.Departure.model_validate(msgspec.to_builtins(found))


@ROUTER.post("/devices/{device}/rename", dependencies=[SHOWN_ONCE])
def rename_device(
    controller: TheController, token: Admin, device: DeviceId, body: models_devices.NewName
) -> models_devices.Renamed:
    """Gives a device another name; its history goes with it.

    What it had counts no more: it enrols itself under the new name with the one-time token that
    is shown this once (`shoal-agent enroll`).
    """
    renamed = leaving.rename_by_token(controller.fleet, device, body.name, _actor(token))
    controller.wake()
    return models_devices.Renamed.model_validate(msgspec.to_builtins(renamed))


@ROUTER.get("/departures")
def list_departures(
    controller: TheController,
    _token: Viewer,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> models_devices.DeparturePage:
    """Devices that were retired or renamed; their history is under `id`."""
    with controller.store.read() as connection:
        found, following = departures.page(connection, paging.decode_cursor(cursor), limit)
    return models_devices.DeparturePage(
        items=[models_devices.Gone.model_validate(msgspec.to_builtins(one)) for one in found],
        next=paging.encode_cursor(following),
    )


@ROUTER.get("/clones")
def list_clones(
    controller: TheController,
    _token: Viewer,
    seconds: Annotated[float, Query(gt=0, le=366 * 24 * 3600)] = clones.QUIET_S,
) -> models_devices.ClonePage:
    """Identities that more than one device has, with a sign of it in the last while."""
    with controller.store.read() as connection:
        found = clones.every(connection, controller.clock() - seconds)
    return models_devices.ClonePage(
        items=[
            models_devices.CloneModel(
                device=device,
                message=clones.describe(device, clone),
                sign=clone.sign,
                since=clone.since,
                at=clone.at,
                count=clone.count,
                addresses=clones.addresses(clone),
                boots=[one.boot for one in clone.devices],
            )
            for device, clone in found
        ]
    )


@ROUTER.get("/expiry", tags=["administration"])
def list_expiry(controller: TheController, _token: Viewer) -> models_admin.ExpiryPage:
    """All that runs out: roles, certificates, the revocation list, tokens; the first end first."""
    now = controller.clock()
    return models_admin.ExpiryPage(
        items=[
            models_admin.ExpiryModel(
                kind=item.kind,
                name=item.name,
                expires=item.expires,
                todo=item.todo,
                warning_days=item.days(now),
            )
            for item in controller.expiring()
        ]
    )
