"""Puts the dashboard on the controller's app: sign-in, headers, pages."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet.api.auth import Gatekeeper
from fleet.api.errors import ApiError
from fleet.api.refusals import address
from fleet.controller import Controller
from fleet.dashboard import company, pages, receiving
from fleet.dashboard.data import Data
from fleet.dashboard.render import render
from fleet.dashboard.session import COOKIE, LIFETIME_S, Sessions
from fleet.dashboard.site import PREFIX, Site
from fleet.dashboard.work import Work
from fleet.openid.provider import Provider

# Vue compiles templates in the browser, which needs eval; nothing may come from elsewhere.
_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_OPEN: Final = (f"{PREFIX}/login", f"{PREFIX}/_nicegui/", f"{PREFIX}/favicon.ico")
MAX_FORM_BYTES: Final = 4096


def mount(app: FastAPI, controller: Controller) -> None:
    """Adds the dashboard below ``/ui``; ``/`` leads there.

    Args:
        app: the controller's; its own routes go first.
        controller: what the pages show and command.
    """
    gatekeeper: Gatekeeper = app.state.gatekeeper
    sessions = Sessions(gatekeeper.find)
    site = Site(Data(controller), sessions, Work(controller))
    provider = company.provider_of(controller)
    if provider is not None:
        company.add(app, controller, provider, sessions, _inside)
    _add_sign_in(app, gatekeeper, site, provider)
    receiving.add(app, site)
    pages.register(site)
    ui.run_with(
        app,
        mount_path=PREFIX,
        title="Shoal",
        favicon=pages.FAVICON,
        tailwind=False,
        dark=None,
        show_welcome_message=False,
        reconnect_timeout=10.0,
    )
    app.add_middleware(Gate, sessions=sessions, url=controller.fleet.api_url)


def _add_sign_in(
    app: FastAPI, gatekeeper: Gatekeeper, site: Site, provider: Provider | None
) -> None:
    sessions, fleet = site.sessions, site.data.fleet
    account = provider.config.title if provider is not None else ""

    def page(status: int = 200, problem: str = "", following: str = "") -> HTMLResponse:
        html = render(
            "login.html", fleet=fleet, problem=problem, next=following, account=account,
            begin=company.login_address(following),
        )  # fmt: skip
        return HTMLResponse(html, status)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse(f"{PREFIX}/")

    @app.get(f"{PREFIX}/login", include_in_schema=False)
    async def show(request: Request) -> HTMLResponse:
        return page(following=request.query_params.get("next", ""))

    @app.post(f"{PREFIX}/login", include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                return page(413, "That is too long to be a token.")
        form = parse_qs(body.decode("utf-8", "replace"))
        secret, following = form.get("token", [""])[0].strip(), form.get("next", [""])[0]
        peer = address(request.scope)
        try:
            token = await gatekeeper.check(secret, peer)
        except ApiError as error:
            if error.code == "rate-limited":
                return page(429, "Too many tries. Wait a moment.", following)
            return page(401, "This token is not valid. Check that all of it was pasted.", following)
        if not token.may("viewer"):
            return page(403, "This token reads pooled figures alone, over the API.", following)
        await run_in_threadpool(site.data.signed, token, "session.begin")
        response = RedirectResponse(_inside(following), 303)
        response.set_cookie(
            COOKIE,
            sessions.begin(secret),
            max_age=int(LIFETIME_S),
            path=PREFIX,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @app.post(f"{PREFIX}/logout", include_in_schema=False)
    async def sign_out(request: Request) -> Response:
        cookie = request.cookies.get(COOKIE)
        token = await sessions.token(cookie)
        sessions.end(cookie)
        if token is not None:
            await run_in_threadpool(site.data.signed, token, "session.end")
        elsewhere = ""
        if token is not None and provider is not None and company.is_account(token):
            elsewhere = await run_in_threadpool(provider.farewell)
        response: Response = RedirectResponse(f"{PREFIX}/login", 303)
        if elsewhere:
            # A link: what a form leads to may not be of another site.
            response = HTMLResponse(render("signed_out.html", fleet=fleet, elsewhere=elsewhere))
        response.delete_cookie(COOKIE, path=PREFIX)
        return response


def _inside(target: str) -> str:
    """`target` when it is a page of the dashboard; else the first page."""
    parts = urlsplit(target)
    local = not parts.scheme and not parts.netloc and target.startswith(f"{PREFIX}/")
    return target if local and "\\" not in target and "//" not in target else f"{PREFIX}/"


class Gate:
    """Lets nobody in who is not signed in, and tells browsers to load nothing from elsewhere.

    What a browser sends for a page of another site is refused, session or not: a websocket, and
    whatever changes something.

    Args:
        app: what is behind it.
        sessions: who is signed in.
        url: of the fleet, where it has another name than that which a request asks for.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, url: str) -> None:
        self._app = app
        self._sessions = sessions
        self._url = url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        path = scope.get("path", "")
        ours = path == PREFIX or path.startswith(f"{PREFIX}/")
        if scope["type"] not in ("http", "websocket") or not ours:
            await self._app(scope, receive, send)
            return
        if not self._from_here(scope):
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 4403})
                return
            await HTMLResponse("This came from a page of another site.", 403)(scope, receive, send)
            return
        if not path.startswith(_OPEN) and await self._sessions.token(_cookie(scope)) is None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 4401})
                return
            query = scope.get("query_string", b"").decode("latin-1")
            following = quote(path + (f"?{query}" if query else ""))
            response = RedirectResponse(f"{PREFIX}/login?next={following}", 303)
            await response(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Frame-Options"] = "DENY"
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, with_headers)

    def _from_here(self, scope: Scope) -> bool:
        """Whether a request is of a page of ours; programs other than browsers do not say."""
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            return True
        said = [value for name, value in scope["headers"] if name == b"origin"]
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        secure = scope["scheme"] in ("https", "wss")
        ours = {
            _place(f"{'https' if secure else 'http'}://{host.decode('latin-1')}"),
            _place(self._url),
        }
        return all(_place(one.decode("latin-1")) in ours - {None} for one in said)


def _place(url: str) -> tuple[str, int] | None:
    """Host and port of a URL; the scheme may differ behind a proxy."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


def _cookie(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                return None
            return found.value if found else None
    return None
