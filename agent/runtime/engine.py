"""Which runtimes this device has, and a model file opened by one of them."""

from __future__ import annotations

import functools
import importlib.util
import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from agent.runtime.tensors import Runtime
from contracts.errors import RefusedError, UnavailableError

ABSENT: Final = "accelerator-absent"
"""The code of an accelerator that the installed runtime does not offer."""

_PACKAGES: Final = {"litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}


def available() -> list[str]:
    """The runtimes that are installed here, best first, as at the first call."""
    return list(_available())


@functools.cache
def _available() -> list[str]:
    return [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package)]


def installed_version(name: str) -> str:
    """The version of an installed runtime; ``unknown`` when its package does not say.

    It is read off the name of the package's metadata folder: importing ``importlib.metadata``
    would cost an idle agent two megabytes.
    """
    spec = importlib.util.find_spec(_PACKAGES[name])
    for folder in (spec.submodule_search_locations if spec else None) or ():
        package = Path(folder)
        for found in package.parent.glob(f"{package.name}-*.dist-info"):
            return found.name.removeprefix(f"{package.name}-").removesuffix(".dist-info")
    return "unknown"


def open_model(
    path: Path,
    *,
    runtime: str | None = None,
    wanted: Sequence[str] = (),
    threads: int = 1,
    cache: Path | None = None,
    accelerator: str = "",
) -> Runtime:
    """Loads a model file.

    Args:
        path: of the ``.tflite`` file, already checked against its manifest.
        runtime: which to use; None takes the best that is installed.
        wanted: the manifest's runtimes; empty: any.
        threads: of inference.
        cache: file for the runtime's packed weights, where it has such.
        accelerator: ``gpu``, ``npu``, or the path of a delegate's library; empty: the processor.

    Raises:
        UnavailableError: ``no-runtime``; none that the bundle can use is installed, or it is
            not whole. ``accelerator-absent``.
        RefusedError: ``model-failed``; the runtime refuses the file.
        OSError: the file cannot be read, or there is no memory.
    """
    here = [name for name in available() if not wanted or name in wanted]
    name = runtime or next(iter(here), "")
    if name not in here:
        raise UnavailableError(
            "no-runtime",
            f"the model needs {runtime or ' or '.join(wanted) or 'a runtime'}; "
            f"installed: {', '.join(available()) or 'none'}",
        )
    try:
        return _opener(name, accelerator)(path, threads=threads, cache=cache)
    except OSError as error:
        if error.errno is not None:
            raise
        raise UnavailableError("no-runtime", f"{name} cannot be used: {error}") from None  # ctypes
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise RefusedError(
            "model-failed", f"{name} cannot load {path.name}: {str(error)[:500]}"
        ) from None


def preload() -> None:
    """Imports the best runtime that is installed, for processes that will be forked."""
    for name in available()[:1]:
        _opener(name)


def _opener(name: str, accelerator: str = "") -> Callable[..., Runtime]:
    delegate = accelerator if accelerator.startswith("/") else ""
    if name == "litert" and not delegate:
        import ai_edge_litert

        from agent.runtime.litert import LiteRt
        from agent.runtime.litert_library import Library

        if Library.supports(ai_edge_litert.__version__):
            return partial(LiteRt, accelerator=accelerator)
    if accelerator and not delegate:
        version = installed_version(name)
        raise UnavailableError(ABSENT, f"{name} {version} offers no {accelerator} here")
    from agent.runtime.tflite import TfliteRuntime, library

    library(name)
    return partial(TfliteRuntime, name=name, delegate=delegate)


def platform_facts() -> dict[str, str]:
    """Of the machine and what runs here, for the reported document."""
    found = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    for name in available():
        found[{"litert": "ai-edge-litert"}.get(name, name)] = installed_version(name)
    return found
