"""The page that starts a rollout: whatever is typed is planned at once."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

from fastapi import Request
from nicegui import ui
from pydantic import ValidationError

from contracts.errors import InputError, ShoalError
from fleet.dashboard.layout import RESPONSE_S, attempt, frame, html, problem
from fleet.dashboard.render import render
from fleet.dashboard.site import Site, Visit
from fleet.rollout.advice import explained, may_fail, suggested
from fleet.rollout.plan import Plan
from fleet.rollout.spec import RolloutSpec, describe, parse_waves

_AGAIN_S: Final = 10.0
"""Seconds after which a plan is made again: devices come and go."""

_SHARE: Final = 20
"""It takes a twentieth of the time at most."""


def register(site: Site) -> None:
    """Adds the page."""

    @ui.page("/rollouts/new", response_timeout=RESPONSE_S)
    async def new(request: Request) -> None:
        visit = await site.visit(request)
        asked = request.query_params
        with frame(visit, "Start a rollout", "/rollouts"):
            html("<h1>Start a rollout</h1>")
            if not visit.may("operator"):
                problem(InputError("forbidden", "Starting a rollout needs the role operator."))
                return
            found = await asyncio.to_thread(site.data.models)
            offered = [str(one.ref) for one, _ in found if not one.withdrawn]
            if not offered:
                problem(InputError("no-such-bundle", "Nothing is published: publish a bundle."))
                return
            wanted = f"{asked.get('bundle', '')[:64]} {asked.get('version', '')[:32]}"
            wizard = Wizard(visit, offered, wanted, asked.get("selector", "all")[:4000])
            await wizard.plan()
            ui.timer(_AGAIN_S, wizard.plan_again)


class Wizard:
    """The form, the plan below it, and the button that is on when the plan can be started.

    Args:
        visit: who asks; the role is checked again when it is started.
        offered: bundles.
        wanted: the one to begin with, where it is offered.
        selector: the devices to begin with.
    """

    def __init__(self, visit: Visit, offered: list[str], wanted: str, selector: str) -> None:
        self._visit = visit
        self._planned: tuple[RolloutSpec, Plan] | None = None
        self._planning = self._stale = False
        self._due = 0.0
        self._filling = False
        self._drawn: str | None = None
        self._advised: dict[Any, Any] = {}
        with ui.element("section").classes("card stack").props('aria-label="What and where"'):
            self._bundle = ui.select(
                offered, label="Bundle", value=wanted if wanted in offered else offered[0]
            )
            self._selector = ui.input("Devices (selector)", value=selector)
            html(
                "<p class=sub>all, or for example site=lyon,state=online; device=kitchen; "
                "group in (night,day)</p>"
            )
            self._waves = ui.input("Waves, each counted from the start", value=None)
            html("<p class=sub>Counts or percents, from small to large; a ? asks a person first.")
            self._failures = ui.number("Failure rate allowed (%)", value=5, min=0, max=100)
            self._errors = ui.number("Error rate allowed (%), if any", min=0, max=100)
            self._latency = ui.number("Latency p95 allowed (ms), if any", min=0)
            self._trial = ui.number("Trial on each device (seconds)", min=0)
            self._bake = ui.number("Watch each wave for (seconds)", min=0)
            for field in self._fields:
                field.props("outlined dense debounce=300").style("width: 100%")
                field.on_value_change(lambda: None if self._filling else self.plan())
        with ui.element("section").classes("card stack").props('aria-label="Plan"'):
            self._region = html("").classes("stack")
            self._region.props(f"id=region-{self._region.id}")
            with ui.element("div").classes("tools"):
                self._start = ui.button("Start", on_click=lambda: attempt(self._begin))
                self._start.props("unelevated aria-describedby=why-not")
                ui.link("Cancel", "/rollouts").classes("button quiet")
            self._told = ui.label("").classes("told").props("id=why-not role=status")
        with ui.dialog() as self._dialog, ui.element("div").classes("dialog"):
            self._question = ui.label("").style("font-weight: 650; font-size: 17px")
            self._before = html("").classes("stack")
            with ui.element("div").classes("tools"):
                ui.button("No", on_click=self._dialog.close).props("flat autofocus")
                sure = ui.button("Yes, start it again", on_click=lambda: attempt(self._begin_again))
                sure.props("unelevated color=negative")

    @property
    def _fields(self) -> list[Any]:
        return [
            self._bundle, self._selector, self._waves, self._failures, self._errors,
            self._latency, self._trial, self._bake,
        ]  # fmt: skip

    # What is planned ----------------------------------------------------------------------

    def _spec(self) -> RolloutSpec:
        """What the form says.

        Raises:
            InputError: ``bad-waves``, ``bad-rollout``.
        """
        name, _, version = str(self._bundle.value or "").partition(" ")
        waves = (self._waves.value or "").strip() or "100%"
        gates = {
            "max_failure_rate": (self._failures.value or 0) / 100,
            "max_error_rate": _of(self._errors.value, 0.01),
            "max_latency_p95_us": _of(self._latency.value, 1000) or None,
        }
        try:
            return RolloutSpec.model_validate(
                {
                    "bundle": name,
                    "version": version,
                    "selector": (self._selector.value or "").strip() or "all",
                    "waves": [wave.model_dump() for wave in parse_waves(waves)],
                    "gates": gates,
                    "trial": {"seconds": self._trial.value or 0},
                    "bake_s": self._bake.value or 0,
                }
            )
        except ValidationError as error:
            raise InputError("bad-rollout", describe(error)) from None

    async def plan(self) -> None:
        """Plans what the form says now; what is typed meanwhile is planned next."""
        self._stale = True
        if self._planning:
            return
        self._planning = True
        try:
            while self._stale:
                self._stale = False
                await self._plan()
        finally:
            self._planning = False

    async def plan_again(self) -> None:
        """Devices come and go: as often as it is cheap."""
        if time.monotonic() >= self._due:
            await self.plan()

    async def _plan(self) -> None:
        began = time.monotonic()
        try:
            spec = self._spec()
            found = await asyncio.to_thread(self._visit.site.data.plan, spec)
            if self._advise(found.moving + found.given):
                self._stale = True
                return
            self._planned = spec, found
            self._show(_drawn(spec, found), _why_not(spec, found), _summary(found))
        except ShoalError as error:
            self._planned = None
            self._show("", str(error), "")
        finally:
            now = time.monotonic()
            self._due = now + max(_AGAIN_S, _SHARE * (now - began))

    def _advise(self, devices: int) -> bool:
        """Fills in what suits so many devices, where nobody typed something else."""
        advice = suggested(devices)
        changed = False
        fields: list[tuple[Any, Any]] = [
            (self._waves, advice.waves), (self._trial, advice.trial_s), (self._bake, advice.bake_s),
        ]  # fmt: skip
        for field, value in fields:
            known = self._advised.get(field)
            if field.value == known and value != known:
                self._advised[field] = value
                self._filling = True
                field.set_value(value)
                self._filling = False
                changed = True
        return changed

    def _show(self, drawn: str, why_not: str, summary: str) -> None:
        if self._drawn is None:
            self._region.set_content(drawn)
        elif drawn != self._drawn:
            # In place: whoever reads or scrolls in it is not thrown out.
            fresh = json.dumps(drawn)
            ui.run_javascript(f"shoalPatch('region-{self._region.id}', {fresh})")
        self._drawn = drawn
        self._told.set_text(why_not or summary)
        self._told.props(f"data-kind={'bad' if why_not else 'ok'}")
        self._start.set_enabled(not why_not)

    # What is done -------------------------------------------------------------------------

    async def _begin(self) -> None:
        planned = await self._still_planned()
        stopped = [one for one in planned.setbacks if one.ended]
        if not stopped:
            await self._create([])
            return
        bundle = str(self._bundle.value)
        self._question.set_text(f"Start {bundle} again?")
        self._before.set_content(render("stopped_before.html", setbacks=stopped[:3], bundle=bundle))
        self._dialog.open()

    async def _begin_again(self) -> None:
        self._dialog.close()
        planned = await self._still_planned()
        await self._create([one.rollout for one in planned.setbacks if one.ended])

    async def _still_planned(self) -> Plan:
        """The plan that is shown.

        Raises:
            InputError: ``changed-meanwhile``; it is not of what the form says now.
        """
        if self._planned is None or self._planned[0] != self._spec():
            await self.plan()
            raise InputError("changed-meanwhile", "The plan has just changed: look at it again.")
        return self._planned[1]

    async def _create(self, known: list[str]) -> None:
        token = await self._visit.signed_in()
        data = self._visit.site.data
        rollout = await asyncio.to_thread(data.create_rollout, self._spec(), token, known)
        ui.navigate.to(f"/rollouts/{rollout}")


def _of(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _drawn(spec: RolloutSpec, found: Plan) -> str:
    left_out: dict[str, list[str]] = {}
    for device, why in found.left_out.items():
        left_out.setdefault(why, []).append(device)
    return render(
        "plan.html",
        plan=found,
        bundle=f"{spec.bundle} {spec.version}",
        fails=[may_fail(spec.gates_of(n), wave.adds) for n, wave in enumerate(found.waves)],
        left_out=sorted(left_out.items(), key=lambda row: -len(row[1])),
        steps=explained(spec, found),
    )


def _summary(found: Plan) -> str:
    """What the plan comes to, in a line that is read out."""
    count = f"{found.moving:,} device{'' if found.moving == 1 else 's'} would move"
    waves = sum(1 for wave in found.waves if wave.adds)
    return f"{count}, in {waves} wave{'' if waves == 1 else 's'}."


def _why_not(spec: RolloutSpec, found: Plan) -> str:
    """Why the plan cannot be started; empty: it can."""
    if found.moving or found.given:
        return ""
    if not found.matching:
        return f"It cannot start: no device matches {spec.selector}."
    return f"It cannot start: none of the {found.matching:,} devices would move."
