"""Published models: size against accuracy, and one model with its build report."""

from __future__ import annotations

import asyncio

from fastapi import Request
from nicegui import ui

from contracts.errors import ShoalError
from fleet.dashboard import charts
from fleet.dashboard.layout import RESPONSE_S, frame, html, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site
from fleet.dashboard.views import flatten
from fleet.field import enough


def register(site: Site) -> None:
    """Adds the pages."""

    def table() -> str:
        rows = [(one, n, charts.accuracy_of(one)) for one, n in site.data.models()]
        return render("models.html", models=rows)

    @ui.page("/models", response_timeout=RESPONSE_S)
    async def models(request: Request) -> None:
        visit = await site.visit(request)
        with frame(visit, "Models", "/models"):
            with ui.element("div").classes("tools"):
                html("<h1>Models</h1>").classes("grow")
                if visit.may("operator"):
                    ui.link("Label texts", "/label").classes("button quiet")
            found = await asyncio.to_thread(site.data.models)
            options = charts.models(one for one, _ in found)
            if options["series"]:
                with ui.element("section").classes("card").props('aria-label="Size and accuracy"'):
                    html("<h2>Size against accuracy</h2>")
                    ui.echart(options)
            with ui.element("section").classes("card").props('aria-label="Bundles"'):
                await live(table, visit, every_s=5.0)

    @ui.page("/models/{name}/{version}", response_timeout=RESPONSE_S)
    async def model(request: Request, name: str, version: str) -> None:
        visit = await site.visit(request)
        with frame(visit, f"{name[:64]} {version[:32]}", "/models"):
            try:
                found, report, running = await asyncio.to_thread(site.data.model, name, version)
                field = await asyncio.to_thread(site.data.field, name, version)
            except ShoalError as error:
                problem(error)
                return
            html(
                render(
                    "model.html",
                    b=found,
                    running=running,
                    field=field,
                    enough=enough,
                    metrics=flatten(found.manifest.metrics)[:60],
                    report=flatten(report) if report else None,
                )
            ).classes("live")
