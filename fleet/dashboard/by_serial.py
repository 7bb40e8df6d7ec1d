"""Boards that join by their serial number: the list, and the one line for all of them."""

from __future__ import annotations

import asyncio
from typing import Any

from nicegui import ui

from fleet.dashboard.layout import attempt, confirm, html, live
from fleet.dashboard.render import render
from fleet.dashboard.site import Visit


async def build(visit: Visit) -> None:
    """Adds the section.

    Args:
        visit: who asks; an admin, which is checked again with every change.
    """
    work, opened = visit.site.work, visit.opened_by
    assert opened is not None
    boards = work.boards()
    html("<h2>Boards by serial number</h2>")
    html(
        "<p class=sub>One line, or one image, for many boards: each joins as what its serial "
        "number is on this list, once. What is not on it does not join.</p>"
    )
    text = ui.textarea("Table with a heading: serial, name, board, labels, group")
    text.props("outlined autogrow maxlength=1000000")
    kind = ui.select(boards, label="Board of rows that name none", value=boards[0])
    for field in (text, kind):
        field.props("outlined dense").style("width: 100%")
    with ui.element("div").classes("tools"):
        add = ui.button("List these boards").props("unelevated")
        make = ui.button("Make the line for all of them").props("outline")
    shown = ui.element("div").classes("stack").props("role=status aria-live=polite")
    chosen = {"serial": ""}

    async def expect() -> None:
        token = await visit.signed_in()
        count = await asyncio.to_thread(work.expect, str(text.value or ""), str(kind.value), token)
        ui.notify(f"{count} boards are on the list.", type="positive")

    async def line() -> None:
        token = await visit.signed_in()
        made = await asyncio.to_thread(work.serials_line, 168.0, token)
        shown.clear()
        with shown:
            html(render("serial_line.html", line=made))
            ui.button("Copy the line").props("unelevated").on(
                "click", js_handler="() => shoalCopy('serial-line', 'serial-copied')"
            )
            ui.label("").props("id=serial-copied role=status").classes("sub")

    async def forget() -> None:
        token = await visit.signed_in()
        await asyncio.to_thread(work.forget_serial, chosen["serial"], token)

    ask = confirm(
        "Take the board off the list?", "A device that it became stays one.", "Yes, take it off",
        forget,
    )  # fmt: skip

    def asked(event: Any) -> None:
        given = event.args if isinstance(event.args, list) else [event.args]
        chosen["serial"] = str(given[0])[:64]
        ask()

    ui.on("shoal_forget_serial", asked)
    add.on_click(lambda: attempt(expect))
    make.on_click(lambda: attempt(line))
    await live(lambda: render("serials.html", boards=work.expected(opened)), visit, every_s=3.0)
