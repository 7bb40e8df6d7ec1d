"""``agent.yaml``: the one file that provisions a device, readable by its owner alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from contracts.config import AgentConfig
from fleet import durable


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that certificates stay readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(config: AgentConfig) -> bytes:
    """The configuration as YAML (UTF-8); fields at their default are left out."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return (
        "# Provisioning of one device: holds its private key. Keep it secret, mode 0600.\n" + text
    ).encode()


def write(config: AgentConfig, path: Path) -> None:
    """Writes ``agent.yaml``, mode 0600, durably.

    Raises:
        FileExistsError: never overwrites the keys of another device.
    """
    durable.make_folder(path.parent)
    durable.write(path, to_yaml(config), mode=0o600, overwrite=False)
