"""``shoal-agent enroll``: a one-time token becomes an ``agent.yaml``; the key stays here."""

from __future__ import annotations

import argparse
import ipaddress
import os
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import yaml

from agent.certificates.device import MAX_ANSWER_BYTES, new_request, post
from agent.cli import output
from agent.system.filesystem import Disk
from contracts import authorities, codec, files
from contracts.config import AgentConfig
from contracts.errors import InputError, ShoalError
from contracts.renewal import EnrolmentRequest

_FINAL: Final = ("bad-token", "bad-request", "already-enrolled")
"""Refusals after which the key that was made has no use."""


class _Pending(msgspec.Struct, frozen=True):
    """What is kept while the controller is asked.

    Attributes:
        key: private, PEM.
        request: the signing request that was made with it, PEM.
    """

    key: str
    request: str


def enroll(arguments: argparse.Namespace) -> int:
    """Enrols this device and writes its configuration, mode 0600.

    The key is made here and is sent nowhere. It is stored beside the configuration before the
    token is spent: whatever breaks off then, the same command again uses the same key, and the
    controller answers it again. Without TLS only a controller on this machine is asked: a token
    in the clear enrols whoever reads it first.
    """
    config: Path = arguments.config
    pending = config.with_name(f".{config.name}.enrolling")
    if config.exists():
        pending.unlink(missing_ok=True)
        raise InputError("file-exists", f"{config} exists: this device is enrolled already")
    url = _checked(arguments.url)
    token, context = _token(arguments.token_file), _context(arguments.ca)
    mine = _pending(pending)
    body = codec.encode(EnrolmentRequest(token=token, request=mine.request))
    try:
        sent = post(f"{url}/v1/enroll", body, context)
    except ShoalError as error:
        if error.code in _FINAL:
            pending.unlink(missing_ok=True)
        raise
    answer = codec.decode(
        sent,
        AgentConfig,
        what="the answer to an enrolment",
        cap=MAX_ANSWER_BYTES,
    )
    tls = answer.mqtt.tls
    if tls is not None:
        mqtt = msgspec.structs.replace(answer.mqtt, tls=msgspec.structs.replace(tls, key=mine.key))
        answer = msgspec.structs.replace(answer, mqtt=mqtt)
    text = yaml.safe_dump(msgspec.to_builtins(answer), sort_keys=False, allow_unicode=True)
    _write(config, text.encode())
    pending.unlink(missing_ok=True)
    leaving = _leaving(answer)
    if arguments.json:
        output.document(
            {
                "device": answer.device,
                "fleet": answer.fleet,
                "config": str(config),
                "leaving": leaving,
            }
        )
    else:
        output.table(
            [
                ["enrolled", f"{answer.device} in fleet {answer.fleet}: {config}"],
                *(["note", text] for text in leaving),
            ]
        )
    return 0


def _leaving(config: AgentConfig) -> list[str]:
    """Which texts may leave this device by what the fleet provisioned, for its owner."""
    found = [
        f"texts of the source {source.name} leave this device (share_text: true)"
        for source in config.sources
        if source.share_text
    ]
    hard = [f"of the source {source.name}" for source in config.sources if source.share == "hard"]
    if config.examples.keep and config.examples.share != "never":
        if config.examples.share == "hard":
            hard.append("of requests")
        found += [
            f"hard examples {which} may leave this device, redacted (share: hard)" for which in hard
        ]
    return found


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme == "https" and parts.hostname:
        return url.rstrip("/")
    if parts.scheme == "http" and local:
        return url.rstrip("/")
    raise InputError(
        "bad-url", f"{url[:200]!r}: expected https://..., or http:// to this machine itself"
    )


def _token(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(4096).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise InputError("no-such-file", f"{file} is not a readable token file") from None


def _context(ca: Path | None) -> ssl.SSLContext:
    if ca is None:
        return authorities.context()
    text = files.read_small(ca, what="certificate file", code="bad-certificate")
    return authorities.context(text.decode("ascii", "replace"))


def _pending(path: Path) -> _Pending:
    """The key of an enrolment that broke off, or a new one, which is then stored."""
    if path.exists():
        text = files.read_small(path, what="the key of an enrolment that broke off")
        return codec.decode(text, _Pending, what=str(path))
    made = _Pending(*new_request(None))
    _write(path, codec.encode(made))
    return made


def _write(path: Path, data: bytes) -> None:
    """Replaces a file durably, mode 0600."""
    temporary = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        Disk().sync_folder(path.parent)
    except OSError as error:
        raise InputError("bad-path", f"{path} cannot be written: {error.strerror}") from None
