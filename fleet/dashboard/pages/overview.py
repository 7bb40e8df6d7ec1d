"""The first page: is the fleet well?"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from nicegui import ui

from fleet.dashboard import charts
from fleet.dashboard.layout import RESPONSE_S, frame, html, live
from fleet.dashboard.render import render
from fleet.dashboard.site import Site
from fleet.dashboard.views import Overview


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/", response_timeout=RESPONSE_S)
    async def overview(request: Request) -> None:
        visit = await site.visit(request)
        with frame(visit, "Overview", "/"):
            html("<h1>Overview</h1>")
            await live(lambda: render("overview.html", o=site.data.overview()), visit)
            with ui.element("section").classes("card").props('aria-label="Traffic"'):
                html("<h2>Traffic of the last hour</h2>")
                found = await asyncio.to_thread(site.data.overview)
                chart = ui.echart(_drawn(site, found))

                async def again() -> None:
                    fresh = await asyncio.to_thread(site.data.overview)
                    chart.options.update(_drawn(site, fresh))
                    chart.update()

                ui.timer(15.0, again)


def _drawn(site: Site, found: Overview) -> dict[str, Any]:
    now = site.data.now
    there = now if found.counts.get("online") else None
    return charts.span(charts.traffic(found.traffic, there), now - 3600, now)
