"""``/v1/me``, ``/v1/audit``, ``/v1/tokens``, ``/v1/webhooks``, and how devices get certificates."""

from __future__ import annotations

import contextlib
import secrets
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from contracts.errors import RefusedError
from fleet.api import models_admin, models_devices, paging
from fleet.api.auth import SHOWN_ONCE, Admin, Anybody, Operator, TheController, Viewer
from fleet.rollout.spec import NAME_PATTERN
from fleet.store import audit, tokens, webhooks

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
    now = controller.clock()
    with controller.store.write() as connection:
        until = now + new.seconds if new.seconds is not None else None
        secret = tokens.create(connection, new.name, new.role, now, until)
        audit.note(
            connection,
            at=now,
            actor=token.name,
            role=token.role,
            action="token.create",
            target=new.name,
            detail={"role": new.role},
        )
    return models_admin.MadeToken(token=secret)


@ROUTER.delete("/tokens/{identifier}", status_code=204)
def revoke_token(
    controller: TheController, token: Admin, request: Request, identifier: _Id
) -> Response:
    """Revokes a token."""
    if identifier == token.id:
        raise RefusedError("own-token", "a token cannot revoke itself: use another admin token")
    with controller.store.write() as connection:
        tokens.revoke(connection, identifier, controller.clock())
        audit.note(
            connection,
            at=controller.clock(),
            actor=token.name,
            role=token.role,
            action="token.revoke",
            target=identifier,
        )
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
    now = controller.clock()
    host, port = webhooks.endpoint(new.url)
    with contextlib.suppress(OSError):  # a name that is not known now may be later
        controller.webhook_hosts.resolve(host, port)
    hook = webhooks.Webhook(
        f"w{secrets.token_hex(6)}",
        new.url,
        new.secret or secrets.token_urlsafe(32),
        list(new.events),
        now,
        1,
    )
    with controller.store.write() as connection:
        if len(webhooks.every(connection)) >= webhooks.MAX_WEBHOOKS:
            raise RefusedError("too-many", f"there are {webhooks.MAX_WEBHOOKS} webhooks already")
        webhooks.add(connection, hook)
        audit.note(
            connection,
            at=now,
            actor=token.name,
            role=token.role,
            action="webhook.create",
            target=hook.id,
            # The rest of a URL is often a secret; the log is for operators too.
            detail={"to": webhooks.origin(hook.url), "events": hook.events},
        )
    return _webhook(hook, secret=hook.secret)


@ROUTER.delete("/webhooks/{webhook}", status_code=204)
def delete_webhook(controller: TheController, token: Admin, webhook: _Id) -> Response:
    """Removes a webhook, and what was still to be delivered to it."""
    with controller.store.write() as connection:
        webhooks.remove(connection, webhook)
        audit.note(
            connection,
            at=controller.clock(),
            actor=token.name,
            role=token.role,
            action="webhook.delete",
            target=webhook,
        )
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
    config = controller.fleet.redeem(body.token, body.request.encode("utf-8", "surrogatepass"))
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
