"""All devices: found by words or a selector, sorted, a page at a time, and changed together."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import msgspec
from fastapi import Request
from nicegui import ui

from contracts.errors import ShoalError
from fleet.dashboard import bulk
from fleet.dashboard.layout import RESPONSE_S, frame, html, live
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Site
from fleet.rollout import selector
from fleet.store.listing import MAX_TEXT, SORTS, Listing

_EXAMPLES: Final = (
    ("all", ""),
    ("online", "state=online"),
    ("offline", "state=offline"),
    ("never seen", "state=unknown"),
)
_ORDERS: Final = (
    ("device", "by name"),
    ("-device", "by name, Z first"),
    ("state", "by state"),
    ("board", "by board"),
    ("-heard", "last heard first"),
    ("heard", "silent longest first"),
    ("-enrolled", "newest first"),
)


class Asked(msgspec.Struct, frozen=True):
    """What the address of the page asks for."""

    query: str
    text: str
    sort: str
    number: int

    @classmethod
    def of(cls, request: Request) -> Asked:
        """From a request: whatever is no page, or no order, is the first."""
        given = request.query_params
        sort, number = given.get("sort", "device"), given.get("page", "1")
        return cls(
            given.get("q", "")[:4000],
            given.get("text", "")[:MAX_TEXT],
            sort if sort.removeprefix("-") in SORTS else "device",
            int(number) if number.isascii() and number.isdigit() and len(number) < 8 else 1,
        )

    @property
    def listing(self) -> Listing:
        """The list.

        Raises:
            InputError: the selector cannot be read.
        """
        by = self.sort.removeprefix("-")
        sort = next(one for one in SORTS if one == by)
        return Listing(
            selector.parse(self.query or "all"), self.text, sort, self.sort.startswith("-")
        )

    def link(self, **other: str | int) -> str:
        """The address with something else in it."""
        values = {"q": self.query, "text": self.text, "sort": self.sort, **other}
        kept = {key: value for key, value in values.items() if value not in ("", "device", 1)}
        return f"{PREFIX}/devices" + (f"?{urlencode(kept)}" if kept else "")

    def sorted_by(self, by: str) -> tuple[str, str]:
        """Where the heading of a column leads, and what it says of the order now."""
        if self.sort == by:
            return self.link(sort=f"-{by}"), "ascending"
        return self.link(sort=by), "descending" if self.sort == f"-{by}" else "none"


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/devices", response_timeout=RESPONSE_S)
    async def devices(request: Request) -> None:
        visit = await site.visit(request)
        asked = Asked.of(request)
        changes = visit.may("operator")

        def table() -> str:
            try:
                page = site.data.device_page(asked.listing, asked.number)
            except ShoalError as error:
                return render("problem.html", text=str(error))
            filtered = bool(asked.query or asked.text.strip())
            return render("devices.html", page=page, filtered=filtered, asked=asked, pick=changes)

        with frame(visit, "Devices", "/devices"):
            html(
                render(
                    "device_tools.html",
                    asked=asked,
                    orders=_ORDERS,
                    may_enrol=visit.may("admin"),
                    examples=[(text, asked.link(q=q), q == asked.query) for text, q in _EXAMPLES],
                )
            )
            with ui.element("section").classes("card").props('aria-label="Devices"'):
                await live(table, visit, every_s=3.0)
            if changes:
                bulk.build(visit, lambda: asked.listing)
