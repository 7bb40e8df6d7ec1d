"""Options that commands share."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from contracts.errors import InputError
from fleet.cli.output import reported
from fleet.client import Client
from fleet.folder import Fleet

P = ParamSpec("P")
FOLDER_VARIABLE = "SHOAL_FLEET"
TOKEN_VARIABLE = "SHOAL_TOKEN"  # noqa: S105  (the name of a variable)
URL_VARIABLE = "SHOAL_URL"
CA_VARIABLE = "SHOAL_CA"

AsJson = Annotated[bool, typer.Option("--json", help="JSON for machines.")]
Folder = Annotated[
    Path,
    typer.Option("--dir", envvar=FOLDER_VARIABLE, help="The fleet's folder.", show_default=True),
]
HERE = Path("fleet")

Url = Annotated[
    str | None,
    typer.Option("--url", envvar=URL_VARIABLE, help="The controller; else the folder's."),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="A file with a token; else the folder's.")
]
TokenValue = Annotated[
    str | None, typer.Option(envvar=TOKEN_VARIABLE, hidden=True, help="A token.")
]


def with_client(command: Callable[Concatenate[Client, P], None]) -> Callable[..., None]:
    """A command that asks the controller: it is given a client in place of the options for that.

    Its last parameter is `as_json`; errors are told as the command's others are.
    """
    own = inspect.signature(command, eval_str=True)
    asked = inspect.signature(connect, eval_str=True).parameters.values()
    shared = [
        one.replace(annotation=kind, default=HERE if one.name == "folder" else None)
        for one, kind in zip(asked, (Folder, Url, TokenFile, TokenValue), strict=True)
    ]
    _, *mine, last = own.parameters.values()
    signature = own.replace(parameters=[*mine, *shared, last])

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> None:
        values = signature.bind(*args, **given)
        values.apply_defaults()
        rest = values.arguments
        where = [rest.pop(one.name) for one in shared]
        with reported(rest["as_json"]), connect(*where) as client:
            command(client, **rest)  # type: ignore[call-arg]

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return run


def connect(
    folder: Path, url: str | None = None, token_file: Path | None = None, token: str | None = None
) -> Client:
    """A client of the controller that a command means.

    Its certificate may be of an authority of the system, of the fleet's own, where the folder is
    here, or of the file that ``SHOAL_CA`` names.

    Raises:
        InputError: ``no-token`` and what opening the folder raises.
    """
    if url is None or (token_file is None and token is None):
        fleet = Fleet.open(folder)
        url = url or fleet.api_url
        token_file = token_file or fleet.token_file
    if token is None:
        assert token_file is not None
        try:
            token = token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(
                "no-token", f"{token_file} cannot be read: name a token file with --token-file"
            ) from None
    if not token.isascii() or not token.isprintable():
        raise InputError("no-token", "the token is not one of a controller")
    return Client(url, token, ca=_authority(folder))


def _authority(folder: Path) -> Path | None:
    named = os.environ.get(CA_VARIABLE)
    own = folder / "ca" / "ca.pem"
    if named:
        return Path(named)
    return own if os.path.isfile(own) else None  # noqa: PTH113  (one that may not be read is none)
