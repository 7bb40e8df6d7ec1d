"""The page of settings, from the types of ``fleet.yaml`` and ``agent.yaml``.

The site's build calls this, so that the page cannot fall behind: there is no file to go stale.
``python docs/generate_settings.py`` prints it.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, get_args

import msgspec

HEAD = """# Settings

Made from the types when the site is built. An unknown key is refused; every key has a default
unless it says *required*. Paths are relative to the file.

`shoal fleet init` writes `fleet.yaml`, and `shoal fleet enroll` writes `agent.yaml`: most people
change nothing in them. A controller and an agent read their file when they start.
"""


def render() -> str:
    """The whole page."""
    from contracts.config import AgentConfig
    from fleet.config import FleetConfig

    parts = [HEAD]
    for kind, name, what in (
        (FleetConfig, "fleet.yaml", "of a fleet, in its folder"),
        (AgentConfig, "agent.yaml", "of a device"),
    ):
        parts.append(f"\n## {name}\n\nThe settings {what}.\n")
        _section(kind, "", parts, set())
    parts.append(_ENVIRONMENT)
    return "".join(parts)


_ENVIRONMENT = """
## Environment

| variable | meaning |
|---|---|
| `SHOAL_FLEET` | the fleet's folder, in place of `--dir` |
| `SHOAL_PASSPHRASE` | of private keys that are encrypted |
| `SHOAL_CA` | PEM file of the authority that a controller's certificate is of |
| `SSL_CERT_FILE`, `SSL_CERT_DIR` | the system's authorities, as OpenSSL knows them |
"""


def _section(kind: type[msgspec.Struct], path: str, parts: list[str], seen: set[type]) -> None:
    text = inspect.getdoc(kind) or ""
    meanings = _meanings(text.partition("Attributes:")[2])
    rows, inner = [], []
    for field in msgspec.structs.fields(kind):
        name = f"{path}{field.encode_name}"
        struct = _struct(field.type)
        meaning = meanings.get(field.encode_name, "")
        if struct is not None and struct not in seen:
            inner.append((struct, f"{name}."))
            meaning = meaning or (inspect.getdoc(struct) or "").split("\n")[0]
        rows.append(f"| `{name}` | {_default(field)} | {meaning} |")
    parts.append("\n| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    for struct, below in inner:
        parts.append(f"\n### {below[:-1]}\n")
        _section(struct, below, parts, seen | {struct})


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    for candidate in (kind, *get_args(kind)):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def _meanings(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w[\w, ]*: )", "\n" + text.strip("\n")):
        match = re.match(r"\s*(\w[\w, ]*): (.*)", entry, re.DOTALL)
        if match:
            for key in match.group(1).split(","):
                meaning = " ".join(match.group(2).split()).replace("|", "\\|")
                found[key.strip()] = re.sub(r"``?|:mod:", "`", meaning).replace("``", "`")
    return found


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return "required"
    return "" if isinstance(value, msgspec.Struct) else f"`{msgspec.json.encode(value).decode()}`"


if __name__ == "__main__":
    sys.stdout.write(render())
