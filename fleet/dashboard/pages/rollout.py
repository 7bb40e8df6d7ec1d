"""One rollout: waves, gates, progress, and what a person may tell it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from fastapi import Request
from nicegui import ui

from contracts.errors import InputError, ShoalError
from fleet.conductor.runner import Command
from fleet.dashboard.layout import REFRESH_S, RESPONSE_S, attempt, frame, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site, Visit

_COMMANDS: dict[str, tuple[str, str, str]] = {
    "approve": ("Approve wave", "unelevated", "The next wave begins at once."),
    "resume": ("Resume", "unelevated", "The rollout goes on; the bake time starts again."),
    "pause": ("Pause", "outline", "No more devices get the version; those under way go on."),
    "abort": (
        "Abort",
        "outline color=negative",
        "The rollout ends, and devices get their previous version back.",
    ),
}


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/rollouts/{name}", response_timeout=RESPONSE_S)
    async def rollout(request: Request, name: str) -> None:
        visit = await site.visit(request)

        def body() -> str:
            view, events, failed = site.data.rollout(name)
            return render(
                "rollout.html",
                r=view,
                events=events,
                failed=failed,
                waiting=site.data.waiting(name),
                progress=site.data.progress(name),
            )

        with frame(visit, f"Rollout {name[:64]}", "/rollouts"):
            try:
                view, *_ = await asyncio.to_thread(site.data.rollout, name)
            except ShoalError as error:
                problem(error)
                return
            if visit.may("operator"):
                _buttons(visit, name, view.commands)
            await live(body, visit)


def _buttons(visit: Visit, name: str, allowed: list[str]) -> None:
    data = visit.site.data
    buttons: dict[str, Any] = {}
    with ui.element("div").classes("tools").props('role=group aria-label="Commands"'):
        for command, (title, look, consequence) in _COMMANDS.items():
            buttons[command] = ui.button(title).props(look)
            buttons[command].set_visibility(command in allowed)
            buttons[command].on_click(_confirmer(visit, name, command, title, consequence))

    async def again() -> None:
        view, *_ = await asyncio.to_thread(data.rollout, name)
        for command, button in buttons.items():
            button.set_visibility(command in view.commands)

    ui.timer(REFRESH_S, again)


def _confirmer(visit: Visit, name: str, command: str, title: str, consequence: str) -> Any:
    """Asks once more before a command is given."""
    with ui.dialog() as dialog, ui.element("div").classes("dialog"):
        ui.label(f"{title} rollout {name}?").style("font-weight: 650; font-size: 17px")
        ui.label(consequence)
        with ui.element("div").classes("tools"):
            sure = ui.button(f"Yes, {command}").props("unelevated")
            if command == "abort":
                sure.props("color=negative")
            ui.button("No", on_click=dialog.close).props("flat")

    async def give() -> None:
        token = await visit.token()
        if token is None:
            raise InputError("signed-out", "The session has ended: sign in again.")
        dialog.close()
        await asyncio.to_thread(visit.site.data.command, name, cast(Command, command), token)

    sure.on_click(lambda: attempt(give))
    return dialog.open
