"""``shoal fleet enroll | token | tokens``: how devices get into the fleet."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from contracts import files
from contracts.board import load_for_agent
from contracts.errors import InputError
from fleet import durable
from fleet.boards.compiler import compiler
from fleet.boards.folder import load_config, write_folder
from fleet.cli import noted
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, safe, table
from fleet.folder import Fleet
from fleet.joining import command, image, invitations, offers, stick
from fleet.joining import table as tables
from fleet.joining.invitations import Wanted
from fleet.membership import leaving, replacing

app = typer.Typer(no_args_is_help=True, help="One-time tokens: list, take back.")
_MAX_CSV: int = 8 * 1024 * 1024


def pairs(values: list[str]) -> dict[str, str]:
    """Labels as they are typed.

    Raises:
        InputError: ``bad-label``.
    """
    found: dict[str, str] = {}
    for value in values:
        key, sign, text = value.partition("=")
        if not sign or not key:
            raise InputError("bad-label", f"label {value[:80]!r} is not key=value")
        found[key] = text
    return found


Label = Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")]
Group = Annotated[list[str] | None, typer.Option(help="A group; may be repeated.")]
Hours = Annotated[float, typer.Option(min=0.01, max=720, help="How long a token lasts.")]


def enroll(
    device: Annotated[
        str | None, typer.Argument(help="The device's name; with --count, how names begin.")
    ] = None,
    board: Annotated[
        str | None, typer.Option(help="A board profile: see `shoal boards list`.")
    ] = None,
    label: Label = None,
    group: Group = None,
    csv: Annotated[
        Path | None, typer.Option(help="Many at once: a table with name, board, labels, group.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=tables.MAX_DEVICES, help="Many, with a number each.")
    ] = None,
    hours: Hours = 24.0,
    qr: Annotated[bool, typer.Option("--qr", help="The line as a QR code too.")] = False,
    file: Annotated[
        bool, typer.Option("--file", help="Make the key here, and write agent.yaml.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where agent.yaml goes; as --file.")] = None,
    usb: Annotated[
        Path | None,
        typer.Option(help="A folder for a USB stick: the board needs no network to install."),
    ] = None,
    rpi_imager: Annotated[
        Path | None,
        typer.Option(help="A file for Raspberry Pi Imager: cloud-init's, or firstrun with .sh."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Enrol a known device again; labels and groups stay."),
    ] = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Prints the one line to type on a board: it installs the agent, and the device joins.

    For a microcontroller, and in a fleet on this machine alone, it writes the device's files.
    """
    with reported(as_json):
        fleet = Fleet.open(folder)
        labels = None if label is None else pairs(label)
        if csv is not None or count is not None:
            wanted = _many(device, board, labels, group, csv, count)
            _invite(fleet, wanted, hours, replace=replace, qr=False, as_json=as_json)
            return
        if device is None or board is None:
            raise InputError("bad-options", "expected NAME and --board, or --csv FILE")
        with noted.trying(fleet, "device.enroll", device):
            kind = load_for_agent(board).kind
            if usb is not None:
                one = Wanted(device, board, labels, group)
                _told_stick(stick.write(fleet, one, usb, replace=replace), usb, as_json=as_json)
                return
            if kind == "linux" and fleet.api_url.startswith("https://") and not (file or out):
                one = Wanted(device, board, labels, group)
                if rpi_imager is not None:
                    (made,) = offers.make(fleet, [one], seconds=hours * 3600, replace=replace)
                    write_image(rpi_imager, made.line, as_json=as_json)
                    _tell_missing(fleet, {board})
                    return
                _invite(fleet, [one], hours, replace=replace, qr=qr, as_json=as_json)
                return
            if kind == "micropython":
                compiler()  # missed before anything changes
            leaving.free(fleet, device)
            _, path = replacing.admit(
                fleet, device, board, labels=labels, groups=group, out=out, replace=replace
            )
        _told(device, board, path, micro=kind == "micropython", as_json=as_json)


def _told(device: str, board: str, path: Path, *, micro: bool, as_json: bool) -> None:
    files = path.parent / f"{device}-board" if micro else None
    if files is not None:
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


def _told_stick(names: list[str], folder: Path, *, as_json: bool) -> None:
    if as_json:
        emit_json({"folder": str(folder), "files": names})
        return
    typer.echo(f"Copy {folder} to a stick. On the board: sudo python3 {stick.INSTALL}")


def write_image(path: Path, line: str, *, as_json: bool) -> None:
    """Writes what makes a new board type a line; nobody else may read it."""
    durable.write(path, image.of(path.name, line).encode(), mode=0o600)
    option = "--first-run-script" if path.name.endswith(".sh") else "--cloudinit-userdata"
    if as_json:
        emit_json({"file": str(path), "option": option})
        return
    typer.echo(f"Wrote {path}: rpi-imager --cli {option} {path} IMAGE CARD")


def _many(
    device: str | None,
    board: str | None,
    labels: dict[str, str] | None,
    groups: list[str] | None,
    csv: Path | None,
    count: int | None,
) -> list[Wanted]:
    if csv is None:
        if device is None or board is None or count is None:
            raise InputError("bad-options", "--count needs how the names begin, and --board")
        return tables.numbered(device, count, board, labels, groups)
    if device is not None or count is not None or labels or groups:
        raise InputError("bad-options", "--csv has names, labels and groups in its columns")
    try:
        return tables.read(files.read_small(csv, cap=_MAX_CSV, what="table"), board)
    except InputError as error:
        for fault in error.info.detail.get("faults", []):
            typer.echo(safe(fault), err=True)
        raise


def _invite(
    fleet: Fleet, wanted: list[Wanted], hours: float, *, replace: bool, qr: bool, as_json: bool
) -> None:
    made = offers.make(fleet, wanted, seconds=hours * 3600, replace=replace)
    if as_json:
        entries = [
            {"device": one.device, "board": one.board, "token": one.token, "command": one.line}
            for one in made
        ]
        emit_json(entries[0] if len(entries) == 1 else {"devices": entries})
        return
    if len(made) > 1:
        typer.echo(command.script((one.device, one.line) for one in made), nl=False)
    else:
        typer.echo(made[0].line)
    if qr:
        typer.echo(command.qr(made[0].line))
    span = f"{hours:g} hours" if hours != 1 else "1 hour"
    which = wanted[0].device if len(wanted) == 1 else f"{len(wanted)} devices"
    typer.echo(f"For {which}: type it on the board, once, within {span}.", err=True)
    _tell_missing(fleet, {one.board for one in wanted})


def _tell_missing(fleet: Fleet, boards: set[str]) -> None:
    """Says it here already when there is nothing to install on a board."""
    for text in offers.missing(fleet, boards):
        typer.echo(f"Before that: {text} (the board's own, for example 3.13)", err=True)


def token(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    board: Annotated[str, typer.Option(help="A board profile: see `shoal boards list`.")],
    label: Label = None,
    group: Group = None,
    hours: Hours = 24.0,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Makes a one-time token alone, for a board that has the agent already."""
    with reported(as_json):
        labels, fleet = pairs(label or []), Fleet.open(folder)
        secret = fleet.new_token(
            device, board, labels=labels, groups=group or [], seconds=hours * 3600
        )
        if as_json:
            emit_json({"device": device, "token": secret, "url": fleet.api_url})
            return
        typer.echo(secret)  # read, or nobody is there to be told the rest
        typer.echo(
            f"On the device, with the token in a file: shoal-agent enroll --url {fleet.api_url} "
            "--token-file FILE --config agent.yaml",
            err=True,
        )


@app.command("list")
def list_tokens(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Lists one-time tokens with what became of them; secrets are kept nowhere."""
    with reported(as_json):
        now, found = time.time(), invitations.every(Fleet.open(folder))
        if as_json:
            emit_json([{**msgspec.to_builtins(one), "state": one.state(now)} for one in found])
            return
        table(
            ["id", "device", "board", "state", "until (UTC)"],
            [
                [one.id, one.profile.device, one.profile.board, one.state(now), _time(one.expires)]
                for one in found
            ],
        )


@app.command("revoke")
def revoke_token(
    which: Annotated[str, typer.Argument(help="A token's id, or its device.")],
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Takes back tokens that were not used."""
    with reported(as_json):
        count = invitations.revoke(Fleet.open(folder), which)
        if as_json:
            emit_json({"revoked": count})
            return
        typer.echo(f"Took back {count} token(s) of {which}")


def _time(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))


def register(fleet_app: typer.Typer) -> None:
    """Adds the commands."""
    for one in (enroll, token):
        fleet_app.command(one.__name__)(one)
