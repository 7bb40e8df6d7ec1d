"""What the API refuses, in the audit log; and which requests change something.

Routes note what they changed in the change's own transaction. Here is the other half: a request
without a valid token, one beyond its role, and a change that was refused or failed.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.controller import Controller
from fleet.store import audit
from fleet.store.entries import CLIENT, CLIENT_HEADER, Actor
from fleet.store.tokens import Token

CHANGES: Final = {
    ("PATCH", "/v1/devices"): "device.change",
    ("PATCH", "/v1/devices/{device}"): "device.change",
    ("POST", "/v1/devices/{device}/revoke"): "device.revoke",
    ("POST", "/v1/devices/{device}/retire"): "device.retire",
    ("POST", "/v1/devices/{device}/rename"): "device.rename",
    ("POST", "/v1/devices/{device}/logs"): "device.logs",
    ("POST", "/v1/rollouts"): "rollout.create",
    ("POST", "/v1/rollouts/{rollout}/{command}"): "rollout.{command}",
    ("POST", "/v1/improvements"): "model.improve",
    ("POST", "/v1/lessons"): "lesson.teach",
    ("POST", "/v1/lessons/undo"): "lesson.undo",
    ("POST", "/v1/samples/asks"): "samples.ask",
    ("POST", "/v1/samples/asks/{ask}/collect"): "samples.collect",
    ("DELETE", "/v1/samples"): "samples.delete",
    ("POST", "/v1/samples/labels"): "samples.label",
    ("DELETE", "/v1/samples/labels"): "samples.unlabel",
    ("POST", "/v1/tokens"): "token.create",
    ("DELETE", "/v1/tokens/{identifier}"): "token.revoke",
    ("POST", "/v1/alerts/rules"): "alert.add",
    ("DELETE", "/v1/alerts/rules/{rule}"): "alert.remove",
    ("POST", "/v1/alerts/rules/{rule}/silence"): "alert.silence",
    ("POST", "/v1/alerts/test"): "alert.test",
    ("POST", "/v1/webhooks"): "webhook.create",
    ("DELETE", "/v1/webhooks/{webhook}"): "webhook.delete",
    ("POST", "/v1/enroll"): "device.enroll",
    ("POST", "/v1/join"): "device.join",
    ("POST", "/v1/claim"): "device.claim",
    ("POST", "/v1/serials"): "device.serials",
    ("POST", "/v1/serials/line"): "device.serials",
    ("DELETE", "/v1/serials/{serial}"): "device.serial-remove",
    ("POST", "/v1/certificates/renew"): "certificate.renew",
    ("POST", "/ui/login"): "session.begin",
    ("POST", "/ui/logout"): "session.end",
    ("POST", "/ui/upload"): "bundle.publish",
}
"""Requests that change something, and what their entries are called."""

_OPEN: Final = frozenset(
    {
        ("POST", "/v1/enroll"),
        ("POST", "/v1/join"),
        ("POST", "/v1/claim"),
        ("POST", "/v1/certificates/renew"),
    }
)
"""Changes for which no bearer token is asked."""

LOGIN: Final = "login"
"""The action of a request without a valid token."""

FORBIDDEN: Final = "forbidden"
"""The action of a request that reads what its token's role may not."""

COUNTED: Final = "counted"
"""In the state of a request whose refusal was counted by whoever refused it, in better words."""

_CODES: Final = {401: "unauthorized", 413: "too-large", 429: "rate-limited"}
_MAX_BODY: Final = 64 * 1024


class Refusals:
    """Counts refused requests of the API and the dashboard's sign-in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        CLIENT.set(_client(scope))
        controller: Controller = scope["app"].state.controller
        held: Message | None = None
        body = b""

        async def counted(message: Message) -> None:
            """An answer that refuses goes out when the refusal is counted."""
            nonlocal held, body
            refuses = message["type"] == "http.response.start" and message["status"] >= 400
            if refuses and not scope["state"].get(COUNTED):
                held = message
                return
            if held is None:
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False) and len(body) < _MAX_BODY:
                return
            start, held = held, None
            await _count(controller, refused(scope, start["status"], _code(start["status"], body)))
            await send(start)
            await send({**message, "body": body})

        try:
            await self._app(scope, receive, counted)
        except Exception:
            await _count(controller, refused(scope, 500, audit.DEFECT))
            raise


async def _count(controller: Controller, kind: tuple[Actor, str, str, str] | None) -> None:
    if kind is not None:
        await run_in_threadpool(controller.attempts.count, *kind)


def refused(scope: Scope, status: int, code: str) -> tuple[Actor, str, str, str] | None:
    """Who, what, to what, and the code; None: nothing was tried that anybody must know of."""
    route = getattr(scope.get("route"), "path", "")
    action = CHANGES.get((scope["method"], route), "")
    values: dict[str, Any] = scope.get("path_params") or {}
    token: Token | None = scope["state"].get("token")
    by = "dashboard" if route.startswith("/ui/") else "api"
    if status == 401 or (status == 429 and token is None):
        action = action if (scope["method"], route) in _OPEN else LOGIN
    elif not action:
        action = FORBIDDEN if status == 403 else ""
    if not action:
        return None
    if "{command}" in action:
        action = action.format(command=str(values.get("command", ""))[:20])
    target = next((str(v) for k, v in values.items() if k != "command"), "")
    if action in (LOGIN, FORBIDDEN):
        target = by if action == LOGIN else route
    return actor_of(scope, token, by), action, target, code


def actor_of(scope: Scope, token: Token | None, by: str) -> Actor:
    """Who asks: the token's owner, else an address."""
    if token is not None:
        return Actor(token.name, token.role, by)
    return Actor(address(scope), audit.NOBODY, by)


def address(scope: Scope) -> str:
    """Where a request is from, as :func:`network`."""
    client = scope.get("client")
    return network(str(client[0]) if client else "?")


def network(host: str) -> str:
    """An address; of IPv6 the network, as one machine has all of its addresses."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        if not (found.is_loopback or found.is_link_local):
            return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)


def _client(scope: Scope) -> str:
    """What the program says of itself; its word alone, so beside the actor, never as it."""
    for name, value in scope["headers"]:
        if name == CLIENT_HEADER.lower().encode():
            text = unquote(value[:600].decode("latin-1"))[:128]
            return "".join(c if c.isprintable() else "?" for c in text)
    return ""


class _Info(msgspec.Struct):
    code: str


class _Error(msgspec.Struct):
    error: _Info


def _code(status: int, body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Error).error.code
    except msgspec.DecodeError:
        return _CODES.get(status, f"status-{status}")
