"""The folder of one MicroPython device: all that is copied to its file system.

::

    main.py               starts the agent at power-up
    lib/micro/*.mpy       the agent, compiled for the board
    shoal/shoal.json      configuration
    shoal/root.json       the fleet's root of trust
    shoal/ca.der  certificate.der  key.der
"""

from __future__ import annotations

import base64
import re
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import board as boards
from contracts import codec, files
from contracts.config import AgentConfig
from contracts.connection import read_pem
from contracts.errors import InputError
from fleet import durable
from fleet.boards.compiler import compile_agent

_PEM: Final = re.compile(r"-----BEGIN [A-Z ]+-----\s*([A-Za-z0-9+/=\s]+?)-----END", re.ASCII)


def to_der(pem: str, what: str) -> bytes:
    """The first object of a PEM text as DER, which small TLS stacks read.

    Raises:
        InputError: ``bad-certificate``.
    """
    found = _PEM.search(pem)
    if found is None:
        raise InputError("bad-certificate", f"{what} is not PEM text")
    try:
        return base64.b64decode("".join(found.group(1).split()), validate=True)
    except ValueError:
        raise InputError("bad-certificate", f"{what} is not PEM text") from None


def document(config: AgentConfig, wifi: tuple[str, str] | None = None) -> dict[str, Any]:
    """``shoal.json``: the configuration with the board's facts, for a device without YAML.

    Raises:
        InputError: ``wrong-board``; the board does not run MicroPython.
    """
    board = boards.load(config.board)
    if board.kind != "micropython":
        raise InputError("wrong-board", f"{board.name} does not run MicroPython")
    mqtt: dict[str, Any] = {
        "host": config.mqtt.host,
        "port": config.mqtt.port,
        "keepalive_s": config.mqtt.keepalive_s,
        "session_expiry_s": config.mqtt.session_expiry_s,
    }
    if config.mqtt.username is not None:
        mqtt |= {"username": config.mqtt.username, "password": config.mqtt.password}
    if config.mqtt.tls is not None and config.mqtt.tls.server_name:
        mqtt["server_name"] = config.mqtt.tls.server_name
    found: dict[str, Any] = {
        "fleet": config.fleet,
        "device": config.device,
        "board": {
            "name": board.name,
            "model_ram_bytes": board.model_ram_bytes,
            "model_flash_bytes": board.model_flash_bytes,
            "quantizations": board.quantizations,
        },
        "labels": config.labels,
        "groups": config.groups,
        "telemetry_s": config.telemetry_s,
        "idle_s": config.idle_s,
        "mqtt": mqtt,
    }
    if wifi is not None:
        found["wifi"] = {"ssid": wifi[0], "password": wifi[1]}
    return found


def starter(model_bytes: int, folder: str = "/shoal") -> str:
    """``main.py``: what starts the agent, and goes back from a release that fails."""
    source = Path(str(resources.files("agent"))) / "micro" / "starter" / "main.py"
    text = source.read_text("utf-8")
    for line, value in (('FOLDER = "/shoal"', folder), ("MODEL_BYTES = 0", model_bytes)):
        name = line.split(" ", 1)[0]
        assert line in text
        text = text.replace(line, f"{name} = {codec.encode(value).decode()}", 1)
    return text


def write_folder(
    config: AgentConfig, out: Path, *, wifi: tuple[str, str] | None = None
) -> list[Path]:
    """Writes the folder of a device; it holds the device's private key.

    Args:
        config: of the device, with PEM texts.
        out: the folder; made when missing, mode 0700.
        wifi: network name and password.

    Returns:
        The files, relative to `out`.

    Raises:
        InputError: ``wrong-board``, ``bad-certificate``.
        UnavailableError: ``no-compiler``.
    """
    files = {"shoal/shoal.json": codec.pretty(document(config, wifi))}
    files["main.py"] = starter(boards.load(config.board).model_ram_bytes).encode()
    files["shoal/root.json"] = config.trust_root.encode()
    tls = config.mqtt.tls
    if tls is not None:
        files["shoal/ca.der"] = to_der(tls.ca, "the fleet's CA")
        if tls.certificate and tls.key:
            files["shoal/certificate.der"] = to_der(tls.certificate, "the certificate")
            files["shoal/key.der"] = to_der(tls.key, "the key")
    # All of it is made before the first file of an older folder is replaced.
    with tempfile.TemporaryDirectory() as scratch:
        for made in compile_agent(boards.load(config.board).architecture, Path(scratch)):
            files[f"lib/micro/{made.name}"] = made.read_bytes()
    durable.make_folder(out, 0o700)
    for name, data in files.items():
        durable.make_folder((out / name).parent, 0o700)
        durable.write(out / name, data, mode=0o600)
    return sorted(f.relative_to(out) for f in out.rglob("*") if f.is_file())


def load_config(path: Path) -> AgentConfig:
    """An ``agent.yaml``.

    Raises:
        InputError: ``no-such-file`` or what is wrong in it.
    """
    config = codec.convert_yaml(files.read_small(path), AgentConfig, what=str(path))
    tls = config.mqtt.tls
    if tls is None:
        return config

    def text(value: str | None) -> str | None:
        return None if value is None else read_pem(value, path.parent)

    inline = msgspec.structs.replace(
        tls, ca=text(tls.ca or None) or "", certificate=text(tls.certificate), key=text(tls.key)
    )
    return msgspec.structs.replace(config, mqtt=msgspec.structs.replace(config.mqtt, tls=inline))
