"""``shoal fleet sign`` and who may sign: publishers with keys and machines of their own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from tuf.api.metadata import Metadata, Root, Targets

from contracts.bundle import Bundle
from contracts.errors import InputError
from fleet import durable, publication
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, safe
from fleet.folder import Fleet
from fleet.parts import passphrase
from fleet.repository import delegation, difference
from fleet.repository.keys import KeyFolder

Name = Annotated[str, typer.Argument(help="The publisher's role: a-z, 0-9 and -.")]
TargetsKeys = Annotated[
    Path | None, typer.Option("--keys", help="Where the targets key is; else the fleet's.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Sign without asking.")]


def confirmed(what: str, old: Root | Targets | None, new: Root | Targets, yes: bool) -> None:
    """Shows what a signature would change and asks, unless `yes`.

    Raises:
        InputError: ``not-confirmed``.
    """
    typer.echo(f"Signing {what}:", err=True)
    for line in difference.between(old, new):
        typer.echo(f"  {safe(line)}", err=True)
    if yes:
        return
    try:
        agreed = typer.confirm("Sign this?", err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise InputError("not-confirmed", "nothing was signed: answer y, or give --yes")


def sign(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundles to list: folders or .shoal files.")
    ] = None,
    keys_folder: Annotated[
        Path, typer.Option("--keys", help="The role's keys, and what it signed last.")
    ] = Path("keys"),
    role: Annotated[str, typer.Option(help="A delegated role, or targets.")] = "targets",
    out: Annotated[
        Path | None, typer.Option(help="The file to hand over; else ROLE.json beside the keys.")
    ] = None,
    current: Annotated[
        Path | None,
        typer.Option(help="What the role signed last; else ROLE.json beside the keys."),
    ] = None,
    withdraw: Annotated[
        list[str] | None, typer.Option(help="NAME:VERSION to take out; may be repeated.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it counts.")] = 365,
    above: Annotated[
        int, typer.Option(min=0, help="Version and releases go above this; after a restore.")
    ] = 0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Signs bundles with a role's keys on this machine, which needs no fleet.

    The controller takes the file in: `shoal fleet publish BUNDLE --signed FILE`.
    """
    with reported(as_json):
        own = keys_folder / f"{role}.json"
        start = current or (own if own.is_file() else None)
        if role == "targets" and start is None:
            raise InputError(
                "no-such-file",
                "the targets role goes on from what it signed: give the newest "
                "metadata/N.targets.json of the repository with --current",
            )
        before = delegation.read(publication.read(start), str(start)) if start else None
        after = delegation.read(publication.read(start), str(start)) if start else None
        pairs = [_pair(text) for text in withdraw or []]
        opened = [Bundle.open(path) for path in bundles or []]
        signed = delegation.extend(
            role, after.signed if after else None, opened, pairs,
            now=time.time(), days=days, above=above,
        )  # fmt: skip
        confirmed(role, before.signed if before else None, signed, yes)
        document = Metadata[Targets](signed)
        signers = delegation.sign(document, KeyFolder(keys_folder, passphrase()), role)
        data = delegation.to_bytes(document)
        durable.write(own, data)
        target = out or own
        if target != own:
            durable.write(target, data)
        if as_json:
            emit_json({"file": str(target), "version": signed.version, "signed_by": signers})
            return
        typer.echo(f"Signed {role} version {signed.version}: hand over {target}")
        typer.echo("There: shoal fleet publish BUNDLE... --signed FILE")


def delegate(
    role: Name,
    pattern: Annotated[
        list[str], typer.Option(help="Bundle names, as 'kitchen-*'; may be repeated.")
    ],
    public: Annotated[
        list[Path], typer.Option("--public", help="A public key (.pub) of the publisher.")
    ],
    threshold: Annotated[int, typer.Option(min=1, max=16, help="How many keys must sign.")] = 1,
    folder: Folder = HERE,
    keys_folder: TargetsKeys = None,
    as_json: AsJson = False,
) -> None:
    """Lets a publisher sign bundles of some names with keys of its own; again: replaces that."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        publication.delegate(fleet, role, pattern, public, threshold, keys_folder=keys_folder)
        if as_json:
            emit_json({"role": role, "patterns": pattern, "threshold": threshold})
            return
        typer.echo(f"{role} may sign {', '.join(pattern)}; devices follow at their next update")


def undelegate(
    role: Name, folder: Folder = HERE, keys_folder: TargetsKeys = None, as_json: AsJson = False
) -> None:
    """Takes a publisher's right to sign away; devices install none of its bundles any more."""
    with reported(as_json):
        gone = publication.revoke(Fleet.open(folder), role, keys_folder=keys_folder)
        if as_json:
            emit_json({"role": role, "withdrawn": gone})
            return
        typer.echo(f"{role} may sign no more; {len(gone)} bundles are in no signed list now")


def delegated(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Shows which publishers may sign which names, and what they signed."""
    with reported(as_json):
        found = delegation.every(Fleet.open(folder).open_repository())
        if as_json:
            emit_json(found)
            return
        for one in found:
            typer.echo(
                f"{one.role}: {', '.join(one.patterns)}; {one.threshold} of {len(one.keys)} keys; "
                f"version {one.version}, {one.bundles} bundles"
            )


def _pair(text: str) -> tuple[str, str]:
    name, colon, version = text.partition(":")
    if not colon:
        raise InputError("bad-options", f"--withdraw {text[:80]!r}: expected NAME:VERSION")
    return name, version


def register(fleet_app: typer.Typer, keys_app: typer.Typer) -> None:
    """Adds the commands."""
    fleet_app.command("sign")(sign)
    keys_app.command("delegate")(delegate)
    keys_app.command("undelegate")(undelegate)
    keys_app.command("delegated")(delegated)


__all__ = ["confirmed", "register"]
