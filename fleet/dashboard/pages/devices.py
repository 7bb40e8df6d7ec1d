"""All devices, a page at a time."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from contracts.errors import ShoalError
from fleet.dashboard.layout import RESPONSE_S, frame, html, live
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Site

_EXAMPLES = (
    ("all", ""),
    ("online", "state=online"),
    ("offline", "state=offline"),
    ("never seen", "state=unknown"),
)


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/devices", response_timeout=RESPONSE_S)
    async def devices(request: Request) -> None:
        visit = await site.visit(request)
        query = request.query_params.get("q", "")[:4000]
        after = request.query_params.get("after", "")[:64]

        def table() -> str:
            try:
                page = site.data.device_page(query, after)
            except ShoalError as error:
                return render("problem.html", text=str(error))
            return render("devices.html", page=page, filtered=bool(query)) + render(
                "pager.html", base=f"{PREFIX}/devices", q=query, after=after, next=page.next
            )

        with frame(visit, "Devices", "/devices"):
            html(
                render(
                    "device_tools.html",
                    q=query,
                    may_enrol=visit.may("admin"),
                    examples=[(text, q, q == query) for text, q in _EXAMPLES],
                )
            )
            with ui.element("section").classes("card").props('aria-label="Devices"'):
                await live(table, visit, every_s=3.0)
