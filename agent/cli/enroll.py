"""``shoal-agent enroll``: a one-time token becomes an ``agent.yaml``; the key stays here."""

from __future__ import annotations

import argparse
import ipaddress
import os
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml

from agent.certificate import MAX_ANSWER_BYTES, new_request, post
from agent.cli import output
from contracts import codec
from contracts.config import AgentConfig
from contracts.errors import InputError
from contracts.renewal import EnrolmentRequest


def enroll(arguments: argparse.Namespace) -> int:
    """Enrols this device and writes its configuration, mode 0600.

    The key is made here and is sent nowhere. Without TLS only a controller on this machine is
    asked: a token in the clear enrols whoever reads it first.
    """
    config: Path = arguments.config
    if config.exists():
        raise InputError("file-exists", f"{config} exists: this device is enrolled already")
    url = _checked(arguments.url)
    key, request = new_request(None)
    body = codec.encode(EnrolmentRequest(token=_token(arguments.token_file), request=request))
    answer = codec.decode(
        post(f"{url}/v1/enroll", body, _context(arguments.ca)),
        AgentConfig,
        what="the answer to an enrolment",
        cap=MAX_ANSWER_BYTES,
    )
    tls = answer.mqtt.tls
    if tls is not None:
        mqtt = msgspec.structs.replace(answer.mqtt, tls=msgspec.structs.replace(tls, key=key))
        answer = msgspec.structs.replace(answer, mqtt=mqtt)
    _write(config, answer)
    if arguments.json:
        output.document({"device": answer.device, "fleet": answer.fleet, "config": str(config)})
    else:
        output.table([["enrolled", f"{answer.device} in fleet {answer.fleet}: {config}"]])
    return 0


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


def _context(ca: Path | None) -> ssl.SSLContext | None:
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise InputError("bad-certificate", f"{ca} holds no certificates: {error}") from None


def _write(path: Path, config: AgentConfig) -> None:
    text = yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False, allow_unicode=True)
    temporary = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError("bad-path", f"{path} cannot be written: {error.strerror}") from None
