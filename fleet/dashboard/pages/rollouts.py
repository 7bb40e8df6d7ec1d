"""All rollouts."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from fleet.dashboard.layout import RESPONSE_S, frame, html, live
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Site


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/rollouts", response_timeout=RESPONSE_S)
    async def rollouts(request: Request) -> None:
        visit = await site.visit(request)
        text = request.query_params.get("after", "")
        before = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None

        def listing() -> str:
            found, following = site.data.rollout_page(before)
            return render("rollouts.html", rollouts=found) + render(
                "pager.html", base=f"{PREFIX}/rollouts", q="", after=text, next=following
            )

        with frame(visit, "Rollouts", "/rollouts"):
            with ui.element("div").classes("title-row"):
                html("<h1>Rollouts</h1>").classes("grow")
                if visit.may("operator"):
                    ui.link("Start a rollout", "/rollouts/new").classes("button")
            await live(listing, visit)
