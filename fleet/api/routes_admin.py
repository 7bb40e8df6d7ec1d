"""``/v1/me``, ``/v1/audit``, ``/v1/tokens``, ``/v1/webhooks``, and how devices get certificates."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from contracts.errors import RefusedError
from fleet import access
from fleet.api import models_admin, models_devices, paging
from fleet.api.auth import SHOWN_ONCE, Admin, Anybody, Operator, TheController, Viewer
from fleet.membership import replacing
from fleet.rollout.spec import NAME_PATTERN
from fleet.store import audit, tokens, webhooks
from fleet.store.entries import Actor

ROUTER = APIRouter(prefix="/v1", tags=["administration"])
_Id = Annotated[str, Path(pattern=NAME_PATTERN)]
_Beginning = Annotated[str, Query(max_length=256, description="of the name")]
_Moment = Annotated[float | None, Query(ge=0, le=1e11, description="seconds since the epoch")]


def _filter(
    actor: _Beginning = "",
    action: _Beginning = "",
    target: _Beginning = "",
    since: _Moment = None,
    until: _Moment = None,
    failed: Annotated[
        bool | None, Query(description="true: only what was refused or failed; false: changes")
    ] = None,
) -> audit.Filter:
    return audit.Filter(actor, action, target, since, until, failed)


Wanted = Annotated[audit.Filter, Depends(_filter)]


@ROUTER.get("/me")
def get_me(controller: TheController, token: Viewer) -> models_admin.Me:
    """Who the token is, and of which fleet."""
    return models_admin.Me(fleet=controller.fleet.config.fleet, name=token.name, role=token.role)


@ROUTER.get("/audit")
def list_audit(
    controller: TheController,
    _token: Operator,
    wanted: Wanted,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> models_admin.AuditPage:
    """Every change, and what was refused, newest first."""
    before = paging.decode_number(cursor)
    controller.attempts.write()
    with controller.store.read() as connection:
        found, following = audit.page(connection, before, limit, wanted)
    return models_admin.AuditPage(
        items=[models_admin.AuditModel(**msgspec.structs.asdict(one)) for one in found],
        next=paging.encode_cursor(following),
    )


@ROUTER.get("/tokens")
def list_tokens(controller: TheController, _token: Admin) -> models_admin.TokenPage:
    """All tokens, without their secrets."""
    with controller.store.read() as connection:
        found = tokens.every(connection)
    return models_admin.TokenPage(
        items=[models_admin.TokenModel(**msgspec.structs.asdict(one)) for one in found]
    )


@ROUTER.post("/tokens", status_code=201, dependencies=[SHOWN_ONCE])
def create_token(
    controller: TheController, token: Admin, new: models_admin.NewToken
) -> models_admin.MadeToken:
    """Makes a token; its secret is shown this once."""
    actor = Actor(token.name, token.role)
    secret = access.new_token(controller, new.name, new.role, new.seconds, actor)
    return models_admin.MadeToken(token=secret)


@ROUTER.delete("/tokens/{identifier}", status_code=204)
def revoke_token(
    controller: TheController, token: Admin, request: Request, identifier: _Id
) -> Response:
    """Revokes a token."""
    access.revoke_token(controller, identifier, token, Actor(token.name, token.role))
    request.app.state.gatekeeper.forget()
    return Response(status_code=204)


@ROUTER.get("/webhooks")
def list_webhooks(controller: TheController, _token: Admin) -> models_admin.WebhookPage:
    """All webhooks, without their secrets."""
    with controller.store.read() as connection:
        found = webhooks.every(connection)
    return models_admin.WebhookPage(items=[_webhook(one) for one in found])


@ROUTER.post("/webhooks", status_code=201, dependencies=[SHOWN_ONCE])
def create_webhook(
    controller: TheController, token: Admin, new: models_admin.NewWebhook
) -> models_admin.WebhookModel:
    """Adds a webhook; its secret, which signs every delivery, is shown this once."""
    actor = Actor(token.name, token.role)
    hook = access.new_webhook(controller, new.url, new.events, new.secret, actor)
    return _webhook(hook, secret=hook.secret)


@ROUTER.delete("/webhooks/{webhook}", status_code=204)
def delete_webhook(controller: TheController, token: Admin, webhook: _Id) -> Response:
    """Removes a webhook, and what was still to be delivered to it."""
    access.remove_webhook(controller, webhook, Actor(token.name, token.role))
    return Response(status_code=204)


def _webhook(hook: webhooks.Webhook, secret: str | None = None) -> models_admin.WebhookModel:
    return models_admin.WebhookModel(
        id=hook.id, url=hook.url, events=hook.events, created_at=hook.created_at, secret=secret
    )


@ROUTER.post("/enroll", tags=["devices"])
def enroll_by_token(
    controller: TheController, _limited: Anybody, body: models_devices.EnrolmentBody
) -> models_devices.EnrolledDevice:
    """Enrols the device of a one-time token; the token is all that is asked for.

    The signing request keeps the private key on the device. The answer is the device's
    configuration.
    """
    request = body.request.encode("utf-8", "surrogatepass")
    config = replacing.admit_by_token(controller.fleet, body.token, request)
    return models_devices.EnrolledDevice.model_validate(msgspec.to_builtins(config))


@ROUTER.post("/certificates/renew", tags=["devices"])
def renew_certificate(
    controller: TheController, _limited: Anybody, request: Request, body: models_devices.RenewalBody
) -> models_devices.RenewedCertificate:
    """A device's next certificate. The current certificate's key signs the request: no token."""
    try:
        pem = controller.fleet.renew(
            body.certificate.encode("utf-8", "surrogatepass"),
            body.request.encode("utf-8", "surrogatepass"),
            body.signature,
        )
    except RefusedError as error:
        if error.code == "superseded":
            peer = request.client.host if request.client else ""
            controller.note_copy(str(error.info.detail.get("device", "")), peer)
        raise
    return models_devices.RenewedCertificate(certificate=pem)
