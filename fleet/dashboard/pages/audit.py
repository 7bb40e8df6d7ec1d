"""Who changed what."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui

from contracts.errors import RefusedError
from fleet.dashboard.layout import RESPONSE_S, frame, html, live, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Site


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/audit", response_timeout=RESPONSE_S)
    async def audit(request: Request) -> None:
        visit = await site.visit(request)
        text = request.query_params.get("after", "")
        before = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None

        def table() -> str:
            entries, following = site.data.audit_page(before)
            return render("audit.html", entries=entries) + render(
                "pager.html", base=f"{PREFIX}/audit", q="", after=text, next=following
            )

        with frame(visit, "Audit", "/audit"):
            html("<h1>Audit</h1>")
            if not visit.may("operator"):
                problem(RefusedError("forbidden", "The audit log needs the role operator."))
                return
            with ui.element("section").classes("card").props('aria-label="Changes"'):
                await live(table, visit)
