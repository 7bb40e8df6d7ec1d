"""Releases of the agent of this checkout, under other versions, and one that does not start."""

from __future__ import annotations

import base64
import hashlib
import site
import sys
import zipfile
from pathlib import Path

from contracts import release
from contracts.release import DISTRIBUTION, ReleaseArchive

ROOT = Path(__file__).parents[2]
CRASH = "import os\nif 'SHOAL_STARTER' in os.environ:\n    raise ImportError('as the test says')\n"
"""In front of the program: it passes its self-test, and crashes when the starter starts it."""


def wheel(folder: Path, version: str, before: str = "", needs: str = "") -> Path:
    """The agent's wheel. What it needs comes from this environment, by a path file.

    Args:
        folder: where it is written.
        version: that it has.
        before: put in front of the program.
        needs: a distribution that it says it needs.
    """
    content = {}
    for package in ("agent", "contracts", "firmware_configs"):
        for file in sorted((ROOT / package).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and "micro" not in file.parts:
                content[file.relative_to(ROOT).as_posix()] = file.read_bytes()
    start = content["contracts/__init__.py"].decode().partition("__version__ =")[0]
    content["contracts/__init__.py"] = f'{start}__version__ = "{version}"\n'.encode()
    program = content["agent/__main__.py"].decode()
    future = "from __future__ import annotations\n"
    content["agent/__main__.py"] = program.replace(future, future + before, 1).encode()
    content["what-it-needs.pth"] = "".join(f"{path}\n" for path in _needs()).encode()
    info = f"{DISTRIBUTION}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n"
    head += f"Requires-Dist: {needs}\n" if needs else ""
    content[f"{info}/METADATA"] = head.encode()
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/WHEEL"] = tags.encode()
    record = "".join(f"{path},{_digest(data)},{len(data)}\n" for path, data in content.items())
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    made = folder / f"{DISTRIBUTION}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return made


def archive(folder: Path, version: str, before: str = "", needs: str = "") -> ReleaseArchive:
    """A release archive for this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    platform, python = release.here()
    path = folder / f"{version}.zip"
    wheels = [wheel(folder, version, before, needs)]
    release.write(path, version=version, platform=platform, python=python, wheels=wheels)
    return ReleaseArchive.open(path)


def _needs() -> list[str]:
    """Where this environment has its packages, but not this checkout."""
    found = [*site.getsitepackages(), *(path for path in sys.path if "site-packages" in path)]
    return list(dict.fromkeys(found))


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
