"""``shoal fleet agent``: the agent's own releases, kept and signed by the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from contracts import release
from contracts.release import ReleaseArchive
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, table
from fleet.folder import Fleet
from fleet.joining import releases, wheelhouse
from fleet.repository import releases as signed
from fleet.repository.releases import Published

app = typer.Typer(
    no_args_is_help=True, help="The agent for devices: its wheels by platform and Python."
)
Replace = Annotated[
    bool, typer.Option("--replace", help="Other wheels for a version that is signed.")
]


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB"


@app.command()
def fetch(
    platform: Annotated[
        str, typer.Option(help="A board profile, or x86-64, aarch64, armv7l.", show_default=False)
    ],
    python: Annotated[str, typer.Option(help="The board's Python, for example 3.13.")],
    extra_index: Annotated[
        list[str] | None, typer.Option(help="An index beside pip's own; may be repeated.")
    ] = None,
    replace: Replace = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Fetches the agent's wheels for a platform with pip, and signs them as one release."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        found, new = releases.fetch(
            fleet,
            wheelhouse.platform_of(platform),
            wheelhouse.python_of(python),
            extra_indexes=extra_index or (),
            replace=replace,
            quiet=as_json,
        )
        archive = fleet.folder / "repository" / found.path
        _show(found, ReleaseArchive.open(archive), as_json=as_json, new=new)


@app.command()
def add(
    archive: Annotated[Path, typer.Argument(help="A release archive (.zip).")],
    replace: Replace = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Signs a release archive that was made elsewhere."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        found = releases.add(fleet, archive, replace=replace)
        _show(found, ReleaseArchive.open(archive), as_json=as_json, new=True)


@app.command("list")
def list_releases(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Lists the signed releases, the newest last."""
    with reported(as_json):
        found = signed.published(Fleet.open(folder).open_repository())
        if as_json:
            emit_json([msgspec.to_builtins(one) for one in found])
            return
        table(
            ["version", "platform", "python", "size"],
            [[one.version, one.platform, _python(one.python), size(one.size)] for one in found],
        )


@app.command()
def withdraw(
    version: Annotated[str, typer.Argument(help="Of the agent.")],
    platform: Annotated[str, typer.Option(help="A board profile, or a platform.")],
    python: Annotated[str, typer.Option(help="For example 3.13.")],
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Takes a release out of the signed list; devices that run it keep it."""
    with reported(as_json):
        where, what = wheelhouse.platform_of(platform), wheelhouse.python_of(python)
        target = release.target(version, where, what)
        releases.withdraw(Fleet.open(folder), target)
        if as_json:
            emit_json({"target": target})
            return
        typer.echo(f"Withdrew {target}")


def _python(tag: str) -> str:
    return f"3.{tag[3:]}"


def _show(found: Published, archive: ReleaseArchive, *, as_json: bool, new: bool) -> None:
    wheels = sorted(archive.release.wheels, key=lambda one: -one.size)
    if as_json:
        emit_json({**msgspec.to_builtins(found), "new": new, "wheels": msgspec.to_builtins(wheels)})
        return
    table(["wheel", "size"], [[one.file, size(one.size)] for one in wheels])
    done = "Signed" if new else "Signed already"
    typer.echo(
        f"{done}: agent {found.version} for {found.platform} and Python {_python(found.python)}, "
        f"{len(wheels)} wheels, {size(found.size)}"
    )
