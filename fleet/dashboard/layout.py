"""The frame of every page, and regions that keep themselves up to date."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Final

from nicegui import ui

from contracts.errors import ShoalError
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Visit
from fleet.store.tokens import Role

REFRESH_S: Final = 1.5
"""Seconds between renderings of a region."""

RESPONSE_S: Final = 30.0
"""Seconds that a page may take to be built on a machine under load."""

_STATIC = resources.files("fleet.dashboard") / "static"
_CSS: Final = (_STATIC / "shoal.css").read_text()
_SCRIPT: Final = (_STATIC / "shoal.js").read_text()

_NAVIGATION: Final = (
    ("/", "Overview", "dashboard"),
    ("/devices", "Devices", "sensors"),
    ("/models", "Models", "memory"),
    ("/rollouts", "Rollouts", "rocket_launch"),
    ("/alerts", "Alerts", "notifications"),
    ("/access", "Access", "key"),
    ("/audit", "Audit", "fact_check"),
)
_NEEDS: Final[dict[str, Role]] = {"/access": "admin", "/audit": "operator"}
"""Pages that are not for everybody."""


@contextmanager
def frame(visit: Visit, title: str, path: str) -> Iterator[None]:
    """Header, navigation and the page's column.

    Args:
        visit: who looks.
        title: of the page.
        path: which entry of the navigation is current.
    """
    ui.page_title(f"{title} · Shoal")
    ui.add_head_html(f"<style>{_CSS}</style><script>{_SCRIPT}</script>")
    ui.colors(primary="#0b6e7f", positive="#1b7f4b", negative="#b3261e", warning="#955800")
    theme = ui.dark_mode({"dark": True, "light": False}.get(visit.theme))
    # The element sets the theme again whenever it is drawn: it must know of a change.
    ui.on("shoal_theme", lambda event: theme.set_value(event.args is True))
    token = visit.opened_by
    navigation = [
        (target, text, icon, target == path)
        for target, text, icon in _NAVIGATION
        if visit.may(_NEEDS.get(target, "viewer"))
    ]
    html(
        render(
            "top.html",
            fleet=visit.site.data.fleet,
            navigation=navigation,
            name=token.name if token else "",
            role=token.role if token else "",
        )
    ).classes("top").props("role=banner")
    with ui.element("main").classes("shell").props("id=main"):
        yield


def html(content: str) -> ui.html:
    """HTML from a template: its values are escaped there."""
    return ui.html(content, sanitize=False)


async def live(make: Callable[[], str], visit: Visit, *, every_s: float = REFRESH_S) -> None:
    """A region that is rendered again and again, and changed in place where it differs.

    Args:
        make: renders it; blocks, and runs on a thread.
        visit: the region ends when the session does.
        every_s: seconds between renderings.
    """
    last = await asyncio.to_thread(make)
    region = html(last).classes("live")
    region.props(f"id=region-{region.id}")

    async def again() -> None:
        nonlocal last
        if await visit.token() is None:
            ui.navigate.to(f"{PREFIX}/login")
            return
        try:
            fresh = await asyncio.to_thread(make)
        except ShoalError as error:
            fresh = render("problem.html", text=str(error))
        if fresh != last:
            last = fresh
            ui.run_javascript(f"shoalPatch('region-{region.id}', {json.dumps(fresh)})")

    ui.timer(every_s, again)


def problem(error: ShoalError) -> None:
    """An error as a page's content."""
    html(render("problem.html", text=str(error)))


async def attempt(work: Callable[[], Awaitable[None]]) -> None:
    """Does what a person asked for; an error becomes a notice."""
    try:
        await work()
    except ShoalError as error:
        ui.notify(str(error), type="negative", multi_line=True, close_button="Close")


def confirm(
    question: str, consequence: str, yes: str, work: Callable[[], Awaitable[None]]
) -> Callable[[], object]:
    """A dialog that asks once more before something is done; returns what opens it."""
    with ui.dialog() as dialog, ui.element("div").classes("dialog"):
        ui.label(question).style("font-weight: 650; font-size: 17px")
        ui.label(consequence)
        with ui.element("div").classes("tools"):
            sure = ui.button(yes).props("unelevated color=negative")
            ui.button("No", on_click=dialog.close).props("flat")

    async def give() -> None:
        dialog.close()
        await work()

    sure.on_click(lambda: attempt(give))
    return dialog.open
