"""``shoal fleet teach``: a label from a few examples, on devices, without a build."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from pydantic import ValidationError

from contracts.errors import InputError
from contracts.files import read_small
from contracts.messages import Lesson
from fleet.api import models_lessons
from fleet.cli.options import AsJson, with_client
from fleet.cli.output import emit_json, safe, table
from fleet.client import Client
from fleet.rollout.spec import describe


@with_client
def teach(
    client: Client,
    model: Annotated[str, typer.Argument(help="The model: a bundle's name.")],
    label: Annotated[str | None, typer.Option(help="Of the examples: new, or the model's.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="An example; give about five.")] = None,
    file: Annotated[
        Path | None, typer.Option("--from", help="Examples, one a line, in place of --text.")
    ] = None,
    on: Annotated[str, typer.Option("--on", help="Which devices, a selector.")] = "all",
    lesson: Annotated[
        str | None, typer.Option(help="Its name; else made of label and examples.")
    ] = None,
    undo: Annotated[str | None, typer.Option(help="Takes the lesson of this name back.")] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Shows what devices were taught, as they reported it.")
    ] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep/--no-keep", help="Keep the examples here, for the next version to learn."
        ),
    ] = True,
    slot: Annotated[str, typer.Option(help="Of the devices.")] = "classify",
    as_json: AsJson = False,
) -> None:
    """Teaches devices a label from about five examples, until the next version of the model.

    It takes a moment and no build. Answers that come of it say `taught`. A lesson is for the
    version that serves: when another one comes, it does not answer, and the device says so.
    """
    texts = [*(text or []), *(_lines(file) if file else [])]
    try:
        if listed:
            if label or texts or undo:
                raise InputError("bad-options", "--list takes no label, example or --undo")
            found = _reported(client, model, on, slot)
        elif undo is not None:
            if label or texts:
                raise InputError("bad-options", "--undo takes no label and no examples")
            old = models_lessons.OldLesson(selector=on, lesson=undo, slot=slot)
            found = client.unteach(old)
        else:
            if label is None or not texts:
                raise InputError("bad-lesson", "give --label and its examples: --text, --from")
            new = models_lessons.NewLesson(
                selector=on,
                model=model,
                lesson=lesson or _name(label, texts),
                label=label,
                texts=texts,
                slot=slot,
                keep=keep,
            )
            found = client.teach(new)
    except ValidationError as error:
        raise InputError("bad-lesson", f"the lesson is not valid: {describe(error)}") from None
    if as_json:
        emit_json(found)
    else:
        _show(found)
    if not listed and all(one.error is not None for one in found.devices):
        raise typer.Exit(1)


def _reported(client: Client, model: str, on: str, slot: str) -> models_lessons.TaughtPage:
    """The lessons for a model on devices that have some; also on those that are offline."""
    found = []
    for device in client.devices(on):
        known = device.slots.get(slot)
        lessons = [
            models_lessons.LessonModel(
                name=one.name,
                label=one.label,
                examples=one.examples,
                at=one.at,
                bundle=str(one.bundle),
                serves=one.serves,
                by=one.by,
            )
            for one in msgspec.convert(known.taught if known is not None else [], list[Lesson])
            if one.bundle.name == model
        ]
        if lessons:
            found.append(models_lessons.TaughtModel(device=device.id, lessons=lessons))
    return models_lessons.TaughtPage(devices=found)


def _lines(file: Path) -> list[str]:
    data = read_small(file, what="the examples", hint="one example a line")
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise InputError("bad-lesson", f"{file} is not UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def _name(label: str, texts: list[str]) -> str:
    content = "\n".join([label, *texts]).encode("utf-8", "surrogatepass")
    return f"lesson-{hashlib.sha256(content).hexdigest()[:8]}"


def _show(found: models_lessons.TaughtPage) -> None:
    rows = []
    for one in found.devices:
        if one.error is not None:
            rows.append((one.device, "", "", "", safe(one.error.message)))
        for lesson in one.lessons:
            state = "" if lesson.serves else f"does not answer: it is for {lesson.bundle}"
            rows.append((one.device, lesson.name, safe(lesson.label), str(lesson.examples), state))
        if one.error is None and not one.lessons:
            rows.append((one.device, "", "", "", "no lessons are left"))
    table(("device", "lesson", "label", "examples", ""), rows)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("teach")(teach)
