"""One device: state, figures, history, console."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Request
from nicegui import ui

from contracts.errors import ShoalError
from fleet.dashboard import charts, console, log, membership
from fleet.dashboard.layout import RESPONSE_S, frame, html, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Site
from fleet.store.telemetry import Point
from fleet.store.timeline import KINDS

Draw = Callable[[Sequence[Point], float | None], dict[str, Any]]
_Fresh = tuple[list[Point], float | None]

_SPANS = {"1 h": 3600.0, "6 h": 6 * 3600.0, "7 d": 7 * 24 * 3600.0}
_CHARTS: tuple[tuple[str, Draw], ...] = (
    ("Requests", charts.requests),
    ("Latency", charts.latency),
    ("Labels", charts.labels),
    ("Device", charts.gauges),
)
_CHARTS_S = 15.0
_KINDS = (
    ("", "all"),
    ("update", "updates"),
    ("wanted", "wanted"),
    ("presence", "connections"),
    ("alert", "alerts"),
    ("samples", "examples"),
    ("audit", "changes"),
)
"""What the timeline can be narrowed to, and its words."""


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/devices/{name}", response_timeout=RESPONSE_S)
    async def device(request: Request, name: str) -> None:
        visit, data = await site.visit(request), site.data
        with frame(visit, name[:64], "/devices"):
            after = request.query_params.get("after", "")[:64]
            kind = request.query_params.get("q", "")
            kind = kind if kind in KINDS else ""

            def happened() -> str:
                found, following = data.timeline(name, after, visit.opened_by, kind)
                base = f"{PREFIX}/devices/{name}"
                shown = render("timeline.html", happened=found, kinds=_KINDS, kind=kind, base=base)
                return shown + render("pager.html", base=base, q=kind, after=after, next=following)

            try:
                await asyncio.to_thread(data.device, name)
                await asyncio.to_thread(happened)
            except ShoalError as error:
                problem(error)
                return
            await live(lambda: render("device.html", d=data.device(name)), visit)
            if visit.may("operator"):
                console.build(visit, name)
                log.build(visit, name)
            if visit.may("admin"):
                membership.build(visit, name)
            with ui.element("section").classes("card").props('aria-label="Figures"'):
                await _figures(site, name)
            with ui.element("section").classes("card").props('aria-label="Update history"'):
                html("<h2>Update history</h2>")
                await live(lambda: render("updates.html", updates=data.updates(name)), visit)
            with ui.element("section").classes("card").props('aria-label="Timeline"'):
                html("<h2>Timeline</h2>")
                await live(happened, visit, every_s=5.0)


async def _figures(site: Site, name: str) -> None:
    span = {"s": 3600.0}

    def read() -> _Fresh:
        return site.data.points(name, span["s"]), site.data.there_until(name)

    async def points() -> _Fresh:
        return await asyncio.to_thread(read)

    def drawing(draw: Draw, fresh: _Fresh) -> dict[str, Any]:
        now = site.data.now
        return charts.span(draw(*fresh), now - span["s"], now)

    first = await points()
    with ui.element("div").classes("tools"):
        html("<h2>Figures</h2>").classes("grow")
        choice = ui.toggle(list(_SPANS), value="1 h").props("dense unelevated no-caps")
        choice.props('aria-label="Span of time"')
    drawn = []
    with ui.element("div").classes("two"):
        for title, draw in _CHARTS:
            with ui.element("div").classes("chart"):
                html(f"<h3>{title}</h3>")
                drawn.append((ui.echart(drawing(draw, first)), draw))

    async def again() -> None:
        fresh = await points()
        for chart, draw in drawn:
            chart.options.update(drawing(draw, fresh))
            chart.update()

    async def chosen() -> None:
        span["s"] = _SPANS.get(str(choice.value), 3600.0)
        await again()

    choice.on_value_change(chosen)
    ui.timer(_CHARTS_S, again)
