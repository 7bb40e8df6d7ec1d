"""Labelling hard examples: a key a label. What a person says goes out before the next is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request
from nicegui import events, ui

from contracts.errors import InputError, ShoalError
from fleet.dashboard.layout import RESPONSE_S, attempt, frame, html, problem
from fleet.dashboard.site import Site, Visit
from fleet.samples.labelling import Queue
from fleet.store.samples import Text

AHEAD: Final = 20
"""Texts that are fetched at once."""

_SHOWN: Final = 40
"""Labels that are shown; letters find the others."""

_HELP: Final = (
    "1 to 9: a label. Letters: find one. 0: pass over. Backspace: take the last one back. "
    "+: a new label."
)


def register(site: Site) -> None:
    """Adds the pages."""

    @ui.page("/label", response_timeout=RESPONSE_S)
    async def models(request: Request) -> None:
        visit = await site.visit(request)
        with frame(visit, "Label", "/models"):
            html("<h1>Label texts</h1>")
            if not visit.may("operator"):
                html('<p class="banner warn">Texts of devices need the role operator.</p>')
                return
            found = await asyncio.to_thread(site.data.sampled)
            with ui.element("section").classes("card stack").props('aria-label="Models"'):
                if not found:
                    html(
                        "<p>No device gave hard examples yet. Ask for them: "
                        "<code>shoal fleet samples ask --model NAME</code></p>"
                    )
                for name, count in found.items():
                    ui.link(f"{name} ({count})", f"/label/{name}").classes("button quiet")

    @ui.page("/label/{model}", response_timeout=RESPONSE_S)
    async def label(request: Request, model: str) -> None:
        visit = await site.visit(request)
        with frame(visit, f"Label {model[:64]}", "/models"):
            ui.label(f"Label texts of {model[:64]}").props("role=heading aria-level=1").style(
                "font-size: 24px; font-weight: 650"
            )
            token = visit.opened_by
            if token is None or not token.may("operator"):
                html('<p class="banner warn">Texts of devices need the role operator.</p>')
                return
            try:
                found = await asyncio.to_thread(site.data.label_queue, model, token, AHEAD)
            except ShoalError as error:
                problem(error)
                return
            _Desk(visit, model, found).build()
            ui.link("The next version", f"/improve/{model}").classes("button quiet")


class _Desk:
    """One person at one model.

    Args:
        visit: who; looked at again with every label.
        model: whose texts.
        found: what is next.
    """

    def __init__(self, visit: Visit, model: str, found: Queue) -> None:
        self._visit = visit
        self._model = model
        self._labels = found.labels
        self._items = list(found.items)
        self._counts = found
        self._said: list[Text] = []
        self._typed = ""
        self._turn = asyncio.Lock()  # keys count one after the other, each for what it was shown

    def build(self) -> None:
        """Adds what is seen, and listens to the keyboard."""
        with ui.element("section").classes("card stack").props('aria-label="Text"'):
            self._text = ui.label("").props("role=status aria-live=polite").classes("answer")
            self._facts = ui.label("").classes("sub")
            self._torn = ui.label("").props("role=alert").classes("sub")
            self._others = ui.label("").classes("sub")
            self._hints = ui.label("").classes("sub")
        with ui.element("section").classes("card stack").props('aria-label="Labels"'):
            self._choices = (
                ui.element("div").classes("tools").props('role=group aria-label="Label"')
            )
            with ui.element("div").classes("tools"):
                self._button("0 Pass over", self._pass_over)
                self._button("⌫ Take back", self._take_back)
                self._button("+ New label", self._open_new)
            self._find = ui.label("").classes("sub").props("role=status")
            ui.label(_HELP).classes("sub")
        with ui.dialog() as self._dialog, ui.element("div").classes("dialog"):
            self._new = ui.input("New label").props('outlined autofocus aria-label="New label"')
            self._new.on("keydown.enter", lambda: self._do(self._say_new))
            self._button("Use it", self._say_new)
        ui.keyboard(on_key=self._key, ignore=["input", "textarea", "select"], repeating=False)
        self._show()

    def _button(self, words: str, act: Callable[[], Awaitable[None]]) -> None:
        # Without focus a key means the same after a click as before.
        button = ui.button(words, on_click=lambda: self._do(act)).props("outline")
        button.on("click", js_handler="(event) => event.currentTarget.blur()")

    @property
    def _now(self) -> Text | None:
        return self._items[0] if self._items else None

    def _found(self) -> list[str]:
        """Labels by their use for this text, or those that the letters mean."""
        one = self._now
        if one is None:
            return []
        sample = one.sample
        model = [sample.best or sample.label] if (sample.best or sample.label) != "unknown" else []
        now = [hint.label for hint in sorted(one.hints, key=lambda hint: -hint.confidence)]
        first = [*one.meant, *one.votes, *now, *model]
        every = list(dict.fromkeys([*first, *self._labels]))
        typed = self._typed.casefold()
        begin = [label for label in every if label.casefold().startswith(typed)]
        inside = [label for label in every if typed in label.casefold() and label not in begin]
        return [*begin, *inside] if typed else every

    def _show(self) -> None:
        one = self._now
        if one is None:
            self._text.set_text("Nothing is left to label.")
            self._facts.set_text(f"{self._counts.labelled} texts of this model are labelled.")
            for shown in (self._others, self._hints, self._torn):
                shown.set_text("")
        else:
            sample = one.sample
            said = sample.label if sample.best is None else f"{sample.label} ({sample.best}?)"
            self._text.set_text(sample.text)
            self._facts.set_text(
                f"The model says {said}, {sample.confidence:.0%} sure: {', '.join(sample.reasons)}."
                f" {one.times} times, {len(one.devices)} devices. {self._counts.left} are left."
            )
            words = [f"{person.person} says {person.label or 'nothing'}" for person in one.said]
            words += [f"users say {label} ({n})" for label, n in one.meant.items()]
            self._others.set_text("; ".join(words))
            hints = [f"{o.source}: {o.label} ({o.confidence:.0%})" for o in one.hints]
            self._hints.set_text(f"Suggested by {', '.join(hints)}." if hints else "")
            self._torn.set_text("People disagree: your word decides." if one.disputed else "")
        self._find.set_text(f"Labels with {self._typed!r}" if self._typed else "")
        self._choices.clear()
        with self._choices:
            for number, label in enumerate(self._found()[:_SHOWN], 1):
                key = f"{number} " if number <= 9 else ""
                self._button(f"{key}{label}", self._sayer(label))

    def _sayer(self, label: str) -> Callable[[], Awaitable[None]]:
        async def say() -> None:
            await self._say(label)

        return say

    async def _do(self, act: Callable[[], Awaitable[None]]) -> None:
        async with self._turn:
            await attempt(act)

    async def _key(self, event: events.KeyEventArguments) -> None:
        if not event.action.keydown or self._dialog.value:
            return
        if event.modifiers.ctrl or event.modifiers.alt or event.modifiers.meta:
            return
        name = str(event.key.name)
        await self._do(lambda: self._press(name))

    async def _press(self, name: str) -> None:
        found = self._found()
        if name == "0":
            await self._pass_over()
        elif name == "Backspace" and self._typed:
            self._typed = self._typed[:-1]
            self._show()
        elif name == "Backspace":
            await self._take_back()
        elif name == "Escape":
            self._typed = ""
            self._show()
        elif name == "+":
            await self._open_new()
        elif name.isdigit() and 0 < int(name) <= len(found):
            await self._say(found[int(name) - 1])
        elif len(name) == 1 and (name.isalpha() or name in "-_"):
            self._typed += name
            found = self._found()
            if not found:
                self._typed = ""
            if len(found) == 1:
                await self._say(found[0])
            else:
                self._show()

    async def _say(self, label: str | None) -> None:
        one = self._now
        if one is None:
            return
        token = await self._visit.token()
        if token is None:
            raise InputError("signed-out", "The session has ended: sign in again.")
        await asyncio.to_thread(self._visit.site.data.say_label, self._model, one.key, label, token)
        self._said.append(self._items.pop(0))
        self._typed = ""
        if label is not None and label not in self._labels:
            self._labels = [*self._labels, label]
        if not self._items:
            self._counts = await asyncio.to_thread(
                self._visit.site.data.label_queue, self._model, token, AHEAD
            )
            self._items = list(self._counts.items)
        self._show()

    async def _pass_over(self) -> None:
        await self._say(None)

    async def _take_back(self) -> None:
        if not self._said:
            return
        token = await self._visit.token()
        if token is None:
            raise InputError("signed-out", "The session has ended: sign in again.")
        one = self._said[-1]
        await asyncio.to_thread(self._visit.site.data.unsay_label, self._model, one.key, token)
        self._items.insert(0, self._said.pop())
        self._show()

    async def _open_new(self) -> None:
        if self._now is not None:
            self._new.set_value("")
            self._dialog.open()

    async def _say_new(self) -> None:
        typed = str(self._new.value or "").strip()
        self._dialog.close()
        if typed:
            await self._say(typed)
