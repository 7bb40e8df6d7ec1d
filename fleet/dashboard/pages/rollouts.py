"""All rollouts, and the form that starts one."""

from __future__ import annotations

import asyncio

from fastapi import Request
from nicegui import ui
from pydantic import ValidationError

from contracts.errors import InputError
from fleet.dashboard.layout import RESPONSE_S, attempt, frame, html, live
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Site, Visit
from fleet.rollout.spec import RolloutSpec, describe, parse_waves


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
                    await _starter(visit)
            await live(listing, visit)


async def _starter(visit: Visit) -> None:
    """A button with a form behind it."""
    data = visit.site.data
    published = [str(one.ref) for one, _ in await asyncio.to_thread(data.models)]
    with ui.dialog() as dialog, ui.element("div").classes("dialog").style("width: 460px"):
        html("<h2>Start a rollout</h2>")
        bundle = ui.select(published, label="Bundle", value=published[0] if published else None)
        selector = ui.input("Devices (selector)", value="all")
        waves = ui.input("Waves, each counted from the start", value="1,10%,50%,100%")
        failures = ui.number("Failure rate allowed (%)", value=5, min=0, max=100)
        trial = ui.number("Trial on each device (seconds)", value=30, min=0)
        bake = ui.number("Watch each wave for (seconds)", value=60, min=0)
        for field in (bundle, selector, waves, failures, trial, bake):
            field.props("outlined dense").style("width: 100%")
        outcome = ui.label("").classes("sub")
        with ui.element("div").classes("tools"):
            plan = ui.button("Plan").props("outline")
            start = ui.button("Start").props("unelevated")
            ui.button("Cancel", on_click=dialog.close).props("flat")

    def spec() -> RolloutSpec:
        name, _, version = (bundle.value or "").partition(" ")
        try:
            return RolloutSpec.model_validate(
                {
                    "bundle": name,
                    "version": version,
                    "selector": selector.value or "all",
                    "waves": [wave.model_dump() for wave in parse_waves(waves.value or "")],
                    "gates": {"max_failure_rate": (failures.value or 0) / 100},
                    "trial": {"seconds": trial.value or 0},
                    "bake_s": bake.value or 0,
                }
            )
        except ValidationError as error:
            raise InputError("bad-rollout", describe(error)) from None

    async def show_plan() -> None:
        found = await asyncio.to_thread(data.plan, spec())
        sizes = ", ".join(f"+{wave.adds}" for wave in found.waves)
        left = f"; {len(found.left_out)} left out" if found.left_out else ""
        outcome.set_text(
            f"{found.moving} of {found.matching} devices would move, by wave: {sizes}{left}."
        )

    async def begin() -> None:
        token = await visit.token()
        if token is None:
            raise InputError("signed-out", "The session has ended: sign in again.")
        rollout = await asyncio.to_thread(data.create_rollout, spec(), token)
        dialog.close()
        ui.navigate.to(f"/rollouts/{rollout}")

    plan.on_click(lambda: attempt(show_plan))
    start.on_click(lambda: attempt(begin))
    ui.button("Start a rollout", on_click=dialog.open).props("unelevated")
