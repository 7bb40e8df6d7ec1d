"""``shoal fleet samples``: hard examples of devices, asked for, labelled, exported, deleted."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from pydantic import ValidationError

from contracts.errors import InputError
from fleet import durable
from fleet.api import models_samples
from fleet.cli import keyboard, noted
from fleet.cli.options import HERE, AsJson, Folder, TokenFile, TokenValue, Url, connect, with_client
from fleet.cli.output import ago, emit_json, reported, safe, table
from fleet.client import Client
from fleet.folder import Fleet
from fleet.improve import hints
from fleet.rollout.spec import describe
from fleet.samples import rows
from fleet.store import samples as store

app = typer.Typer(
    no_args_is_help=True, help="Hard examples of devices: ask for them, label, export, delete."
)

_Model = Annotated[str, typer.Argument(help="The model: a bundle's name.")]
_KEYS: Final = "123456789abcdefghijklmoqrtvwxyz"
"""Keys of labels; those of commands (n, p, s, u) are left out."""


@app.command()
@with_client
def ask(
    client: Client,
    model: Annotated[str, typer.Option("--model", help="The bundle that gave the answers.")],
    on: Annotated[str, typer.Option("--on", help="Which devices, a selector.")] = "all",
    most: Annotated[int, typer.Option(help="Of each device.", min=1, max=200)] = 50,
    why: Annotated[str, typer.Option(help="For owners who are asked.")] = "",
    as_json: AsJson = False,
) -> None:
    """Asks devices for hard examples. They give what their owners consent to, redacted.

    Where a source says `share: hard`, at once; else once the owner approves it on the device
    (`shoal-agent samples requests`, `approve`): the controller asks again every few minutes.
    """
    try:
        new = models_samples.NewAsk(model=model, selector=on, most=most, why=why)
    except ValidationError as error:
        raise InputError("bad-query", f"the request is not valid: {describe(error)}") from None
    _gave(client.ask_samples(new), as_json)


@app.command()
@with_client
def collect(
    client: Client,
    name: Annotated[str, typer.Argument(help="The request; `list` tells it.")],
    as_json: AsJson = False,
) -> None:
    """Asks again at once: owners may have approved the request since."""
    _gave(client.collect_samples(name), as_json)


def _gave(found: models_samples.AskModel, as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    table(
        ("device", "new", "sent", "why not more"),
        [
            (one.device, one.new, one.sent, (one.error or {}).get("message", ""))
            for one in found.devices
        ],
    )
    typer.echo(f"{found.name}: {sum(one.new for one in found.devices)} new hard examples")


@app.command("list")
@with_client
def show(
    client: Client,
    model: Annotated[str | None, typer.Argument(help="A model: shows its texts.")] = None,
    as_json: AsJson = False,
) -> None:
    """Lists requests and models with samples, or a model's texts and what people say of them."""
    if model is None:
        page = client.asks()
        if as_json:
            emit_json(page)
            return
        table(
            ("request", "model", "devices", "most", "by", "when"),
            [(a.name, a.model, a.selector, a.most, a.by, ago(a.at)) for a in page.items],
        )
        table(("model", "samples"), page.models.items())
        return
    found = client.samples(model)
    if as_json:
        emit_json(found)
        return
    table(
        ("answered", "sure", "times", "devices", "people say", "text"),
        [
            (
                one.answered,
                f"{one.confidence:.0%}",
                one.times,
                one.devices,
                ", ".join(f"{said.person}: {said.label or '-'}" for said in one.said),
                one.text,
            )
            for one in found.items
        ],
    )


@app.command()
def suggest(
    model: _Model,
    recipe: Annotated[
        Path | None, typer.Option(help="Asks the teacher of this recipe too, trained if need be.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the recipe, as teacher.source; repeatable."),
    ] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Writes beside each text of the queue what the newest version, and a teacher, take it for.

    `--set teacher.source=openai:MODEL` sends the texts, redacted as they are here, to that
    endpoint. From the folder, without the controller.
    """
    with reported(as_json):
        if change and recipe is None:
            raise InputError("bad-options", "--set changes a recipe: name it with --recipe")
        where = str(recipe.resolve()) if recipe is not None else None
        made = hints.suggest(Fleet.open(folder), model, where, change or [])
        if as_json:
            emit_json(made)
            return
        for source, count in made.items():
            typer.echo(f"{safe(source)}: {count} suggestions")


@app.command()
def label(
    model: _Model,
    folder: Folder = HERE,
    url: Url = None,
    token_file: TokenFile = None,
    token: TokenValue = None,
) -> None:
    """Labels texts, the most useful first: a key a label. From a pipe: a label a line.

    Enter takes the suggestion, s passes over, u takes the last one back, n asks for a new label,
    p turns the page of labels, Ctrl-D or Escape ends.
    """
    with reported(False), connect(folder, url, token_file, token) as client:
        done = _label(client, model)
        typer.echo(f"{done} labelled")


def _label(client: Client, model: str) -> int:
    done: list[str] = []
    with keyboard.keys() as press:
        while True:
            found = client.label_queue(model, 1)
            if not found.items:
                typer.echo("nothing is left to label")
                return len(done)
            one = found.items[0]
            suggested = suggestions(one)
            labels = [*suggested, *(name for name in found.labels if name not in suggested)]
            said = _ask_key(press, one, labels, found)
            if said is None:
                return len(done)
            action, value = said
            if action == "undo":
                if done:
                    client.unsay_label(model, done.pop())
                continue
            client.say_label(model, one.key, value)
            done.append(one.key)


def suggestions(one: models_samples.TextModel) -> list[str]:
    """What users say, what other people say, what models take it for; the first first."""
    said = [said.label for said in one.said if said.label is not None]
    model = one.best or one.answered
    now = [hint.label for hint in sorted(one.hints, key=lambda hint: -hint.confidence)]
    found = [*one.meant, *said, *now, *([] if model == "unknown" else [model])]
    return list(dict.fromkeys(found))


def _ask_key(
    press: keyboard.Press,
    one: models_samples.TextModel,
    labels: list[str],
    found: models_samples.QueueModel,
) -> tuple[Literal["say", "undo"], str | None] | None:
    """One text, until it is labelled or passed over; None: the end."""
    page = 0
    typer.echo(f"\n{safe(one.text)}")
    typer.echo(
        f"  {safe(one.answered)} {one.confidence:.0%}, {', '.join(one.reasons)}, "
        f"{one.times}x on {one.devices}; {found.left} left, {found.labelled} labelled"
    )
    for hint in one.hints:
        typer.echo(f"  {safe(hint.source)}: {safe(hint.label)} {hint.confidence:.0%}")
    if one.disputed:
        typer.echo("  people disagree:")
    for said in one.said:
        typer.echo(f"  {safe(said.person)} says {safe(said.label or 'nothing')}")
    while True:
        shown = labels[page * len(_KEYS) : (page + 1) * len(_KEYS)]
        typer.echo("  " + "  ".join(f"[{k}] {safe(v)}" for k, v in zip(_KEYS, shown, strict=False)))
        key = press()
        if key in ("", "\x04", "\x1b"):
            return None
        if len(key) > 1:
            return "say", key  # a whole line, from a pipe
        if key in "\r\n" and labels:
            return "say", labels[0]
        if key == "s":
            return "say", None
        if key == "u":
            return "undo", None
        if key == "n":
            typed = typer.prompt("  new label", default="", show_default=False)
            if typed.strip():
                return "say", typed
        elif key == "p":
            page = (page + 1) % max(1, -(-len(labels) // len(_KEYS)))
        elif key in _KEYS and _KEYS.index(key) < len(shown):
            return "say", shown[_KEYS.index(key)]


@app.command()
def export(
    model: _Model,
    out: Annotated[Path | None, typer.Option(help="A file; else standard output.")] = None,
    kind: Annotated[
        str, typer.Option("--format", help="jsonl (what a recipe reads) or csv.")
    ] = "jsonl",
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Writes labelled texts, each with the part it is for: `learn`, or `judge` (kept out).

    What a recipe with `data: {field: FLEET}` reads; from the folder, without the controller.
    """
    with reported(as_json):
        if kind not in ("jsonl", "csv"):
            raise InputError("bad-options", f"--format {kind[:20]}: jsonl or csv")
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "samples.export", model) as act:
            with contextlib.closing(fleet.open_store()) as database, database.read() as connection:
                found = rows.rows(store.texts(connection, model))
            act.detail["rows"] = len(found)
            data = rows.to_csv(found) if kind == "csv" else rows.to_jsonl(found)
            if out is None:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            else:
                durable.write(out, data, mode=0o600, overwrite=True)
        if out is not None and as_json:
            emit_json({"rows": len(found), "file": str(out)})
        elif out is not None:
            typer.echo(f"{len(found)} labelled texts in {out}")


@app.command()
@with_client
def delete(
    client: Client,
    model: _Model,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this text; `list --json` tells it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Deletes samples of a model, and labels of texts that nobody has any more."""
    count = client.delete_samples(model, device=device, key=key)
    if as_json:
        emit_json({"samples": count})
        return
    typer.echo(f"{count} samples deleted")
