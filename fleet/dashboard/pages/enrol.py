"""How a device joins: the one line to type on the board, as text and QR code; and open lines."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import Request
from nicegui import ui

from contracts.errors import RefusedError
from fleet.dashboard import by_serial
from fleet.dashboard.layout import RESPONSE_S, attempt, frame, html, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site, Visit
from fleet.dashboard.work import MAX_HOURS, MAX_OFFERS, pairs, words
from fleet.joining import command
from fleet.joining.offers import Offer

_QR_UP_TO: Final = 10
"""Lines up to which each has a QR code."""

_FIRST: Final = "raspberry-pi-5"


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/enrol", response_timeout=RESPONSE_S)
    async def enrol(request: Request) -> None:
        visit = await site.visit(request)
        replaced = request.query_params.get("replace", "")[:64]
        board = await asyncio.to_thread(site.data.board_of, replaced)
        with frame(visit, "Enrol devices", "/devices"):
            html("<h1>Enrol devices</h1>")
            if not visit.may("admin"):
                problem(RefusedError("forbidden", "Enrolling devices needs the role admin."))
                return
            _form(visit, replaced, board)
            with ui.element("section").classes("card").props('aria-label="Open lines"'):
                await _open(visit)
            with ui.element("section").classes("card stack").props('aria-label="Serial numbers"'):
                await by_serial.build(visit)


def _form(visit: Visit, replaced: str, board: str) -> None:
    boards = visit.site.work.boards()
    with ui.element("section").classes("card stack").props('aria-label="New line"'):
        html(render("enrol_intro.html", replaced=replaced))
        name = ui.input("Name", value=replaced).props("maxlength=64 autocomplete=off")
        kind = ui.select(boards, label="Board", value=board if board in boards else _first(boards))
        count = ui.number("How many", value=1, min=1, max=MAX_OFFERS, precision=0)
        labels = ui.input("Labels, for example site=lyon, floor=2").props("maxlength=2000")
        groups = ui.input("Groups, for example kitchen, night").props("maxlength=2000")
        hours = ui.number("Hours in which it must be typed", value=24, min=0.1, max=MAX_HOURS)
        for field in (name, kind, count, labels, groups, hours):
            field.props("outlined dense").style("width: 100%")
        replace = ui.checkbox(
            "Take the place of a device that has this name (another board, or its card was lost)",
            value=bool(replaced),
        )
        with ui.element("div").classes("tools"):
            make = ui.button("Make the line").props("unelevated")
        shown = ui.element("div").classes("stack").props("role=status aria-live=polite")

    async def offer() -> None:
        token = await visit.signed_in()
        made = await asyncio.to_thread(
            visit.site.work.offer,
            (name.value or "").strip(),
            int(count.value or 0),
            str(kind.value),
            pairs(labels.value or ""),
            words(groups.value or "") or None,
            float(hours.value or 0),
            token,
            replace=bool(replace.value),
        )
        missing = await asyncio.to_thread(visit.site.work.missing, [str(kind.value)])
        shown.clear()
        with shown:
            _show(made, missing, float(hours.value or 0))

    async def clicked() -> None:
        make.disable()
        try:
            await attempt(offer)
        finally:
            make.enable()

    make.on_click(clicked)


def _first(boards: list[str]) -> str:
    return _FIRST if _FIRST in boards else boards[0]


def _show(made: list[Offer], missing: list[str], hours: float) -> None:
    """The lines, once: who leaves the page does not see them again."""
    text = (
        made[0].line if len(made) == 1 else command.script((one.device, one.line) for one in made)
    )
    codes = [(one.device, command.qr_svg(one.line)) for one in made[:_QR_UP_TO]]
    html(
        render(
            "enrol_line.html", made=made, text=text, codes=codes, missing=missing,
            until=f"{hours:g} {'hour' if hours == 1 else 'hours'}",
        )
    )  # fmt: skip
    ui.button("Copy").props("unelevated").on(
        "click", js_handler="() => shoalCopy('enrol-line', 'enrol-copied')"
    )
    ui.label("").props("id=enrol-copied role=status").classes("sub")


async def _open(visit: Visit) -> None:
    """Lines that were not typed yet, each with a button that takes it back."""
    html("<h2>Lines that were not typed yet</h2>")
    last = visit.opened_by
    assert last is not None

    def table() -> str:
        return render("enrol_open.html", tokens=visit.site.work.open_offers(last))

    asked = {"id": ""}
    with ui.dialog() as dialog, ui.element("div").classes("dialog"):
        words_ = ui.label("").style("font-weight: 650; font-size: 17px")
        ui.label("Who types it afterwards is refused.")
        with ui.element("div").classes("tools"):
            sure = ui.button("Yes, take it back").props("unelevated color=negative")
            ui.button("No", on_click=dialog.close).props("flat")

    def ask(event: Any) -> None:
        given = event.args if isinstance(event.args, list) else [event.args]
        asked["id"] = str(given[0])[:64]
        words_.set_text(f"Take the line of {str(given[-1])[:64]} back?")
        dialog.open()

    async def give() -> None:
        token = await visit.signed_in()
        dialog.close()
        await asyncio.to_thread(visit.site.work.take_back, asked["id"], token)

    ui.on("shoal_take_back", ask)
    sure.on_click(lambda: attempt(give))
    await live(table, visit, every_s=3.0)
