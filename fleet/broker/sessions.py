"""Ends open connections of a device, through mosquitto's dynamic security plugin.

A reload denies a revoked device everything, and leaves its connection open. The plugin ends the
connections of a user name when the client of that name is deleted, which is all that it is used
for here: it knows no clients and no roles, defers every decision, and the access control file
decides as it does without it. Source: mosquitto 2.0, "Dynamic Security Plugin".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import codec
from contracts.errors import InputError
from fleet import durable

CONTROL: Final = "$CONTROL/dynamic-security/v1"
RESPONSE: Final = f"{CONTROL}/response"
STATE: Final = "sessions.json"
"""In the broker's folder: what the plugin keeps; the broker writes it too."""

MAX_DEVICES: Final = 100
"""Devices in one message."""

_PLUGIN: Final = "mosquitto_dynamic_security.so"
_FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")
_NOTHING: Final = {
    "defaultACLAccess": {
        "publishClientSend": False,
        "publishClientReceive": False,
        "subscribe": False,
        "unsubscribe": False,
    },
    "clients": [],
    "groups": [],
    "roles": [],
}


def find_plugin() -> Path | None:
    """The plugin, as a package of mosquitto puts it; None where there is none."""
    for folder in map(Path, _FOLDERS):
        for pattern in (_PLUGIN, f"*/{_PLUGIN}"):
            for found in sorted(folder.glob(pattern)):
                return found
    return None


def write_state(folder: Path) -> Path:
    """Makes the plugin's file where it is missing."""
    path = folder / STATE
    if not path.exists():
        durable.write(path, codec.pretty(_NOTHING), mode=0o600)
    return path


def request(devices: Sequence[str]) -> bytes:
    """What is sent to :data:`CONTROL` to end the connections of devices."""
    commands = [
        {"command": command, "username": device}
        for device in devices
        for command in ("createClient", "deleteClient")
    ]
    return codec.encode({"commands": commands})


class _Response(msgspec.Struct):
    command: str
    error: str = ""


class _Responses(msgspec.Struct):
    responses: list[_Response]


def refusals(payload: bytes) -> list[str]:
    """What the plugin says that it could not do; a deletion alone ends connections.

    Raises:
        InputError: it is no answer of the plugin's.
    """
    found: Any = codec.decode(payload, _Responses, what="an answer of the broker")
    if not any(one.command == "deleteClient" for one in found.responses):
        raise InputError("bad-message", "an answer of the broker without what was asked")
    return [one.error for one in found.responses if one.command == "deleteClient" and one.error]
