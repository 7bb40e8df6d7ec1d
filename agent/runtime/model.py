"""A bundle of any task, loaded: what serving, self-test and commands share."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from contracts.bundle import Bundle
from contracts.errors import InputError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import BundleRef, Selftested


class Options(msgspec.Struct, frozen=True):
    """How to load a model.

    Attributes:
        runtime: which runtime; None: the best that is installed and in the manifest.
        threads: of inference.
        cache: file for the runtime's packed weights; None: no cache.
    """

    runtime: str | None = None
    threads: int = 1
    cache: Path | None = None


class Model(Protocol):
    """A loaded model of any task. One thread at a time."""

    @property
    def ref(self) -> BundleRef:
        """The bundle's identity."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""

    @property
    def runtime(self) -> str:
        """The runtime's name."""

    def warm_up(self) -> None:
        """Runs once what a first request would pay for."""

    def selftest(self, bundle: Bundle, checkpoint: Callable[[], None] = lambda: None) -> Selftested:
        """Replays the golden vectors of `bundle`, which is the one that was loaded.

        `checkpoint` is called before each; it may raise to stop.
        """

    def close(self) -> None:
        """Frees the model."""


LOADERS: Final = {
    "classify": ("agent.runtime.classifier", "load"),
    "generate": ("agent.generate.model", "load"),
}
"""Task -> module and function ``load(bundle, options) -> Model``, imported at first use."""


def load(bundle: Bundle, options: Options | None = None) -> Any:
    """Loads a bundle with the loader of its task; the result is a :class:`Model`.

    Raises:
        UnavailableError: ``no-runtime``.
        InputError, RefusedError: the bundle is damaged, or the runtime refuses it.
    """
    module, function = LOADERS[bundle.manifest.task]
    try:
        loader = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "no-runtime", f"a {bundle.manifest.task} bundle needs {error.name}, not installed here"
        ) from None
    return loader(bundle, options or Options())


def selftest(bundle: Bundle, options: Options | None = None) -> Selftested:
    """Loads a bundle, checks every file, replays its golden vectors and judges the result.

    Raises:
        RefusedError: ``golden-mismatch``, ``model-failed``.
        InputError: ``bundle-corrupt`` and the like.
    """
    from agent.runtime import golden

    bundle.verify()
    model = load(bundle, options)
    try:
        result: Selftested = model.selftest(bundle)
    finally:
        model.close()
    golden.judge(result, bundle.manifest)
    return result


def expect_model_task(model: Model, task: str) -> None:
    """Raises ``InputError`` ``wrong-task`` unless a loaded model is of `task`."""
    if model.manifest.task != task:
        raise InputError("wrong-task", f"{model.ref} is a {model.manifest.task} bundle, not {task}")
