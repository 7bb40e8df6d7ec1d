"""What is wrong, the rules that say so, silence, and a test of who is told."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request
from nicegui import ui

from fleet.dashboard.layout import RESPONSE_S, attempt, frame, html, live
from fleet.dashboard.render import render
from fleet.dashboard.site import PREFIX, Site, Visit
from fleet.dashboard.work import words

_FOR: Final = {3600: "1 hour", 8 * 3600: "8 hours", 24 * 3600: "1 day", 7 * 24 * 3600: "1 week"}


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/alerts", response_timeout=RESPONSE_S)
    async def alerts(request: Request) -> None:
        visit, data = await site.visit(request), site.data
        text = request.query_params.get("after", "")
        before = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None

        def current() -> str:
            found, more = data.alert_page("open", None)
            return render("alerts.html", alerts=found, more=more, past=False)

        def past() -> str:
            found, following = data.alert_page("past", before)
            return render("alerts.html", alerts=found, more=None, past=True) + render(
                "pager.html", base=f"{PREFIX}/alerts", q="", after=text, next=following
            )

        def rules() -> str:
            return render("alert_rules.html", rules=data.alert_rules(), now=data.now)

        with frame(visit, "Alerts", "/alerts"):
            html("<h1>Alerts</h1>")
            with ui.element("section").classes("card").props('aria-label="Open"'):
                html("<h2>Open</h2>")
                await live(current, visit, every_s=5.0)
            with ui.element("section").classes("card").props('aria-label="Rules"'):
                html("<h2>Rules</h2>")
                await live(rules, visit, every_s=5.0)
                if visit.may("operator"):
                    await _silence(visit)
            if visit.may("admin"):
                with ui.element("section").classes("card").props('aria-label="Who is told"'):
                    await _test(visit)
            with ui.element("section").classes("card").props('aria-label="Past"'):
                html("<h2>Past</h2>")
                await live(past, visit, every_s=30.0)


async def _silence(visit: Visit) -> None:
    rules = await asyncio.to_thread(visit.site.data.alert_rules)
    with ui.element("div").classes("tools").props('role=group aria-label="Silence"'):
        rule = ui.select({one.id: one.title for one, _ in rules}, label="Rule")
        rule.props("outlined dense").style("min-width: 200px")
        length = ui.select(_FOR, value=3600, label="For").props("outlined dense")
        length.style("min-width: 110px")
        quiet = ui.button("Silence").props("unelevated")
        again = ui.button("Tell again").props("outline")

    async def give(seconds: float) -> None:
        token = await visit.signed_in()
        chosen = str(rule.value or "")
        await asyncio.to_thread(visit.site.work.silence, chosen, seconds, token)
        ui.notify("Nobody is told of it for a while." if seconds else "It is told again.")

    quiet.on_click(lambda: attempt(lambda: give(float(length.value or 3600))))
    again.on_click(lambda: attempt(lambda: give(0.0)))


async def _test(visit: Visit) -> None:
    site = visit.site
    html("<h2>Who is told</h2>")
    with ui.element("div").classes("tools").props('role=group aria-label="Test"'):
        to = ui.input("Addresses").props("outlined dense maxlength=2000")
        to.props('placeholder="of fleet.yaml" aria-label="Addresses of the test"')
        button = ui.button("Send a test").props("unelevated")

    async def give() -> None:
        token = await visit.signed_in()
        given = words(str(to.value or ""))
        hooks, mails = await asyncio.to_thread(site.work.test_alerts, given, token)
        ui.notify(f"On its way to {hooks} webhooks and {mails} addresses.")

    button.on_click(lambda: attempt(give))
    await live(
        lambda: render("alert_deliveries.html", deliveries=site.data.alert_deliveries()), visit
    )
