"""All that the agent needs on one platform and Python, fetched ready-made by pip.

The index is the one that pip is set up with. pip chooses wheels for another machine, but judges
conditions (``platform_machine == 'armv7l'``) by the machine that it runs on: here it is told the
other one's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contracts import __version__, board, codec, pip_failure, release
from contracts.errors import InputError, UnavailableError
from contracts.release import PLATFORMS, Release
from fleet.joining import own_wheel

PYTHONS: Final = (10, 11, 12, 13, 14)
"""Minor versions of Python 3 that boards have."""

GLIBC: Final = 35
"""The C library that boards have at least (2.35, as of JetPack 6)."""

_OLDEST_GLIBC: Final = 5
_PATIENCE_S: Final = 3600.0
_STDERR: Final = 2
_RUNTIMES: Final = ("ai-edge-litert", "tflite-runtime")
_PIP: Final = """
import json, sys
from pip._vendor.packaging import markers
mine, other = markers.default_environment, json.loads(sys.argv.pop(1))
markers.default_environment = lambda: {**mine(), **other}
from pip._internal.cli.main import main
sys.exit(main())
"""


def platform_of(name: str) -> str:
    """The platform of a board profile, or a platform itself.

    Raises:
        InputError: ``unknown-board``, ``wrong-board``.
    """
    if name in PLATFORMS:
        return name
    if name not in board.names():
        known = [one for one in board.names() if board.load(one).kind == "linux"]
        raise InputError(
            "unknown-board",
            f"unknown platform {name[:80]!r}; known: {', '.join([*PLATFORMS, *known])}",
        )
    profile = board.load_for_agent(name)
    found = {machine: platform for platform, machine in PLATFORMS.items()}.get(profile.architecture)
    if found is None:
        raise InputError(
            "wrong-board",
            f"{name} runs no Python agent from wheels: its files are written by "
            f"`shoal fleet enroll NAME --board {name}`",
        )
    return found


def python_of(text: str) -> str:
    """A version of Python (``3.13``, ``cp313``) as a release names it.

    Raises:
        InputError: ``bad-python``.
    """
    found = re.fullmatch(r"(?:cp)?3\.?([0-9]{1,2})(?:\.[0-9]+)?", text)
    if found is None or int(found[1]) not in PYTHONS:
        known = ", ".join(f"3.{minor}" for minor in PYTHONS)
        raise InputError("bad-python", f"Python {text[:20]!r}: expected one of {known}")
    return f"cp3{int(found[1])}"


def gather(
    target: Path,
    platform: str,
    python: str,
    *,
    extra_indexes: Sequence[str] = (),
    quiet: bool = False,
) -> Release:
    """Fetches every wheel and writes the release archive, or leaves nothing.

    Args:
        target: the archive.
        platform: a platform of releases.
        python: for example ``cp313``.
        extra_indexes: URLs of indexes that are asked beside pip's own.
        quiet: no progress on standard error.

    Raises:
        InputError: ``no-wheel``; something has no ready-made wheel there.
        UnavailableError: ``fetch-failed``; the index cannot be reached, or pip is missing.
    """
    _check_runtime(platform, python)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels.") as name:
        folder = Path(name)
        _download(folder, platform, python, extra_indexes, quiet=quiet)
        own_wheel.build(folder)
        return release.write(
            target,
            version=__version__,
            platform=platform,
            python=python,
            wheels=folder.glob("*.whl"),
        )


def _check_runtime(platform: str, python: str) -> None:
    """Raises ``no-wheel`` where nothing that runs models would be among the wheels."""
    there = _environment(platform, python)
    runtimes = [
        one
        for line in own_wheel.requirements()
        if canonicalize_name((one := Requirement(line)).name) in _RUNTIMES
    ]
    if runtimes and not any(one.marker is None or one.marker.evaluate(there) for one in runtimes):
        raise InputError(
            "no-wheel",
            f"there is no ready-made wheel of ai-edge-litert or tflite-runtime for {platform} and "
            f"Python 3.{python[3:]}: the agent would run no model. A 32-bit board needs Python "
            "3.10 or 3.11; on a 64-bit board install a 64-bit system",
        )


def _download(
    folder: Path, platform: str, python: str, extra_indexes: Sequence[str], *, quiet: bool
) -> None:
    # pip itself goes along: boards without python3-venv have none.
    wanted = folder / "requirements.txt"
    wanted.write_text("\n".join([*own_wheel.requirements(), "pip"]) + "\n")
    version = f"3.{python[3:]}"
    options = [f"--platform={one}" for one in _tags(PLATFORMS[platform])]
    options += [f"--extra-index-url={one}" for one in extra_indexes]
    command = [
        sys.executable, "-c", _PIP, codec.encode(_environment(platform, python)).decode(),
        "download", "--disable-pip-version-check", "--no-input", "--only-binary=:all:",
        f"--python-version={version}", "--implementation=cp", *options,
        "--dest", str(folder), "--requirement", str(wanted),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.DEVNULL if quiet else _STDERR,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError("fetch-failed", "pip took over an hour: try again") from None
    if done.returncode:
        raise _failure(done.stderr, platform, version)


def _failure(text: str, platform: str, version: str) -> InputError | UnavailableError:
    if "No module named 'pip'" in text:
        return UnavailableError(
            "fetch-failed", f"pip is missing: run `{sys.executable} -m ensurepip`"
        )
    missing = re.findall(r"No matching distribution found for (\S+)", text)
    tries = [line for line in text.splitlines() if "onnection" in line]
    if missing and not tries and not pip_failure.unreachable(text):
        return InputError(
            "no-wheel",
            f"there is no ready-made wheel of {missing[-1]} for {platform} and Python {version} "
            "in the index: use another Python of the board, or an index that has it "
            "(--extra-index URL)"
            + (", as piwheels for 32-bit boards" if platform == "armv7l" else ""),
        )
    said = pip_failure.reason(text)
    return UnavailableError("fetch-failed", f"pip could not fetch the wheels: {said}")


def _tags(machine: str) -> list[str]:
    known = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, _OLDEST_GLIBC - 1, -1)]
    older = [f"manylinux2014_{machine}"]
    if machine == "x86_64":
        older += ["manylinux2010_x86_64", "manylinux1_x86_64"]
    return [*known, *older, f"linux_{machine}"]


def _environment(platform: str, python: str) -> dict[str, str]:
    version = f"3.{python[3:]}"
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": PLATFORMS[platform],
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }
