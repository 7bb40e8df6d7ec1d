"""Changes of many devices below their list: labels, groups, revoking; asked once more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nicegui import ui

from contracts.errors import InputError
from fleet.dashboard.data import PAGE
from fleet.dashboard.layout import attempt, html
from fleet.dashboard.site import Visit
from fleet.dashboard.work import pairs, words
from fleet.membership.labelling import Relabelling, check
from fleet.store.listing import Listing

_ACTIONS: Final = {
    "label": "Give labels",
    "unlabel": "Take labels away",
    "join": "Add to groups",
    "leave": "Take out of groups",
    "revoke": "Revoke",
}
_CHOSEN, _ALL = "those that are ticked", "all that the list finds"


def build(visit: Visit, listing: Callable[[], Listing]) -> None:
    """Adds the form.

    Args:
        visit: who asks; an operator, and an admin for revoking: checked again with every change.
        listing: what the list of the page finds.
    """
    actions = dict(_ACTIONS)
    if not visit.may("admin"):
        del actions["revoke"]
    with ui.element("section").classes("card stack").props('aria-label="Change many"'):
        html("<h2>Change many</h2>")
        which = ui.select([_CHOSEN, _ALL], value=_CHOSEN, label="Which devices")
        what = ui.select(actions, value="label", label="What to do")
        value = ui.input("Labels or groups, for example site=lyon").props("maxlength=2000")
        for field in (which, what, value):
            field.props("outlined dense").style("width: 100%")
        value.bind_visibility_from(what, "value", lambda one: one != "revoke")
        with ui.element("div").classes("tools"):
            begin = ui.button("Change").props("unelevated")
    with ui.dialog() as dialog, ui.element("div").classes("dialog"):
        question = ui.label("").style("font-weight: 650; font-size: 17px")
        consequence = ui.label("")
        with ui.element("div").classes("tools"):
            sure = ui.button("Yes, change them").props("unelevated")
            ui.button("No", on_click=dialog.close).props("flat")
    chosen: dict[str, Any] = {"names": [], "work": None}

    async def names() -> list[str]:
        if which.value == _ALL:
            return await asyncio.to_thread(visit.site.work.matching, listing())
        found = await ui.run_javascript(
            "[...document.querySelectorAll('.pick:checked')].map((box) => box.value)", timeout=30
        )
        given = found if isinstance(found, list) else []
        return [str(name)[:64] for name in given[: 2 * PAGE]]

    async def ask() -> None:
        found = await names()
        if not found:
            raise InputError("no-devices", "No device is chosen: tick some in the list.")
        many = found[0] if len(found) == 1 else f"{len(found):,} devices"
        if what.value == "revoke":
            chosen.update(names=found, work=None)
            question.set_text(f"Revoke {many}?")
            consequence.set_text("Certificates count no more, and connections end.")
        else:
            change = _change(str(what.value), value.value or "")
            check(change)
            chosen.update(names=found, work=change)
            question.set_text(f"{_ACTIONS[str(what.value)]}: {(value.value or '').strip()}?")
            consequence.set_text(f"For {many}. Rollouts go by labels and groups.")
        dialog.open()

    async def give() -> None:
        token = await visit.signed_in()
        dialog.close()
        found, change = chosen["names"], chosen["work"]
        if change is None:
            todo = await asyncio.to_thread(visit.site.work.revoke, found, token)
            ui.notify(" ".join([f"{len(found)} revoked.", *todo]), type="positive")
            return
        count = await asyncio.to_thread(visit.site.work.relabel, found, change, token)
        ui.notify(f"{count:,} of {len(found):,} changed.", type="positive")

    begin.on_click(lambda: attempt(ask))
    sure.on_click(lambda: attempt(give))


def _change(what: str, text: str) -> Relabelling:
    match what:
        case "label":
            return Relabelling(labels=pairs(text) or {})
        case "unlabel":
            return Relabelling(unlabel=words(text))
        case "join":
            return Relabelling(join=words(text))
        case _:
            return Relabelling(leave=words(text))
