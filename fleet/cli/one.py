"""The command line with the one command that is asked for: loading all takes most of a second.

What is not in the table here, a mistyped name and a question for help are left to the whole
command line, :mod:`fleet.cli.app`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

import typer

COMMANDS: Final = {
    "init": "init",
    "enroll": "enroll",
    "token": "enroll",
    "publish": "folder",
    "withdraw": "folder",
    "revoke": "members",
    "retire": "members",
    "rename": "members",
    "expiry": "members",
    "up": "up",
    "doctor": "doctor",
    "serve": "serve",
    "backup": "operations",
    "restore": "operations",
    "takeover": "operations",
    "ingest": "operations",
    "audit": "audit",
    "devices": "devices",
    "label": "devices",
    "query": "devices",
    "metrics": "devices",
    "feedback": "field",
    "accuracy": "field",
    "teach": "teach",
    "timeline": "timeline",
    "simulate": "simulate",
}
"""The module of ``fleet.cli`` in which each command of ``shoal fleet`` is registered."""

GROUPS: Final = {
    "tokens": "enroll",
    "agent": "agent",
    "alert": "alert",
    "app": "applications",
    "rollout": "rollout",
    "samples": "samples",
    "keys": "keys",
}
"""The module of each group of commands in ``shoal fleet``."""


def root() -> tuple[typer.Typer, typer.Typer]:
    """The command line without a command, and its group ``fleet``."""
    app = typer.Typer(
        name="shoal",
        help="Small language models on fleets of devices.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    fleet_app = typer.Typer(no_args_is_help=True, help="The fleet: devices, models, rollouts.")
    app.add_typer(fleet_app, name="fleet")
    return app, fleet_app


def alone(arguments: Sequence[str]) -> typer.Typer | None:
    """The command line with the command that `arguments` ask for and no other, if it is known."""
    if len(arguments) < 2 or arguments[0] != "fleet":
        return None
    app, fleet_app = root()
    name = arguments[1]
    if name in COMMANDS:
        importlib.import_module(f"fleet.cli.{COMMANDS[name]}").register(fleet_app)
    elif name in GROUPS:
        group = importlib.import_module(f"fleet.cli.{GROUPS[name]}").app
        if name == "keys":  # who may sign is in a module of its own
            importlib.import_module("fleet.cli.delegation").register(fleet_app, group)
        fleet_app.add_typer(group, name=name)
    else:
        return None
    return app


def chosen(arguments: Sequence[str]) -> typer.Typer:
    """The command line for `arguments`: with one command, or else whole."""
    app = alone(arguments)
    if app is None:
        app = importlib.import_module("fleet.cli.app").app
    return app
