"""``shoal fleet app``: programs that ask devices over MQTT with a certificate of their own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import InputError
from contracts.topics import Topics
from fleet import durable
from fleet import enforcement as access
from fleet.cli import noted
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, table
from fleet.folder import Fleet
from fleet.identity import applications
from fleet.identity.authority import DEVICE_DAYS

app = typer.Typer(no_args_is_help=True, help="Applications: programs that ask devices over MQTT.")
Name = Annotated[str, typer.Argument(help="The application's name.")]


def _groups(targets: list[str]) -> list[str]:
    found = []
    for target in targets:
        key, _, group = target.partition("=")
        if key != "group" or not group:
            raise InputError("bad-options", f"--on {target[:80]!r}: expected group=NAME")
        found.append(group)
    return found


def _fleet(folder: Path) -> Fleet:
    fleet = Fleet.open(folder)
    if not fleet.config.mutual_tls:
        raise InputError(
            "tls-needed",
            "this fleet has no certificates, and its broker lets every program of this machine do "
            "all: make one with `shoal fleet init --host`, or with --tls",
        )
    return fleet


@app.command()
def add(
    name: Name,
    may: Annotated[str, typer.Option(help="Operations with commas: classify,embed,generate ...")],
    on: Annotated[list[str], typer.Option(help="group=NAME: whose devices; may be repeated.")],
    days: Annotated[int, typer.Option(help="How long the certificate lasts.")] = DEVICE_DAYS,
    replace: Annotated[
        bool, typer.Option("--replace", help="Again: the certificate that it has counts no more.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A folder for certificate and key.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Lets a program ask devices over MQTT: writes its certificate, its key and the authority's.

    It may send the requests of --may to the devices of --on, and read what is sent below its own
    topic prefix, which answers must be asked for. Nothing else.
    """
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "app.add", name) as act:
            _fleet(folder)
            ops = [op.strip() for op in may.split(",") if op.strip()]
            wanted = applications.wanted(name, ops, _groups(on))
            act.detail |= {"may": wanted.may, "groups": wanted.groups}
            identity = fleet.open_identity()
            target = (out or fleet.folder / "apps" / name).absolute()
            files = {part: target / f"{part}.pem" for part in ("ca", "certificate", "key")}
            if not replace and (there := [file for file in files.values() if file.exists()]):
                raise InputError("file-exists", f"{there[0]} exists: name another folder (--out)")
            durable.make_folder(target, 0o700)
            with (
                durable.staged(files["ca"]) as authority,
                durable.staged(files["certificate"]) as certificate,
                durable.staged(files["key"], mode=0o600) as key,
            ):
                with applications.adding(
                    identity, wanted, time.time(), replace=replace, days=days
                ) as made:
                    authority.write(made.ca.encode())
                    certificate.write(made.certificate.encode())
                    key.write(made.key.encode())
                for part in (authority, certificate, key):
                    part.swap()
            told = access.apply(fleet, identity, revoked=replace)
        mqtt = fleet.enrolment().mqtt
        topics = Topics(fleet.config.fleet)
        answers = topics.answers_to(name)
        if as_json:
            emit_json(
                {
                    "application": wanted,
                    "files": {part: str(file) for part, file in files.items()},
                    "host": mqtt.host,
                    "port": mqtt.port,
                    "answers": answers,
                    "todo": told.todo,
                }
            )
            return
        typer.echo(f"Added {name}: {target}")
        typer.echo(f"Broker   {mqtt.where}, with the files there")
        for group in wanted.groups:
            typer.echo(f"Ask      {topics.group_request(group, wanted.may[0])}")
        typer.echo(f"Answers  {answers[:-2]}/...: name a topic there in each request")
        if told.todo:
            typer.echo(f"The broker has not read it yet: {told.todo}.", err=True)


@app.command("list")
def list_applications(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Lists applications with what they may ask."""
    with reported(as_json):
        found = applications.every(_fleet(folder).open_identity())
        if as_json:
            emit_json(found)
            return
        table(
            ("application", "may", "on", "until", "revoked"),
            [
                (
                    one.application.name,
                    ",".join(one.application.may),
                    ",".join(f"group={group}" for group in one.application.groups),
                    _day(one.expires),
                    _day(one.revoked),
                )
                for one in found
            ],
        )


def _day(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d", time.gmtime(at))


@app.command()
def revoke(name: Name, folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Takes an application's rights and certificates away, of open connections too."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "app.revoke", name):
            identity = _fleet(folder).open_identity()
            count = applications.revoke(identity, name, time.time())
            told = access.apply(fleet, identity, revoked=True)
        if as_json:
            emit_json({"revoked": name, "certificates": count, "todo": told.todo})
            return
        typer.echo(f"Revoked {name} ({count} certificates).")
        if told.todo:
            typer.echo(f"The broker has not read it yet: {told.todo}.", err=True)
