"""``shoal fleet agent``: the agent's own releases, kept and signed by the fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from contracts import release
from contracts.errors import InputError
from contracts.release import ReleaseArchive
from fleet.cli import rollout as rollouts
from fleet.cli.options import HERE, AsJson, Folder, TokenFile, TokenValue, Url
from fleet.cli.output import emit_json, reported, table
from fleet.folder import Fleet
from fleet.joining import micro, releases, wheelhouse
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
    python: Annotated[
        str, typer.Option(help="The board's Python, for example 3.13; not of MicroPython.")
    ] = "",
    extra_index: Annotated[
        list[str] | None, typer.Option(help="An index beside pip's own; may be repeated.")
    ] = None,
    replace: Replace = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Fetches the agent's wheels for a platform with pip, and signs them as one release.

    For a board with MicroPython the agent is compiled instead.
    """
    with reported(as_json):
        fleet = Fleet.open(folder)
        if micro.is_micro(platform):
            made, new = releases.compile_for(fleet, platform, replace=replace)
            _show_micro(made, as_json=as_json, new=new)
            return
        if not python:
            raise InputError("bad-python", "give the board's Python: --python 3.13, for example")
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
    python: Annotated[str, typer.Option(help="For example 3.13; of MicroPython mpy63.")],
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Takes a release out of the signed list; devices that run it keep it."""
    with reported(as_json):
        if python.startswith("mpy"):
            target = f"agent/{version}/{micro.code_of(platform)}-{python}.json"
        else:
            where, what = wheelhouse.platform_of(platform), wheelhouse.python_of(python)
            target = release.target(version, where, what)
        releases.withdraw(Fleet.open(folder), target)
        if as_json:
            emit_json({"target": target})
            return
        typer.echo(f"Withdrew {target}")


@app.command()
def rollout(
    version: Annotated[str, typer.Argument(help="Of the agent; signed by fetch or add.")],
    group: Annotated[str | None, typer.Option(help="Devices of one group.")] = None,
    selector: Annotated[str | None, typer.Option(help="Which devices; else all.")] = None,
    waves: Annotated[
        str | None, typer.Option(help="Sizes counted from the start: 1,10%,50%,100%; ? asks first.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show it, do not do it.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also a version that was stopped before.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it ends.")] = False,
    folder: Folder = HERE,
    url: Url = None,
    token_file: TokenFile = None,
    token: TokenValue = None,
    as_json: AsJson = False,
) -> None:
    """Moves devices to a version of the agent: as `shoal fleet rollout create shoal-agent`."""
    with reported(as_json):
        if group is not None and selector is not None:
            raise InputError("bad-rollout", "give --group or --selector, not both")
        wanted = f"group={group}" if group is not None else selector
        options: dict[str, Any] = {
            "bundle": release.NAME, "version": version, "file": None, "selector": wanted,
            "waves": waves, "option": [], "folder": folder, "url": url,
            "token_file": token_file, "token": token, "as_json": as_json,
        }  # fmt: skip
        if plan:
            rollouts.plan(**options)
        else:
            rollouts.create(**options, wait=wait, again=again)


def _python(tag: str) -> str:
    return f"3.{tag[3:]}" if tag.startswith("cp") else tag


def _show_micro(found: Published, *, as_json: bool, new: bool) -> None:
    if as_json:
        emit_json({**msgspec.to_builtins(found), "new": new})
        return
    done = "Signed" if new else "Signed already"
    typer.echo(
        f"{done}: agent {found.version} for MicroPython, {found.platform} and {found.python}, "
        f"{found.size / 1e3:.0f} kB"
    )


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
