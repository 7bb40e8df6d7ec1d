"""What is wrong, the rules that say so, silence, and a test of who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Request
from nicegui import ui

from fleet.alerts.rule import ABOUT
from fleet.dashboard.layout import RESPONSE_S, attempt, confirm, frame, html, live
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
                again = await _silence(visit) if visit.may("operator") else None
                if visit.may("admin") and again is not None:
                    _add(visit, again)
            if visit.may("admin"):
                with ui.element("section").classes("card").props('aria-label="Who is told"'):
                    await _test(visit)
                    await _hooks(visit)
            with ui.element("section").classes("card").props('aria-label="Past"'):
                html("<h2>Past</h2>")
                await live(past, visit, every_s=30.0)


async def _silence(visit: Visit) -> Callable[[], Awaitable[None]]:
    """What is done to a rule that exists; returns what reads anew which there are."""
    rules = await asyncio.to_thread(visit.site.data.alert_rules)
    with ui.element("div").classes("tools").props('role=group aria-label="Silence"'):
        rule = ui.select({one.id: one.title for one, _ in rules}, label="Rule")
        rule.props("outlined dense").style("min-width: 200px")
        length = ui.select(_FOR, value=3600, label="For").props("outlined dense")
        length.style("min-width: 110px")
        quiet = ui.button("Silence").props("unelevated")
        again = ui.button("Tell again").props("outline")
        away = ui.button("Remove").props("outline color=negative")
        away.set_visibility(visit.may("admin"))

    async def give(seconds: float) -> None:
        token = await visit.signed_in()
        chosen = str(rule.value or "")
        await asyncio.to_thread(visit.site.work.silence, chosen, seconds, token)
        ui.notify("Nobody is told of it for a while." if seconds else "It is told again.")

    quiet.on_click(lambda: attempt(lambda: give(float(length.value or 3600))))

    async def remove() -> None:
        token = await visit.signed_in()
        await asyncio.to_thread(visit.site.work.remove_rule, str(rule.value or ""), token)
        ui.notify("The rule is removed.")
        await choices()

    async def choices() -> None:
        found = await asyncio.to_thread(visit.site.data.alert_rules)
        rule.set_options({one.id: one.title for one, _ in found}, value=None)

    again.on_click(lambda: attempt(lambda: give(0.0)))
    ask = confirm("Remove the rule?", "Its open alerts are over.", "Yes, remove it", remove)
    away.on_click(ask)
    return choices


def _add(visit: Visit, again: Callable[[], Awaitable[None]]) -> None:
    with ui.element("div").classes("stack").props('role=group aria-label="New rule"'):
        html("<h3>New rule</h3>")
        kind = ui.select({one: about.title for one, about in ABOUT.items()}, label="Kind")
        kind.set_value("offline")
        title = ui.input("Title, if not the kind's").props("maxlength=128")
        where = ui.input("Devices of the rule (selector)", value="all").props("maxlength=4000")
        threshold = ui.number("Threshold")
        hold = ui.number("Seconds for which it must hold", min=0)
        emails = ui.input("Addresses, if not those of fleet.yaml").props("maxlength=2000")
        for field in (kind, title, where, threshold, hold, emails):
            field.props("outlined dense").style("width: 100%")
        unit = ui.label("").classes("sub").props("role=status")
        add = ui.button("Add the rule").props("unelevated")

    def usual() -> None:
        about = ABOUT[kind.value]
        threshold.set_value(about.threshold)
        hold.set_value(about.hold_s)
        unit.set_text(f"Wrong is what is {'below' if about.low else 'above'}: {about.unit}.")

    async def give() -> None:
        token = await visit.signed_in()
        made = await asyncio.to_thread(
            visit.site.work.add_rule,
            str(kind.value),
            str(title.value or ""),
            str(where.value or "all"),
            None if threshold.value is None else float(threshold.value),
            None if hold.value is None else float(hold.value),
            words(str(emails.value or "")),
            token,
        )
        ui.notify(f"{made.title} is looked for from now on.", type="positive")
        await again()

    kind.on_value_change(usual)
    usual()
    add.on_click(lambda: attempt(give))


async def _hooks(visit: Visit) -> None:
    work, opened = visit.site.work, visit.opened_by
    assert opened is not None
    with ui.element("div").classes("stack").props('role=group aria-label="Webhooks"'):
        html("<h3>Webhooks</h3>")
        await live(lambda: render("webhooks.html", hooks=work.webhooks(opened)), visit)
        url = ui.input("URL of a webhook").props("outlined dense maxlength=2000")
        url.style("width: 100%")
        add = ui.button("Add the webhook").props("unelevated")
        shown = ui.label("").props("role=status aria-live=polite").classes("line")
        shown.set_visibility(False)
    chosen = {"id": ""}

    async def give() -> None:
        token = await visit.signed_in()
        made = await asyncio.to_thread(work.add_webhook, str(url.value or "").strip(), ["*"], token)
        shown.set_text(f"Its secret, which signs what is sent, is shown this once: {made.secret}")
        shown.set_visibility(True)

    async def remove() -> None:
        token = await visit.signed_in()
        await asyncio.to_thread(work.remove_webhook, chosen["id"], token)

    ask = confirm(
        "Remove the webhook?", "What was still to be sent to it is not.", "Yes, remove it", remove
    )

    def asked(event: Any) -> None:
        given = event.args if isinstance(event.args, list) else [event.args]
        chosen["id"] = str(given[0])[:64]
        ask()

    ui.on("shoal_unhook", asked)
    add.on_click(lambda: attempt(give))


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
