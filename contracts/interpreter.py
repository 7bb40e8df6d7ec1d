"""Starts this Python again, with nothing imported from the working directory; runs programs.

What lies in the working directory may be anybody's. ``-P`` says so from Python 3.11 on; an older
one is told by the first line that it runs.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SAFE: Final = sys.version_info >= (3, 11)
_OURS: Final = ("agent", "contracts", "fleet", "model_builder")
_FORGET: Final = "import sys; sys.path.pop(0)"
_RUN: Final = (
    f"{_FORGET}; import runpy; sys.argv.pop(0); "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def program(text: str, *arguments: str, safe: bool = _SAFE) -> list[str]:
    """The command that runs a program's text.

    Args:
        text: Python source.
        arguments: what the program finds in ``sys.argv[1:]``.
        safe: this Python knows ``-P``.
    """
    if safe:
        return [sys.executable, "-P", "-c", text, *arguments]
    return [sys.executable, "-c", f"{_FORGET}\n{text}", *arguments]


def module(name: str, *arguments: str, unbuffered: bool = False, safe: bool = _SAFE) -> list[str]:
    """The command that runs a module, as ``python -m name arguments`` does.

    Args:
        name: the module's or package's full name.
        arguments: what it finds in ``sys.argv[1:]``.
        unbuffered: its output is not kept back (``-u``).
        safe: this Python knows ``-P``.
    """
    flags = ["-u"] if unbuffered else []
    if safe:
        return [sys.executable, "-P", *flags, "-m", name, *arguments]
    return [sys.executable, *flags, "-c", _RUN, name, *arguments]


@contextmanager
def loading() -> Iterator[None]:
    """Modules that are imported in this block stay: no garbage is looked for among them.

    Python looks again and again while a program loads: a sixth of the processor time that
    ``shoal`` takes to start, and of TensorFlow.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def run(name: str, extra: str) -> None:
    """Runs ``main`` of a module whose packages an extra of this distribution brings.

    Args:
        name: the module.
        extra: the extra; named with the command that installs it when a package is missing.
    """
    try:
        with loading():
            program = importlib.import_module(name)
        program.main()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in _OURS:
            raise
        sys.exit(
            f"error: {error.name} is not installed: this command needs shoal[{extra}]; install it: "
            f"{sys.executable} -m pip install 'shoal[{extra}]'"
        )
