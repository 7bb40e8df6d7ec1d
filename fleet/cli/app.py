"""The root command; building and running models locally is handed to the other programs."""

from __future__ import annotations

import importlib
from typing import Final

import typer

from fleet.__main__ import HANDED_OVER, hand_over
from fleet.cli import (
    agent,
    alert,
    applications,
    audit,
    boards,
    delegation,
    devices,
    doctor,
    enroll,
    field,
    folder,
    improve,
    init,
    keys,
    logs,
    members,
    one,
    operations,
    rollout,
    samples,
    serials,
    serve,
    simulate,
    teach,
    timeline,
    up,
)

_HELP: Final = {
    "init": "Write a recipe for a table of texts with labels, or for labels alone.",
    "build": "Build a bundle from a recipe or a table.",
    "compare": "Compare two builds by every figure and label.",
    "import": "Import a pretrained Llama-family model as a generative bundle.",
    "tune": "Fine-tune a pretrained generator on pairs: an adapter, a bundle, a report.",
    "classify": "Classify texts with a bundle, here.",
    "embed": "Texts as vectors, by a bundle of an encoder, here.",
    "generate": "Generate text with a bundle, here.",
    "eval": "Measure a bundle on labelled data.",
    "inspect": "Show a bundle: sizes, operators, memory, boards it fits.",
}

app, fleet_app = one.root()
app.add_typer(boards.app, name="boards")
improve.register(app)
init.register(fleet_app)
enroll.register(fleet_app)
folder.register(fleet_app)
members.register(fleet_app)
up.register(fleet_app)
doctor.register(fleet_app)
serve.register(fleet_app)
operations.register(fleet_app)
audit.register(fleet_app)
devices.register(fleet_app)
field.register(fleet_app)
teach.register(fleet_app)
timeline.register(fleet_app)
logs.register(fleet_app)
simulate.register(fleet_app)
fleet_app.add_typer(enroll.app, name="tokens")
fleet_app.add_typer(agent.app, name="agent")
fleet_app.add_typer(alert.app, name="alert")
fleet_app.add_typer(applications.app, name="app")
fleet_app.add_typer(rollout.app, name="rollout")
fleet_app.add_typer(samples.app, name="samples")
fleet_app.add_typer(serials.app, name="serials")
fleet_app.add_typer(keys.app, name="keys")
delegation.register(fleet_app, keys.app)


def _handed_over(name: str) -> None:
    @app.command(
        name,
        help=_HELP[name],
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def command(context: typer.Context) -> None:
        hand_over(name, context.args)


for _name in HANDED_OVER:
    _handed_over(_name)


@app.command(
    "demo",
    help="The whole path on this machine: build, publish, roll out, ask, update, refuse.",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def demo(context: typer.Context) -> None:
    """Runs the demo; its code is loaded only here."""
    try:
        run = importlib.import_module("fleet.demo.cli").demo
    except ModuleNotFoundError as error:
        typer.echo(f"error: this installation has no demo ({error.name} is missing)", err=True)
        raise typer.Exit(1) from None
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command("demo")(run)
    alone(args=context.args, prog_name="shoal demo")


def main() -> None:
    """The entry point of ``shoal``."""
    app()
