"""How a board joins by one line: the authority, the installer, what to install, and its bytes.

What a stranger may have (the authority's certificate, the installer's text) needs no token.
Everything else needs a one-time token that still counts; who has none learns nothing.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Response
from fastapi.responses import FileResponse, PlainTextResponse

from contracts.errors import InputError, RefusedError
from fleet.api import models_devices
from fleet.api.auth import SHOWN_ONCE, Admin, Anybody, TheController
from fleet.controller import Controller
from fleet.identity.registry import Invitation
from fleet.joining import installer, serials, wheelhouse
from fleet.joining.invitations import Wanted
from fleet.repository import releases
from fleet.repository.releases import Published
from fleet.store import audit
from fleet.store.entries import DONE, Actor

ROUTER = APIRouter(tags=["devices"])
_Token = Annotated[str, Header(alias="Shoal-Token", max_length=256)]
_Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


@ROUTER.get("/join/ca", include_in_schema=False)
def authority(controller: TheController, _limited: Anybody) -> Response:
    """The certificate of the fleet's authority (DER), which the line knows the SHA-256 of."""
    der = installer.authority(controller.fleet)
    if not der:
        raise InputError("no-such-path", "the API's certificate is of no authority of the fleet")
    return Response(der, media_type="application/pkix-cert", headers={"Cache-Control": "no-store"})


@ROUTER.get("/join/install", include_in_schema=False)
def install(controller: TheController, _limited: Anybody) -> Response:
    """The installer."""
    text = installer.render(controller.fleet)
    return PlainTextResponse(text, headers={"Cache-Control": "no-store"})


@ROUTER.post("/v1/join")
def plan_joining(
    controller: TheController, _limited: Anybody, body: models_devices.JoinBody
) -> models_devices.JoinPlan:
    """What a board installs, by a one-time token, which is not used up by it."""
    fleet = controller.fleet
    invited = fleet.open_identity().invited(body.token)
    profile = invited.profile
    chosen = _choose(controller, invited, [(one[0], one[1]) for one in body.choices])
    who = Actor(profile.device, "token")
    audit.count(controller.store, who, "device.join", profile.device, DONE, controller.clock())
    return models_devices.JoinPlan(
        fleet=fleet.config.fleet,
        device=profile.device,
        board=profile.board,
        used=invited.used is not None,
        release=models_devices.JoinRelease(
            version=chosen.version,
            platform=chosen.platform,
            python=chosen.python,
            sha256=chosen.sha256,
            size=chosen.size,
        ),
    )


@ROUTER.post("/v1/claim", dependencies=[SHOWN_ONCE])
def claim_serial(
    controller: TheController, _limited: Anybody, body: models_devices.ClaimBody
) -> models_devices.Claimed:
    """The one-time token of a board that is on the list, by its serial number and a claim token."""
    token, device = serials.claim(controller.fleet, body.token, body.serial, body.machine)
    who = Actor(device, "token")
    audit.count(controller.store, who, "device.claim", device, DONE, controller.clock())
    return models_devices.Claimed(device=device, token=token)


@ROUTER.get("/v1/serials")
def list_serials(controller: TheController, _token: Admin) -> models_devices.BoardPage:
    """Boards that join by their serial number."""
    return models_devices.BoardPage(
        items=[
            models_devices.BoardModel(
                serial=one.serial,
                device=one.profile.device,
                board=one.profile.board,
                labels=one.profile.labels,
                groups=one.profile.groups,
                claimed=one.claimed,
            )
            for one in serials.every(controller.fleet)
        ]
    )


@ROUTER.post("/v1/serials", status_code=201)
def add_serials(
    controller: TheController, token: Admin, new: models_devices.NewBoards
) -> models_devices.BoardPage:
    """Lists boards by serial number; answers with the whole list."""
    wanted = [
        Wanted(one.name or one.serial.lower(), one.board, one.labels, one.groups, one.serial)
        for one in new.boards
    ]
    serials.add(controller.fleet, wanted, Actor(token.name, token.role))
    return list_serials(controller, token)


@ROUTER.post("/v1/serials/line", status_code=201, dependencies=[SHOWN_ONCE])
def new_line(
    controller: TheController, token: Admin, new: models_devices.NewLine
) -> models_devices.Line:
    """The line that is typed on each board of the list; it is shown this once."""
    made = serials.line(controller.fleet, new.seconds, Actor(token.name, token.role))
    return models_devices.Line(command=made)


@ROUTER.delete("/v1/serials/{serial}", status_code=204)
def remove_serial(
    controller: TheController, token: Admin, serial: Annotated[str, Path(max_length=128)]
) -> Response:
    """Takes a board off the list; a device that it became stays one."""
    serials.remove(controller.fleet, serial, Actor(token.name, token.role))
    return Response(status_code=204)


@ROUTER.get("/v1/join/releases/{sha256}", include_in_schema=False)
def release_bytes(
    controller: TheController, _limited: Anybody, sha256: _Sha256, token: _Token = ""
) -> Response:
    """A signed release, to who has a one-time token; ranges are served."""
    controller.fleet.open_identity().invited(token)
    for one in releases.published(controller.repository):
        if one.sha256 == sha256:
            return FileResponse(
                controller.repository.folder / one.path, media_type="application/octet-stream"
            )
    raise InputError("no-such-path", "no signed release has this content")


def _choose(
    controller: Controller, invited: Invitation, choices: list[tuple[str, str]]
) -> Published:
    """The newest release for the first of a board's Pythons that there is one for."""
    platform, board = wheelhouse.platform_of(invited.profile.board), invited.profile.board
    mine = [one for one in choices if one[0] == platform]
    if not mine:
        raise RefusedError(
            "wrong-board",
            f"the token is for a {board} ({platform}); this machine is {choices[0][0]}: make one "
            "for its board (`shoal boards list`)",
        )
    for where, python in mine:
        found = releases.newest(controller.repository, where, python)
        if found is not None:
            return found
    pythons = " or ".join(f"3.{python[3:]}" for _, python in mine)
    raise RefusedError(
        "no-release",
        f"the fleet keeps no agent for {platform} and Python {pythons}: on the controller run "
        f"`shoal fleet agent fetch --platform {board} --python 3.{mine[0][1][3:]}`, then type the "
        "same line again",
    )
