"""The agent of this installation as a wheel: what runs on a device, and nothing of the builder.

Made from the installed files, so that a controller needs neither its source nor an index.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from contracts import __version__
from contracts.errors import InputError
from contracts.release import DISTRIBUTION, NAME

PACKAGES: Final = ("agent", "contracts", "firmware_configs")
_TIME: Final = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT: Final = ("__pycache__",)


def requirements() -> list[str]:
    """What the agent needs, as the installed distribution says, without its extras.

    Raises:
        InputError: ``not-installed``; Shoal is run from files that were never installed.
    """
    try:
        stated = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        raise InputError(
            "not-installed", "Shoal is not installed here: install it, for example `pip install .`"
        ) from None
    return sorted(
        line
        for line in stated
        if (marker := Requirement(line).marker) is None or "extra" not in str(marker)
    )


def build(folder: Path) -> Path:
    """Writes the agent's wheel into a folder; the same installation gives the same bytes.

    Raises:
        InputError: ``not-installed``.
    """
    info = f"{DISTRIBUTION}-{__version__}.dist-info"
    content = dict(_modules())
    head = f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {__version__}\n"
    python = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ">=3.10"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requirements())
    content[f"{info}/METADATA"] = f"{head}Requires-Python: {python}\n{needs}".encode()
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: shoal\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    content[f"{info}/entry_points.txt"] = (
        f"[console_scripts]\n{NAME} = agent.__main__:main\n".encode()
    )
    record = "".join(f"{path},{_digest(data)},{len(data)}\n" for path, data in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"{DISTRIBUTION}-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            entry = zipfile.ZipInfo(path, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return wheel


def _modules() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        module = importlib.import_module(package)
        root = Path(next(iter(module.__path__)))
        for file in sorted(root.rglob("*")):
            inside = file.relative_to(root)
            if file.is_file() and not set(inside.parts) & set(_LEFT_OUT):
                yield f"{package}/{inside.as_posix()}", file.read_bytes()


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
