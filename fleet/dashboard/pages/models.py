"""Published models: size against accuracy, and one model with its build report."""

from __future__ import annotations

import asyncio

from fastapi import Request
from nicegui import ui

from contracts.errors import ShoalError
from fleet.dashboard import charts
from fleet.dashboard.layout import RESPONSE_S, attempt, frame, html, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site, Visit
from fleet.dashboard.views import flatten
from fleet.field import enough
from fleet.store.bundles import Published


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
            if visit.may("admin"):
                with ui.element("section").classes("card").props('aria-label="Publish"'):
                    html(render("upload.html"))

    @ui.page("/models/{name}/{version}", response_timeout=RESPONSE_S)
    async def model(request: Request, name: str, version: str) -> None:
        visit = await site.visit(request)
        with frame(visit, f"{name[:64]} {version[:32]}", "/models"):
            try:
                found, report, running = await asyncio.to_thread(site.data.model, name, version)
                field = await asyncio.to_thread(site.data.field, name, version)
                pool = await asyncio.to_thread(site.data.pooled, name, version)
            except ShoalError as error:
                problem(error)
                return
            if visit.may("admin") and not found.withdrawn:
                _withdrawing(visit, found, running)
            chart = charts.by_label(found)
            if chart["series"]:
                with ui.element("section").classes("card").props('aria-label="Measured by label"'):
                    html("<h2>Measured by label</h2>")
                    ui.echart(chart)
            html(
                render(
                    "model.html",
                    b=found,
                    running=running,
                    field=field,
                    pool=pool,
                    enough=enough,
                    metrics=flatten(found.manifest.metrics)[:60],
                    report=flatten(report) if report else None,
                    may_roll=visit.may("operator") and not found.withdrawn,
                )
            ).classes("live")


def _withdrawing(visit: Visit, found: Published, running: int) -> None:
    """A button that takes the version out of the signed list; asks once more."""
    ref = found.ref
    with ui.dialog() as dialog, ui.element("div").classes("dialog"):
        ui.label(f"Withdraw {ref.name} {ref.version}?").style("font-weight: 650; font-size: 17px")
        kept = f" {running:,} devices run it and keep it." if running else ""
        ui.label("No device installs it any more." + kept)
        with ui.element("div").classes("tools"):
            sure = ui.button("Yes, withdraw").props("unelevated color=negative")
            ui.button("No", on_click=dialog.close).props("flat")

    async def give() -> None:
        token = await visit.signed_in()
        dialog.close()
        await asyncio.to_thread(visit.site.work.withdraw, ref.name, ref.version, token)
        ui.navigate.to(f"/models/{ref.name}/{ref.version}")

    sure.on_click(lambda: attempt(give))
    ui.button("Withdraw", on_click=dialog.open).props("outline color=negative").classes("fit")
