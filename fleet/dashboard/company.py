"""Sign-in with an account of a provider: to it, back from it, and who that is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from contracts.errors import RefusedError, ShoalError
from fleet.api.auth import Gatekeeper
from fleet.api.errors import ApiError
from fleet.api.refusals import COUNTED, address
from fleet.controller import Controller
from fleet.dashboard.render import render
from fleet.dashboard.session import COOKIE, Sessions
from fleet.dashboard.site import PREFIX
from fleet.openid.config import email_of, role_of
from fleet.openid.flow import LASTS_S, Begun, Pending
from fleet.openid.provider import Provider
from fleet.store import audit
from fleet.store.entries import DONE, Actor
from fleet.store.tokens import Token

BEGIN: Final = f"{PREFIX}/login/account"
BACK: Final = f"{PREFIX}/login/back"
BROWSER: Final = "shoal_sign_in"
"""A cookie that says which browser began a sign-in."""

_MAX_CODE: Final = 4096
_ACCOUNT: Final = "openid-"
_STATUS: Final = {"no-role": 403, "provider-unreachable": 503}


def provider_of(controller: Controller) -> Provider | None:
    """The provider of a fleet; None: people sign in with tokens alone."""
    fleet = controller.fleet
    if fleet.config.openid is None:
        return None
    redirect = f"{fleet.api_url.rstrip('/')}{BACK}"
    return Provider(
        fleet.config.openid, fleet.folder, redirect, ca=fleet.own_ca(), clock=controller.clock
    )


def add(
    app: FastAPI,
    controller: Controller,
    provider: Provider,
    sessions: Sessions,
    inside: Callable[[str], str],
) -> None:
    """Adds the two addresses.

    Args:
        app: the controller's.
        controller: whose fleet.
        provider: who knows the accounts.
        sessions: who is signed in.
        inside: a page of the dashboard from what was asked for.
    """
    gatekeeper: Gatekeeper = app.state.gatekeeper
    pending = Pending()

    def page(status: int, problem: str) -> Response:
        html = render(
            "login.html", fleet=controller.fleet.config.fleet, problem=problem, next="",
            account=provider.config.title, begin=BEGIN,
        )  # fmt: skip
        return HTMLResponse(html, status)

    @app.get(BEGIN, include_in_schema=False)
    async def begin(request: Request) -> Response:
        try:
            gatekeeper.limit_open(address(request.scope))
        except ApiError:
            return page(429, "Too many tries. Wait a moment.")
        begun = pending.begin(request.query_params.get("next", ""))
        try:
            url = await run_in_threadpool(
                provider.address, begun.state, begun.nonce, begun.verifier
            )
        except ShoalError as error:
            return page(503, f"{error.info.message} Sign in with a token.")
        response = RedirectResponse(url, 303)
        # Lax: the way back from the provider is a navigation from another site.
        response.set_cookie(
            BROWSER, begun.browser, max_age=int(LASTS_S), path=f"{PREFIX}/login", httponly=True,
            samesite="lax", secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    @app.get(BACK, include_in_schema=False)
    async def back(request: Request) -> Response:
        peer = address(request.scope)
        try:
            gatekeeper.limit_open(peer)
        except ApiError:
            return page(429, "Too many tries. Wait a moment.")
        given = request.query_params
        begun = pending.take(given.get("state", ""), request.cookies.get(BROWSER, ""))
        try:
            if begun is None:
                raise RefusedError(
                    "sign-in-refused", "This sign-in is over, or began in another browser."
                )
            token = await run_in_threadpool(_who, provider, begun, dict(given), controller.clock)
        except ShoalError as error:
            request.scope["state"][COUNTED] = True
            actor = Actor(peer, audit.NOBODY, "dashboard")
            await run_in_threadpool(
                controller.attempts.count, actor, "session.begin", "dashboard", error.code
            )
            return page(_STATUS.get(error.code, 400), error.info.message)
        actor = Actor(token.name, token.role, "dashboard")
        await run_in_threadpool(
            audit.count, controller.store, actor, "session.begin", "dashboard", DONE,
            controller.clock(),
        )  # fmt: skip
        length = provider.config.hours * 3600.0
        # Not a redirect: a browser that comes from another site brings no strict cookie along.
        response = HTMLResponse(render("signed_in.html", following=inside(begun.following)))
        response.set_cookie(
            COOKIE, sessions.begin_as(token, length), max_age=int(length), path=PREFIX,
            httponly=True, samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip
        response.delete_cookie(BROWSER, path=f"{PREFIX}/login")
        return response


def _who(
    provider: Provider, begun: Begun, given: dict[str, str], clock: Callable[[], float]
) -> Token:
    """Who came back.

    Raises:
        RefusedError: ``sign-in-refused``, ``no-role``.
        UnavailableError: ``provider-unreachable``.
    """
    if "error" in given:
        why = "".join(c if c.isprintable() else " " for c in given["error"])[:100]
        raise RefusedError("sign-in-refused", f"The provider says: {why}")
    code = given.get("code", "")
    if not 0 < len(code) <= _MAX_CODE:
        raise RefusedError("sign-in-refused", "The provider sent no code.")
    claims = provider.claims(code, begun.nonce, begun.verifier, given.get("iss"))
    role = role_of(claims, provider.config)
    email, subject = email_of(claims, provider.config), str(claims["sub"])
    # Nothing that people choose themselves: it is the name in the audit log.
    name = email or f"account {subject}"
    name = "".join(c if c.isprintable() else "?" for c in name)[:128]
    if role is None:
        raise RefusedError("no-role", f"{name} has no role in this fleet: ask an admin of it.")
    mark = hashlib.sha256(f"{provider.config.issuer}\n{subject}".encode()).hexdigest()[:24]
    return Token(f"{_ACCOUNT}{mark}", name, role, clock(), None, None)


def is_account(token: Token) -> bool:
    """Whether somebody came with an account of the provider, not with a token."""
    return token.id.startswith(_ACCOUNT)


def login_address(following: str) -> str:
    """Where the button of the login page leads."""
    return f"{BEGIN}?next={quote(following)}" if following else BEGIN
