"""The next version of a model: a button that makes it, how far it is, and how it compares."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request
from nicegui import ui

from contracts.errors import ShoalError
from fleet.dashboard.layout import RESPONSE_S, attempt, frame, html, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site
from fleet.improve.verdict import told

_STEPS: Final = (
    ("begun", "Labelled texts are written down; it is built"),
    ("built", "It is compared with the version that runs"),
    ("judged", "It is signed"),
    ("published", "It waits for its rollout"),
    ("rolling", "It answers in the shadow, then to a canary, then behind gates to all"),
    ("done", "All devices of the rollout have it"),
)


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/improve/{model}", response_timeout=RESPONSE_S)
    async def improve(request: Request, model: str) -> None:
        visit = await site.visit(request)

        def shown() -> str:
            found = site.data.next_version(model)
            lines = told(found.found) if found.found is not None else []
            return render("improve.html", p=found, steps=_STEPS, lines=lines)

        with frame(visit, f"Improve {model[:64]}", "/models"):
            ui.label(f"Improve {model[:64]}").props("role=heading aria-level=1").style(
                "font-size: 24px; font-weight: 650"
            )
            if not visit.may("operator"):
                html('<p class="banner warn">This needs the role operator.</p>')
                return
            try:
                await asyncio.to_thread(site.data.next_version, model)
            except ShoalError as error:
                problem(error)
                return

            async def start() -> None:
                token = await visit.signed_in()
                await asyncio.to_thread(site.data.improve, model, token)
                ui.notify("It has begun, and goes on without this page.", type="positive")

            async def sure() -> None:
                dialog.close()
                await attempt(start)

            with ui.dialog() as dialog, ui.element("div").classes("dialog"):
                ui.label(f"Make the next version of {model[:64]}?").style("font-weight: 650")
                ui.label(
                    "It is built from the labelled texts and compared with the version that runs. "
                    "Where it is not worse it is signed, and rolled out behind gates."
                )
                with ui.element("div").classes("tools"):
                    ui.button("Make it", on_click=sure)
                    ui.button("Cancel", on_click=dialog.close).props("outline")
            with ui.element("div").classes("tools"):
                if visit.may("admin"):
                    ui.button("Make the next version", on_click=dialog.open)
                ui.link("Label texts", f"/label/{model}").classes("button quiet")
            await live(shown, visit)
