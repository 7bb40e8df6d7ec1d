"""What a board fetches and runs when it joins: the installer, with this fleet's facts in it."""

from __future__ import annotations

import hashlib
import json
import ssl
from importlib import resources
from typing import Any, Final

from fleet import address
from fleet.folder import Fleet
from fleet.joining import wheelhouse
from fleet.repository import releases

SCRIPT: Final = "linux/join.py"
UNIT: Final = "linux/shoal-agent.service"


def authority(fleet: Fleet) -> bytes:
    """The certificate (DER) of the authority that the API's certificate is of.

    Empty: the API has one that somebody else signed, which a system's authorities vouch for.
    """
    if not address.has_own_certificate(fleet.config):
        return b""
    return ssl.PEM_cert_to_DER_cert(fleet.own_ca())


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 of a certificate (DER)."""
    return hashlib.sha256(certificate).hexdigest()


def render(fleet: Fleet, stick: dict[str, Any] | None = None) -> str:
    """The installer's text; with `stick`: for a folder that has all that it needs."""
    der = authority(fleet)
    facts: dict[str, Any] = {
        "URL": fleet.api_url,
        "CA": ssl.DER_cert_to_PEM_cert(der) if der else "",
        "UNIT": _file(UNIT),
    }
    if stick is not None:
        facts["STICK"] = stick
    head = "".join(f"{name} = {json.dumps(value)}\n" for name, value in facts.items())
    return head + _file(SCRIPT)


def _file(name: str) -> str:
    return (resources.files("firmware_configs") / name).read_text("utf-8")


def has_release(fleet: Fleet, board: str) -> bool:
    """Whether the fleet keeps an agent for a board, for any Python."""
    platform = wheelhouse.platform_of(board)
    signed = releases.published(fleet.open_repository())
    return any(one.platform == platform for one in signed)
