"""Commands on the fleet's folder itself: publish, withdraw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import InputError
from fleet import publication
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported
from fleet.folder import Fleet


def publish(
    bundle: Annotated[
        list[Path] | None, typer.Argument(help="A bundle: a folder or a .shoal file.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="The build report (JSON).")] = None,
    signed: Annotated[
        Path | None, typer.Option(help="What `shoal fleet sign` wrote, on another machine.")
    ] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Signs and publishes a bundle. No device changes before a rollout.

    With --signed: publishes what was signed elsewhere, with the bundles that are new in it; the
    key of the role that signed it is not needed here.
    """
    with reported(as_json):
        fleet = Fleet.open(folder)
        if signed is not None:
            taken = publication.take_in(fleet, signed, bundle or [])
            if as_json:
                emit_json(taken)
                return
            for ref in taken.published:
                typer.echo(f"Published {ref}, signed by {taken.role}")
            for ref in taken.withdrawn:
                typer.echo(f"Withdrew {ref}, signed by {taken.role}")
            return
        if not bundle or len(bundle) != 1:
            raise InputError("bad-options", "expected one bundle, or --signed FILE")
        ref, release = fleet.publish(bundle[0], report)
        if as_json:
            emit_json(
                {
                    "name": ref.name,
                    "version": ref.version,
                    "manifest_sha256": ref.manifest_sha256,
                    "release": release,
                }
            )
            return
        typer.echo(f"Published {ref} as release {release}")
        typer.echo(f"Next: shoal fleet rollout create {ref.name} {ref.version}")


def withdraw(
    name: Annotated[str, typer.Argument(help="The bundle's name.")],
    version: Annotated[str, typer.Argument(help="Its version.")],
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Takes a version out of the signed list: no device installs it any more."""
    with reported(as_json):
        ref = Fleet.open(folder).withdraw(name, version)
        if as_json:
            emit_json({"name": ref.name, "version": ref.version})
            return
        typer.echo(f"Withdrew {ref}; devices that run it keep it: roll another version out")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (publish, withdraw):
        app.command(command.__name__)(command)
