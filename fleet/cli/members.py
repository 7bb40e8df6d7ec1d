"""``shoal fleet revoke | retire | rename | expiry``: who is of the fleet, and for how long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from contracts.board import load as load_board
from fleet import expiry as expiries
from fleet.boards.compiler import compiler
from fleet.boards.folder import load_config, write_folder
from fleet.cli import noted
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, safe, table
from fleet.folder import Fleet
from fleet.membership import leaving
from fleet.membership.leaving import Departure
from fleet.store.audit import local

Device = Annotated[str, typer.Argument(help="The device's name.")]


def _show(found: Departure, said: str) -> None:
    """What was done, and what is left to do."""
    typer.echo(said)
    if found.todo:
        typer.echo(
            f"The broker has not read it yet: {found.todo}. Until then the device can connect; "
            "the controller drops what it sends, and serves it nothing.",
            err=True,
        )
    elif not found.ended:
        typer.echo(
            "Its connection, if one is open, may do nothing; it ends when the device or the "
            "broker ends it.",
            err=True,
        )


def revoke(device: Device, folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Revokes a device: its certificates, and everything it may do. It stays in the list."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "device.revoke", device):
            found = leaving.revoke(fleet, device, local())
        if as_json:
            emit_json(found)
            return
        _show(found, f"Revoked {device} ({found.certificates} certificates).")


def retire(device: Device, folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Takes a device out of the fleet: its history stays, its name is free."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "device.retire", device):
            found = leaving.retire(fleet, device, local())
        if as_json:
            emit_json(found)
            return
        _show(found, f"Retired {device}; its history is kept as {found.history or 'nothing'}.")


def rename(
    device: Device,
    name: Annotated[str, typer.Argument(help="The new name.")],
    out: Annotated[Path | None, typer.Option(help="Where the new agent.yaml goes.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Gives a device another name, by a new certificate; its history goes with it."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "device.rename", device):
            on_board = load_board(fleet.open_identity().profile(device).board).kind == "micropython"
            if on_board:
                compiler()  # missed before anything changes
            renamed = leaving.rename(fleet, device, name, local(), out=out)
        path = Path(renamed.path)
        files = path.parent / f"{name}-board" if on_board else None
        if files is not None:
            write_folder(load_config(path), files)
        if as_json:
            emit_json({"renamed": renamed, "files": str(files or "")})
            return
        _show(renamed.departure, f"Renamed {device} to {name}: {path}")
        if files is not None:
            typer.echo(f"Copy it to the board: shoal boards flash {files}")
        else:
            typer.echo(f"Put {path.name} in place of the device's, and restart its agent.")


def expiry(
    every: Annotated[bool, typer.Option("--all", help="Each device's certificate, too.")] = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Lists all that runs out, with what to do; exit code 1 when something needs it now."""
    with reported(as_json):
        fleet, now = Fleet.open(folder), time.time()
        store = fleet.open_store()
        try:
            with store.read() as connection:
                found = expiries.every(fleet, fleet.open_repository(), connection, now)
        finally:
            store.close()
        urgent = expiries.due(found, now)
        shown = [one for one in found if every or one.kind != "device" or one.days(now) is not None]
        if as_json:
            emit_json([{**msgspec.to_builtins(one), "warning": one.days(now)} for one in shown])
        else:
            table(
                ("what", "name", "until", "left", "to renew it"),
                [
                    (
                        one.kind,
                        one.name,
                        time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.expires)),
                        f"{(one.expires - now) / 86400:.1f} d",
                        one.todo,
                    )
                    for one in shown
                ],
            )
            for _, text, _ in expiries.grouped(urgent, now):
                typer.echo(safe(text), err=True)
        if urgent:
            raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (revoke, retire, rename, expiry):
        app.command(command.__name__)(command)
