"""``/v1/rollouts`` and ``/v1/bundles``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Response

from contracts.errors import InputError
from fleet.api import models_rollouts, paging, views
from fleet.api.auth import Operator, TheController, Viewer
from fleet.conductor.runner import Command
from fleet.rollout.spec import NAME_PATTERN, VERSION_PATTERN, RolloutSpec
from fleet.rollout.state import IN_FLIGHT
from fleet.store import audit, bundles, devices, rollouts, setbacks
from fleet.store.rollouts import Stored

ROUTER = APIRouter(prefix="/v1")
RolloutId = Annotated[str, Path(pattern=NAME_PATTERN, examples=["r7"])]
BundleName = Annotated[str, Path(pattern=NAME_PATTERN)]
BundleVersion = Annotated[str, Path(pattern=VERSION_PATTERN)]


def _view(connection: sa.Connection, stored: Stored) -> models_rollouts.RolloutModel:
    waves = rollouts.phase_counts(connection, [stored.state.id])[stored.state.id]
    return views.rollout(stored, waves)


@ROUTER.post("/rollouts", status_code=201, tags=["rollouts"])
def create_rollout(
    controller: TheController,
    token: Operator,
    spec: RolloutSpec,
    response: Response,
    again: Annotated[
        bool, Query(description="also a version that was stopped before in a rollout")
    ] = False,
) -> models_rollouts.RolloutModel:
    """Creates a rollout; it starts at once, or queues behind one on the same devices.

    A version that was stopped before is refused as `stopped-before`, with the rollouts in which
    it was, unless `again` is said.
    """
    detail = {"selector": spec.selector, "waves": [str(wave) for wave in spec.waves]}
    with controller.store.read() as connection:
        ref = bundles.find(connection, spec.bundle, spec.version).ref
        known = setbacks.stopped(connection, ref) if again else []
        setbacks.check(connection, ref, known)
    if known:
        detail["stopped_before"] = known

    def note(connection: sa.Connection) -> None:
        audit.note(
            connection,
            at=controller.clock(),
            actor=token.name,
            role=token.role,
            action="rollout.create",
            target=f"{spec.bundle} {spec.version}",
            detail=detail,
        )

    stored = controller.runner.create(spec, token.name, note)
    controller.wake()
    with controller.store.read() as connection:
        found = _view(connection, stored)
    response.headers["ETag"] = paging.etag(found.version)
    response.headers["Location"] = f"/v1/rollouts/{found.id}"
    return found


@ROUTER.post("/rollouts/plan", tags=["rollouts"])
def plan_rollout(
    controller: TheController, _token: Viewer, spec: RolloutSpec
) -> models_rollouts.PlanModel:
    """What a rollout would do now, without doing it."""
    found = controller.runner.plan(spec)
    return models_rollouts.PlanModel.model_validate(msgspec.to_builtins(found))


@ROUTER.get("/rollouts", tags=["rollouts"])
def list_rollouts(
    controller: TheController,
    _token: Viewer,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 50,
) -> models_rollouts.RolloutPage:
    """Rollouts, newest first."""
    before = paging.decode_number(cursor)
    with controller.store.read() as connection:
        found, following = rollouts.page(connection, before, limit)
        waves = rollouts.phase_counts(connection, [one.state.id for one in found])
    return models_rollouts.RolloutPage(
        items=[views.rollout(one, waves[one.state.id]) for one in found],
        next=paging.encode_cursor(following),
    )


@ROUTER.get("/rollouts/{rollout}", tags=["rollouts"])
def get_rollout(
    controller: TheController, _token: Viewer, rollout: RolloutId, response: Response
) -> models_rollouts.RolloutModel:
    """One rollout, with its members counted and the newest figures of its gates."""
    with controller.store.read() as connection:
        found = _view(connection, rollouts.get(connection, rollout, members=False))
    response.headers["ETag"] = paging.etag(found.version)
    return found


@ROUTER.get("/rollouts/{rollout}/members", tags=["rollouts"])
def list_members(
    controller: TheController,
    _token: Viewer,
    rollout: RolloutId,
    phase: Annotated[str | None, Query(pattern=r"^[a-z-]{1,16}$")] = None,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> models_rollouts.MemberPage:
    """The devices of a rollout, by id."""
    after = paging.decode_cursor(cursor)
    with controller.store.read() as connection:
        rollouts.get(connection, rollout, members=False)
        found, following = rollouts.members_page(connection, rollout, phase, after, limit)
        under_way = devices.some(connection, [m.device for m in found if m.phase in IN_FLIGHT])
    return models_rollouts.MemberPage(
        items=[views.member(one, under_way.get(one.device)) for one in found],
        next=paging.encode_cursor(following),
    )


@ROUTER.get("/rollouts/{rollout}/events", tags=["rollouts"])
def list_events(
    controller: TheController,
    _token: Viewer,
    rollout: RolloutId,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 200,
) -> models_rollouts.EventPage:
    """What happened in a rollout, oldest first; `next` is always there, to ask for news."""
    after = paging.decode_number(cursor) or 0
    with controller.store.read() as connection:
        rollouts.get(connection, rollout, members=False)
        found = rollouts.events(connection, rollout, after, limit)
    last = found[-1].id if found else (after or None)
    return models_rollouts.EventPage(
        items=[
            models_rollouts.EventModel.model_validate(msgspec.to_builtins(one)) for one in found
        ],
        next=paging.encode_cursor(last),
    )


@ROUTER.post("/rollouts/{rollout}/{command}", tags=["rollouts"])
def command_rollout(
    controller: TheController,
    token: Operator,
    rollout: RolloutId,
    command: Literal["approve", "pause", "resume", "abort"],
    response: Response,
    if_match: paging.IfMatch = None,
) -> models_rollouts.RolloutModel:
    """Approves the next wave, pauses, resumes, or aborts with rollback."""
    what: Command = command

    def note(connection: sa.Connection) -> None:
        audit.note(
            connection,
            at=controller.clock(),
            actor=token.name,
            role=token.role,
            action=f"rollout.{what}",
            target=rollout,
        )

    stored = controller.runner.command(
        rollout, what, token.name, version=paging.match(if_match), extra=note
    )
    controller.wake()
    with controller.store.read() as connection:
        found = _view(connection, stored)
    response.headers["ETag"] = paging.etag(found.version)
    return found


@ROUTER.get("/bundles", tags=["bundles"])
def list_bundles(controller: TheController, _token: Viewer) -> models_rollouts.BundlePage:
    """Published bundles, newest first."""
    with controller.store.read() as connection:
        found = bundles.every(connection)
    return models_rollouts.BundlePage(items=[views.bundle(one) for one in found])


@ROUTER.get("/bundles/{name}/{version}", tags=["bundles"])
def get_bundle(
    controller: TheController, _token: Viewer, name: BundleName, version: BundleVersion
) -> models_rollouts.BundleModel:
    """One published bundle."""
    with controller.store.read() as connection:
        return views.bundle(bundles.find(connection, name, version))


@ROUTER.get("/bundles/{name}/{version}/report", tags=["bundles"])
def get_report(
    controller: TheController, _token: Viewer, name: BundleName, version: BundleVersion
) -> dict[str, Any]:
    """The build report of a bundle."""
    with controller.store.read() as connection:
        bundles.find(connection, name, version)
        found = bundles.report(connection, name, version)
    if found is None:
        raise InputError("no-such-report", f"{name} {version} was published without a report")
    return found
