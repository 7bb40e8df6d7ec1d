"""``shoal boards``: what kinds of device there are, and which hold a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from contracts import board as boards
from contracts import files
from contracts.bundle import Bundle
from contracts.errors import InputError
from fleet.boards.flash import flash
from fleet.boards.folder import load_config, write_folder
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


@app.command("files")
def write_files(
    config: Annotated[Path, typer.Argument(help="The device's agent.yaml.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    wifi: Annotated[str | None, typer.Option(help="The name of the wireless network.")] = None,
    wifi_password_file: Annotated[
        Path | None, typer.Option(help="A file with the network's password.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Writes what is copied to a MicroPython board."""
    with reported(as_json):
        loaded = load_config(config)
        password = _line(wifi_password_file, "password file") if wifi_password_file else ""
        target = out or config.parent / f"{loaded.device}-board"
        files = write_folder(loaded, target, wifi=(wifi, password) if wifi else None)
        if as_json:
            emit_json({"folder": str(target), "files": [str(file) for file in files]})
            return
        typer.echo(f"{target}: {len(files)} files. Copy them: shoal boards flash {target}")


def _line(path: Path, what: str) -> str:
    try:
        return files.read_small(path, what=f"the {what}").decode().strip()
    except UnicodeDecodeError:
        raise InputError("bad-text", f"the {what} {path} is not UTF-8") from None


@app.command("flash")
def flash_board(
    folder: Annotated[Path, typer.Argument(help="A folder written by `shoal boards files`.")],
    port: Annotated[str, typer.Option(help="The serial port of the board.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Copies a device's files to its board with mpremote and restarts it."""
    with reported(as_json):
        with Progress(console=Console(stderr=True), disable=as_json, transient=True) as bar:
            task = bar.add_task("connects", total=None)
            flash(
                folder,
                port,
                progress=lambda name, done, total: bar.update(
                    task, description=name or "restarted", completed=done, total=total
                ),
            )
        if as_json:
            emit_json({"folder": str(folder), "port": port})
            return
        typer.echo(f"Copied {folder} and restarted the board.")
