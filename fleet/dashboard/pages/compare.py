"""Two versions of a model side by side."""

from __future__ import annotations

import asyncio

from fastapi import Request
from nicegui import ui

from contracts.errors import InputError, ShoalError
from fleet.dashboard.comparison import compare
from fleet.dashboard.layout import RESPONSE_S, frame, html, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site


def register(site: Site) -> None:
    """Adds the page."""

    def found(name: str, first: str, second: str) -> str:
        published = site.data.models()
        versions = [one.ref.version for one, _ in published if one.ref.name == name]
        if not versions:
            raise InputError("no-such-bundle", f"{name[:64]} is not published: publish it first")
        second = second or versions[0]
        first = first or versions[min(1, len(versions) - 1)]
        (one, report, _), (other, other_report, _) = (
            site.data.model(name, version) for version in (first, second)
        )
        return render(
            "compare_form.html", name=name, versions=versions, first=first, second=second
        ) + render(
            "compare.html",
            first=first,
            second=second,
            c=compare(one, other, (report, other_report)),
        )

    @ui.page("/compare/{name}", response_timeout=RESPONSE_S)
    async def comparison(request: Request, name: str) -> None:
        visit = await site.visit(request)
        first, second = (request.query_params.get(field, "")[:64] for field in ("first", "second"))
        with frame(visit, f"Compare {name[:64]}", "/models"):
            html(render("compare_title.html", name=name[:64]))
            try:
                html(await asyncio.to_thread(found, name, first, second)).classes("live")
            except ShoalError as error:
                problem(error)
