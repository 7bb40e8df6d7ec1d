"""``shoal fleet serials``: boards that join by their serial number, with one line for all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from contracts import files
from contracts.errors import InputError
from fleet.cli import noted
from fleet.cli.enroll import write_image
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, safe, table
from fleet.folder import Fleet
from fleet.identity.claims import Expected
from fleet.joining import serials
from fleet.joining import table as tables

app = typer.Typer(no_args_is_help=True, help="Boards that join by their serial number.")
_MAX_CSV: int = 8 * 1024 * 1024


@app.command("add")
def add(
    csv: Annotated[Path, typer.Argument(help="A table: serial, and name, board, labels, group.")],
    board: Annotated[str | None, typer.Option(help="Of rows that name none.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Lists boards by serial number: what is not listed does not join."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "device.serials", csv.name):
            try:
                boards = tables.read(
                    files.read_small(csv, cap=_MAX_CSV, what="table"), board, serials=True
                )
            except InputError as error:
                for fault in error.info.detail.get("faults", []):
                    typer.echo(safe(fault), err=True)
                raise
            serials.add(fleet, boards)
        if as_json:
            emit_json({"added": len(boards)})
            return
        typer.echo(f"{len(boards)} boards are on the list. Their line: shoal fleet serials line")


@app.command("line")
def line(
    hours: Annotated[float, typer.Option(min=0.01, max=720, help="How long it lasts.")] = 168.0,
    rpi_imager: Annotated[
        Path | None,
        typer.Option(help="A file for Raspberry Pi Imager: cloud-init's, or firstrun with .sh."),
    ] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Prints the line that is the same on each board: a board joins as what its number is."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "device.serials", "line"):
            made = serials.line(fleet, hours * 3600)
        if rpi_imager is not None:
            write_image(rpi_imager, made, as_json=as_json)
            return
        if as_json:
            emit_json({"command": made})
            return
        typer.echo(made)
        typer.echo(f"For every board of the list, each once, within {hours:g} hours.", err=True)


@app.command("list")
def list_serials(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Lists the boards with what became of them."""
    with reported(as_json):
        found = serials.every(Fleet.open(folder))
        if as_json:
            emit_json([{**msgspec.to_builtins(one), "machine": None} for one in found])
            return
        table(
            ["serial", "device", "board", "claimed (UTC)"],
            [[one.serial, one.profile.device, one.profile.board, _time(one)] for one in found],
        )


@app.command("remove")
def remove(
    serial: Annotated[str, typer.Argument(help="Of the board.")],
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Takes a board off the list; a device that it became stays one until it is revoked."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "device.serial-remove", serial[:200]):
            gone = serials.remove(fleet, serial)
        if as_json:
            emit_json({"removed": gone.serial})
            return
        typer.echo(f"{gone.serial} is off the list ({gone.profile.device})")


def _time(one: Expected) -> str:
    if one.claimed is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.claimed))
