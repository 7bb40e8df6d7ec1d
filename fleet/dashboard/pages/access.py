"""Who may what: tokens with their roles, made and revoked; whom a provider's accounts are."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import Request
from nicegui import ui

from contracts.errors import RefusedError
from fleet.dashboard.layout import RESPONSE_S, attempt, confirm, frame, html, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site, Visit

_ROLES: Final = {
    "viewer": "viewer: looks",
    "operator": "operator: asks devices, rolls out, labels",
    "admin": "admin: all",
    "pooled": "pooled: pooled figures alone, over the API",
}


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/access", response_timeout=RESPONSE_S)
    async def access(request: Request) -> None:
        visit = await site.visit(request)
        with frame(visit, "Access", "/access"):
            html("<h1>Access</h1>")
            opened = visit.opened_by
            if opened is None or not visit.may("admin"):
                problem(RefusedError("forbidden", "Tokens and roles need the role admin."))
                return

            def tokens() -> str:
                found = site.work.tokens(opened)
                return render("tokens.html", tokens=found, own=opened.id, now=site.data.now)

            with ui.element("section").classes("card stack").props('aria-label="New token"'):
                _make(visit)
            with ui.element("section").classes("card").props('aria-label="Tokens"'):
                html("<h2>Tokens</h2>")
                await live(tokens, visit, every_s=3.0)
                _revoke(visit)
            with ui.element("section").classes("card").props('aria-label="Accounts"'):
                html(render("accounts.html", roles=site.work.accounts()))


def _make(visit: Visit) -> None:
    html("<h2>New token</h2>")
    name = ui.input("Name of who gets it").props("maxlength=128 autocomplete=off")
    role = ui.select(_ROLES, value="viewer", label="Role")
    days = ui.number("Days that it lasts; 0: until it is revoked", value=90, min=0, max=3650)
    for field in (name, role, days):
        field.props("outlined dense").style("width: 100%")
    with ui.element("div").classes("tools"):
        make = ui.button("Make the token").props("unelevated")
    shown = ui.element("div").classes("stack").props("role=status aria-live=polite")

    async def give() -> None:
        token = await visit.signed_in()
        secret = await asyncio.to_thread(
            visit.site.work.new_token,
            str(name.value or ""),
            str(role.value),
            float(days.value or 0),
            token,
        )
        shown.clear()
        with shown:
            html(render("token_made.html", secret=secret))
            ui.button("Copy").props("unelevated").on(
                "click", js_handler="() => shoalCopy('token-secret', 'token-copied')"
            )
            ui.label("").props("id=token-copied role=status").classes("sub")

    make.on_click(lambda: attempt(give))


def _revoke(visit: Visit) -> None:
    chosen = {"id": ""}

    async def give() -> None:
        token = await visit.signed_in()
        await asyncio.to_thread(visit.site.work.revoke_token, chosen["id"], token)
        ui.notify("It counts no more.", type="positive")

    ask = confirm("Revoke the token?", "Who uses it is refused from then on.", "Yes, revoke", give)

    def asked(event: Any) -> None:
        given = event.args if isinstance(event.args, list) else [event.args]
        chosen["id"] = str(given[0])[:64]
        ask()

    ui.on("shoal_revoke_token", asked)
