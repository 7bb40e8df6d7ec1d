"""The log on a device page: the newest lines, or as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import Final

from nicegui import ui

from contracts.answers import Logged
from fleet.dashboard.layout import attempt, html
from fleet.dashboard.render import clock
from fleet.dashboard.site import Visit
from fleet.logtail import MAX_FOLLOW_S

MAX_SHOWN: Final = 400
"""Lines that a page shows; the oldest goes first."""


def build(visit: Visit, device: str) -> None:
    """Adds the log.

    Args:
        visit: who looks; an operator, which is checked again with every question.
        device: whose.
    """
    shown: deque[str] = deque(maxlen=MAX_SHOWN)
    following = asyncio.Event()
    with ui.element("section").classes("card stack").props('aria-label="Log"'):
        html("<h2>Log</h2>")
        html(
            "<p class=sub>What the agent says of itself, without texts and secrets. The device's "
            "owner may refuse it; who looks is in the audit log.</p>"
        )
        with ui.element("div").classes("tools"):
            once = ui.button("Show log").props("unelevated")
            follow = ui.button("Follow").props("outline")
        told = ui.label("").classes("sub").props("role=status aria-live=polite")
        text = ui.label("").classes("log").props('role=log tabindex=0 aria-label="Lines"')
        text.set_visibility(False)

    def show(page: Logged) -> None:
        if page.missed:
            shown.append(f"… {page.missed} lines are kept no more")
        for one in page.lines:
            facts = "".join(f"  {key}={value}" for key, value in sorted(one.facts.items()))
            shown.append(f"{clock(one.at)}  {one.level}  {one.event}{facts}")
        text.set_text("\n".join(shown))
        text.set_visibility(bool(shown))
        told.set_text(f"{len(shown)} lines." if shown else "The log has no lines.")

    async def read(follow_s: float) -> None:
        token = await visit.signed_in()
        shown.clear()
        told.set_text("…")
        try:
            async with aclosing(visit.site.work.logs(device, follow_s, token)) as pages:
                async for page in pages:
                    if await visit.token() is None or (follow_s and not following.is_set()):
                        return
                    show(page)
        finally:
            if told.text == "…":
                told.set_text("")

    async def show_once() -> None:
        once.disable()
        try:
            await attempt(lambda: read(0.0))
        finally:
            once.enable()

    async def toggle() -> None:
        if following.is_set():
            following.clear()  # whoever reads sees it with the next page
            follow.disable()
            return
        following.set()
        follow.set_text("Stop")
        once.disable()
        try:
            await attempt(lambda: read(MAX_FOLLOW_S))
        finally:
            following.clear()
            follow.set_text("Follow")
            follow.enable()
            once.enable()

    once.on_click(show_once)
    follow.on_click(toggle)
    ui.context.client.on_disconnect(following.clear)
