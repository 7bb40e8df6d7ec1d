"""``shoal fleet keys``: who signs what, new keys, thresholds, and root drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tuf.api.metadata import Targets

from contracts.errors import InputError
from contracts.files import typed
from fleet import durable, publication
from fleet.cli import noted
from fleet.cli.delegation import Yes, confirmed
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, table
from fleet.folder import CONFIG, Fleet
from fleet.parts import passphrase
from fleet.repository import Repository, delegation, keys, paths, rotation
from fleet.repository.keys import KeyFolder

app = typer.Typer(no_args_is_help=True, help="Signing keys: list, rotate, sign with others.")

KeysFolder = Annotated[
    Path | None, typer.Option("--keys", help="Where the private keys are; else the fleet's.")
]
Role = Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")]
NewRole = Annotated[
    str, typer.Argument(help="root, targets, snapshot or timestamp, or a publisher's name.")
]
Add = Annotated[int, typer.Option(min=0, max=16, help="New keys to make here.")]
Public = Annotated[
    list[Path] | None,
    typer.Option("--public", help="A public key (.pub) of somebody else; may be repeated."),
]
Remove = Annotated[
    list[str] | None,
    typer.Option(help="Beginning of the id of a key to take away; none given: all old ones."),
]
Keep = Annotated[bool, typer.Option("--keep", help="Take no old key away.")]
Threshold = Annotated[int | None, typer.Option(min=1, max=16, help="How many keys must sign.")]


def _open(fleet: Fleet, keys_folder: Path | None) -> Repository:
    return Repository.open(
        fleet.folder / "repository", keys_folder or fleet.keys_folder, passphrase=passphrase()
    )


def _removed(remove: list[str] | None, keep: bool) -> list[str] | None:
    if keep and remove:
        raise InputError("bad-options", "--keep and --remove exclude one another")
    return [] if keep else remove or None


@app.command("list")
def list_keys(
    folder: Folder = HERE, keys_folder: KeysFolder = None, as_json: AsJson = False
) -> None:
    """Shows each role's keys, how many must sign, and when its signature expires."""
    with reported(as_json):
        roles = rotation.describe(_open(Fleet.open(folder), keys_folder))
        if as_json:
            emit_json(roles)
            return
        table(
            ("role", "must sign", "expires", "key", "private key"),
            [
                (
                    role.role,
                    f"{role.threshold} of {len(role.keys)}",
                    role.expires[:10],
                    key.keyid[:16],
                    "here" if key.at_hand else "elsewhere",
                )
                for role in roles
                for key in role.keys
            ],
        )


@app.command("new")
def new_key(
    role: NewRole,
    keys_folder: Annotated[Path, typer.Option("--keys", help="Where the new key goes.")],
    as_json: AsJson = False,
) -> None:
    """Makes a key for a role, to hand its public half (.pub) to whoever keeps the fleet.

    The role is one of the four, or a publisher's.
    """
    with reported(as_json):
        if role not in keys.ROLES:
            paths.check_role(role)
        folder = KeyFolder(keys_folder, passphrase())
        key = folder.generate(role)
        public = folder.path_of(role, key).with_suffix(".pub")
        if as_json:
            emit_json({"role": role, "keyid": key.keyid, "public": str(public)})
            return
        typer.echo(f"Made key {key.keyid[:16]} for {role}: hand over {public}")


@app.command("rotate")
def rotate(
    role: Role,
    add: Add = 1,
    public: Public = None,
    remove: Remove = None,
    keep: Keep = False,
    threshold: Threshold = None,
    folder: Folder = HERE,
    keys_folder: KeysFolder = None,
    as_json: AsJson = False,
) -> None:
    """Gives a role new keys at once, when all keys that must sign are here."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "keys.rotate", role) as act:
            version = rotation.rotate(
                _open(fleet, keys_folder),
                role,
                add=add,
                public=[keys.load_public(path) for path in public or []],
                remove=_removed(remove, keep),
                threshold=threshold,
            )
            act.detail["root_version"] = version
        _published(version, as_json)


@app.command("propose")
def propose(
    role: Role,
    draft: Annotated[Path, typer.Argument(help="The file to write.")],
    add: Add = 1,
    public: Public = None,
    remove: Remove = None,
    keep: Keep = False,
    threshold: Threshold = None,
    folder: Folder = HERE,
    keys_folder: KeysFolder = None,
    as_json: AsJson = False,
) -> None:
    """Writes a draft of a new root for others to sign."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "keys.propose", role, draft=str(draft.absolute())):
            rotation.propose(
                _open(fleet, keys_folder),
                draft,
                role,
                add=add,
                public=[keys.load_public(path) for path in public or []],
                remove=_removed(remove, keep),
                threshold=threshold,
            )
        if as_json:
            emit_json({"draft": str(draft)})
            return
        command = f"shoal fleet keys sign {typed(draft)} --keys FOLDER"
        typer.echo(f"Wrote {draft}: each holder runs `{command}`")


@app.command("sign")
def sign(
    draft: Annotated[Path, typer.Argument(help="A draft that was proposed, or a role's file.")],
    current: Annotated[
        Path | None, typer.Option(help="What it follows on; else the fleet's own.")
    ] = None,
    yes: Yes = False,
    folder: Folder = HERE,
    keys_folder: KeysFolder = None,
    as_json: AsJson = False,
) -> None:
    """Shows what a draft changes, asks, and adds the signatures of the keys in a folder.

    A draft of root.json, or what a publisher signed and another of its holders must sign too
    (then no fleet is needed here).
    """
    with reported(as_json):
        signed = (
            _sign_root(draft, current, yes, folder, keys_folder)
            if rotation.is_root(draft)
            else _sign_role(draft, current, yes, folder, keys_folder)
        )
        if as_json:
            emit_json({"draft": str(draft), "signed_by": signed})
            return
        typer.echo(f"Signed by {', '.join(keyid[:16] for keyid in signed)}")


def _sign_root(
    draft: Path, current: Path | None, yes: bool, folder: Path, keys_folder: Path | None
) -> list[str]:
    if current is not None:
        raise InputError("bad-options", "a draft of root.json follows on the fleet's: give --dir")
    fleet = Fleet.open(folder)
    holder = KeyFolder(keys_folder or fleet.keys_folder, passphrase())
    repository = _open(fleet, None)
    document = rotation.read_draft(repository, draft)
    confirmed("root.json", repository.metadata.root().signed, document.signed, yes)
    with noted.acting(fleet, "keys.sign", str(draft.absolute())) as act:
        signed = rotation.sign_draft(repository, draft, holder)
        act.detail["signed_by"] = signed
    return signed


def _sign_role(
    draft: Path, current: Path | None, yes: bool, folder: Path, keys_folder: Path | None
) -> list[str]:
    if keys_folder is None:
        raise InputError("bad-options", "say where the role's keys are: --keys FOLDER")
    document = delegation.read(publication.read(draft), str(draft))
    role = delegation.role_of(document.signed)
    before: Targets | None = None
    if current is not None:
        before = delegation.read(publication.read(current), str(current)).signed
    elif (folder / CONFIG).is_file():
        store = _open(Fleet.open(folder), None).metadata
        targets = store.targets().signed
        before = targets if role == "targets" else store.delegated(role, targets)
    confirmed(role, before, document.signed, yes)
    signed = delegation.sign(document, KeyFolder(keys_folder, passphrase()), role)
    durable.write(draft, delegation.to_bytes(document))
    return signed


@app.command("apply")
def apply(
    draft: Annotated[Path, typer.Argument(help="A draft that enough holders signed.")],
    folder: Folder = HERE,
    keys_folder: KeysFolder = None,
    as_json: AsJson = False,
) -> None:
    """Publishes a draft once the thresholds of the old and the new root are met."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "keys.apply", str(draft.absolute())) as act:
            version = rotation.apply(_open(fleet, keys_folder), draft)
            act.detail["root_version"] = version
        _published(version, as_json)


@app.command("resign")
def resign(
    targets: Annotated[
        bool, typer.Option("--targets", help="Also the targets role (an offline key).")
    ] = False,
    folder: Folder = HERE,
    keys_folder: KeysFolder = None,
    as_json: AsJson = False,
) -> None:
    """Renews signatures now; a running controller renews the online ones by itself."""
    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "keys.resign", "repository") as act:
            repository = _open(fleet, keys_folder)
            if targets:
                repository.resign_targets()
                signed = ["targets", "snapshot", "timestamp"]
            else:
                signed = repository.resign(force=True)
            act.detail["roles"] = signed
        if as_json:
            emit_json({"signed": signed})
            return
        typer.echo(f"Signed anew: {', '.join(signed)}")


def _published(version: int, as_json: bool) -> None:
    if as_json:
        emit_json({"root_version": version})
        return
    typer.echo(f"Published root version {version}; devices follow at their next update")
