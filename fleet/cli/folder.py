"""Commands on the fleet's folder itself: enroll, token, publish, withdraw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.board import load as load_board
from contracts.errors import InputError
from fleet import publication
from fleet.boards.compiler import compiler
from fleet.boards.folder import load_config, write_folder
from fleet.cli import noted
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported
from fleet.folder import Fleet
from fleet.membership import leaving


def _pairs(values: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        key, sign, text = value.partition("=")
        if not sign or not key:
            raise InputError("bad-label", f"label {value[:80]!r} is not key=value")
        found[key] = text
    return found


def enroll(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    board: Annotated[str, typer.Option(help="A board profile: see `shoal boards list`.")],
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="A group; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where agent.yaml goes.")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Enrol a known device again; labels and groups stay."),
    ] = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Admits a device and writes its agent.yaml."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "device.enroll", device):
            on_board = load_board(board).kind == "micropython"
            if on_board:
                compiler()  # missed before anything changes
            leaving.free(fleet, device)
            _, path = fleet.enroll(
                device,
                board,
                labels=None if label is None else _pairs(label),
                groups=group,
                out=out,
                replace=replace,
            )
        files = None
        if on_board:
            files = path.parent / f"{device}-board"
            write_folder(load_config(path), files)
        if as_json:
            written = {"files": str(files)} if files else {}
            emit_json({"device": device, "board": board, "config": str(path), **written})
            return
        typer.echo(f"Enrolled {device}: {path}")
        if files is not None:
            typer.echo(f"Copy it to the board: shoal boards flash {files}")
            return
        typer.echo(f"On the device: shoal-agent run --config {path.name}")


def token(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    board: Annotated[str, typer.Option(help="A board profile: see `shoal boards list`.")],
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="A group; may be repeated.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="How long it lasts.")] = 24.0,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Makes a one-time token: the device makes its own key and enrols itself with it."""
    with reported(as_json):
        labels, fleet = _pairs(label or []), Fleet.open(folder)
        secret = fleet.new_token(
            device, board, labels=labels, groups=group or [], seconds=hours * 3600
        )
        if as_json:
            emit_json({"device": device, "token": secret, "url": fleet.api_url})
            return
        typer.echo(secret)
        typer.echo(
            f"On the device, with the token in a file: shoal-agent enroll --url {fleet.api_url} "
            "--token-file FILE --config agent.yaml",
            err=True,
        )


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
    for command in (enroll, token, publish, withdraw):
        app.command(command.__name__)(command)
