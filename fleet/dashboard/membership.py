"""Buttons of a device page: revoke, retire, rename; each asks once more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from nicegui import ui

from contracts.errors import InputError
from fleet.dashboard.layout import attempt
from fleet.dashboard.site import Visit

_WHAT: Final = {
    "revoke": (
        "Revoke",
        "Its certificate counts no more, and its connection ends. It stays in the list.",
    ),
    "retire": (
        "Retire",
        "Its certificate counts no more. Its history is kept, and its name is free.",
    ),
    "rename": (
        "Rename",
        "It enrols itself under the new name with a one-time token. Its history goes with it.",
    ),
}


def build(visit: Visit, device: str) -> None:
    """Adds the buttons.

    Args:
        visit: who asks; an admin, which is checked again with every command.
        device: whom.
    """
    with ui.element("div").classes("tools").props('role=group aria-label="Membership"'):
        buttons = {what: ui.button(title).props("outline") for what, (title, _) in _WHAT.items()}
        ui.link("Replace its board", f"/enrol?replace={device}").classes("button quiet")
    for what, button in buttons.items():
        button.on_click(_asker(visit, device, what))


def _asker(visit: Visit, device: str, what: str) -> Callable[[], object]:
    title, consequence = _WHAT[what]
    with ui.dialog() as dialog, ui.element("div").classes("dialog"):
        ui.label(f"{title} {device}?").style("font-weight: 650; font-size: 17px")
        ui.label(consequence)
        name = None
        if what == "rename":
            name = ui.input("New name").props('outlined maxlength=64 aria-label="New name"')
        with ui.element("div").classes("tools"):
            sure = ui.button(f"Yes, {what}").props("unelevated color=negative")
            ui.button("No", on_click=dialog.close).props("flat")
    with ui.dialog().props("persistent") as after, ui.element("div").classes("dialog"):
        words = ui.label("").props("role=status")
        ui.button("Close", on_click=lambda: ui.navigate.to("/devices")).props("unelevated")

    async def give() -> None:
        token = await visit.token()
        if token is None:
            raise InputError("signed-out", "The session has ended: sign in again.")
        dialog.close()
        given = str(name.value or "").strip() if name is not None else ""
        said = await asyncio.to_thread(visit.site.data.leave, device, what, given, token)
        words.set_text(said)
        after.open()

    sure.on_click(lambda: attempt(give))
    return dialog.open
