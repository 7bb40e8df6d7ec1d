"""The console of a device page: classify a text, or generate with streaming."""

from __future__ import annotations

import asyncio

from nicegui import ui

from contracts.answers import Answer
from contracts.errors import InputError
from fleet.dashboard.layout import attempt, html
from fleet.dashboard.site import Visit


def build(visit: Visit, device: str) -> None:
    """Adds the console.

    Args:
        visit: who asks; an operator, which is checked again with every question.
        device: whom.
    """
    with ui.element("section").classes("card stack").props('aria-label="Console"'):
        html("<h2>Ask this device</h2>")
        text = ui.textarea(placeholder="A text to classify, or a prompt to continue")
        text.props('outlined autogrow maxlength=16384 aria-label="Text"').style("width: 100%")
        with ui.element("div").classes("tools"):
            classify = ui.button("Classify").props("unelevated")
            generate = ui.button("Generate").props("outline")
        output = ui.element("div").classes("answer").props("role=status aria-live=polite")
        with output:
            words = ui.label("The answer appears here.")
            facts = ui.label("").classes("sub")

    async def ask(op: str) -> None:
        token = await visit.token()
        if token is None:
            raise InputError("signed-out", "The session has ended: sign in again.")
        await asyncio.to_thread(visit.site.data.check_asked, device)
        answers = visit.site.data.ask(device, op, text.value or "", token)
        words.set_text("…")
        facts.set_text("")
        said = ""
        async for answer in answers:
            if not answer.done:
                said += answer.chunk or ""
                words.set_text(said)
            else:
                main, rest = describe(answer)
                words.set_text(main)
                facts.set_text(rest)

    async def run(op: str) -> None:
        for button in (classify, generate):
            button.disable()
        try:
            await attempt(lambda: ask(op))
        finally:
            for button in (classify, generate):
                button.enable()

    classify.on_click(lambda: run("classify"))
    generate.on_click(lambda: run("generate"))


def describe(answer: Answer) -> tuple[str, str]:
    """A final answer for people: what it says, and the facts below it."""
    if answer.error is not None:
        return answer.error.message, f"error {answer.error.code}"
    if answer.classified is not None:
        found = answer.classified
        said = set(found.said)
        rest = found.top[1:] if found.labels is None else found.top
        others = ", ".join(
            f"{s.label} {s.confidence:.0%}"
            for s in rest
            if found.labels is None or s.label not in said
        )
        facts = f"{found.bundle}, {found.latency_us / 1000:.2f} ms on the device"
        won = found.label if found.best is None else f"{found.label} ({found.best}?)"
        main = f"{won}  {found.confidence:.0%}"
        if found.labels:
            main = ", ".join(f"{one.label} {one.confidence:.0%}" for one in found.labels)
        return main, facts + (f"; next: {others}" if others else "")
    if answer.generated is not None:
        made = answer.generated
        facts = (
            f"{made.bundle}, {made.tokens} tokens, {made.tokens_per_s:.1f} tokens/s, first after "
            f"{made.first_token_ms:.0f} ms, ended by {made.finish_reason}"
        )
        return made.text, facts
    return "The device answered with nothing.", ""
