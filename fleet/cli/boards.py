"""``shoal boards``: what kinds of device there are, and which hold a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts import board as boards
from contracts.bundle import Bundle
from fleet.cli.options import AsJson
from fleet.cli.output import emit_json, reported, table

app = typer.Typer(no_args_is_help=True, help="Board profiles.")


@app.command("list")
def list_boards(as_json: AsJson = False) -> None:
    """Lists the board profiles."""
    with reported(as_json):
        found = [boards.load(name) for name in boards.names()]
        if as_json:
            emit_json(found)
            return
        table(
            ("board", "title", "kind", "RAM MiB", "model RAM MiB", "runtimes"),
            [
                (
                    one.name,
                    one.title,
                    one.kind,
                    f"{one.ram_bytes / 2**20:.4g}",
                    f"{one.model_ram_bytes / 2**20:.4g}",
                    ", ".join(one.runtimes),
                )
                for one in found
            ],
        )


@app.command("check")
def check_bundle(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a folder or a .shoal file.")],
    board: Annotated[str | None, typer.Option(help="Only this board; exit 1 if not.")] = None,
    as_json: AsJson = False,
) -> None:
    """Shows which boards hold a bundle, and why the others do not."""
    with reported(as_json):
        manifest = Bundle.open(bundle).manifest
        names = [board] if board else boards.names()
        found = {name: boards.misfits(manifest, boards.load(name)) for name in names}
        if as_json:
            emit_json({name: [str(one) for one in why] for name, why in found.items()})
        else:
            table(
                ("board", "fits", "why not"),
                [
                    (name, "no" if why else "yes", "; ".join(str(one) for one in why))
                    for name, why in found.items()
                ],
            )
        if board and found[board]:
            raise typer.Exit(1)
