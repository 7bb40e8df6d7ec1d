"""A bundle of any task, loaded: what serving, self-test and commands share."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from contracts.answers import Selftested
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import BundleRef


class Options(msgspec.Struct, frozen=True):
    """How to load a model.

    Attributes:
        runtime: which runtime; None: the best that is installed and in the manifest.
        threads: of inference.
        cache: file for the runtime's packed weights; None: no cache.
        lean: without a cache, a generator prepares no signature before it is needed. That takes
            less memory, and its context grows slower.
        accelerator: of a classifier: ``gpu``, ``npu``, or the path of a delegate's library;
            empty: the processor.
    """

    runtime: str | None = None
    threads: int = 1
    cache: Path | None = None
    lean: bool = False
    accelerator: str = ""


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

    def probe(self) -> None:
        """Encodes texts that may take long, where the process may be ended for it."""

    def selftest(self, bundle: Bundle, checkpoint: Callable[[], None] = lambda: None) -> Selftested:
        """Replays the golden vectors of `bundle`, which is the one that was loaded.

        `checkpoint` is called before each; it may raise to stop.
        """

    def close(self) -> None:
        """Frees the model."""


Load = Callable[[Bundle, Options], Any]
"""Loads a bundle; the result is a :class:`Model`."""

Adapt = Callable[[Any, Bundle], Any]
"""Loads an adapter's bundle with the loaded model of its base; the result is a :class:`Model`."""

LOADERS: Final = {
    "classify": ("agent.runtime.classifier", "load"),
    "generate": ("agent.generate.adapted", "load"),
}
"""Task -> module and function ``load(bundle, options) -> Model``, imported at first use."""


DTYPES: Final = (
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
"""Of tensors at a model's border, as in a manifest."""

MAX_RANK: Final = 8
MAX_DIMENSION: Final = 2**31 - 1
"""Of a tensor in LiteRT."""


@contextmanager
def refusing(doing: str) -> Iterator[None]:
    """What a bundle's content makes libraries raise becomes a refusal of the bundle.

    Args:
        doing: what was being done, for the message.

    Raises:
        RefusedError: ``model-failed``; caused by whatever it was.
        UnavailableError: ``no-runtime``; something is not installed, or not whole.
        OSError: as it came; and ``ENOMEM`` for what has no memory.
    """
    try:
        yield
    except (ShoalError, OSError, KeyboardInterrupt, SystemExit):
        raise
    except MemoryError as error:
        raise OSError(errno.ENOMEM, f"no memory for {doing}") from error
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        how = f"{error.name}, not installed here" if missing else f"what cannot be loaded: {error}"
        raise UnavailableError("no-runtime", f"{doing} needs {how}") from error
    except BaseException as error:  # Rust's panics too
        raise RefusedError(
            "model-failed", f"{doing} failed: {type(error).__name__}: {str(error)[:500]}"
        ) from error


def load(bundle: Bundle, options: Options | None = None) -> Any:
    """Loads a bundle with the loader of its task; the result is a :class:`Model`.

    Raises:
        UnavailableError: ``no-runtime``.
        InputError, RefusedError: the bundle is damaged, or the runtime refuses it.
        OSError: the disk refuses, or there is no memory.
    """
    check_signatures(bundle.manifest)
    module, function = LOADERS[bundle.manifest.task]
    with refusing(f"loading a {bundle.manifest.task} bundle"):
        loader = getattr(importlib.import_module(module), function)
        return loader(bundle, options or Options())


def adapt(base: Any, bundle: Bundle) -> Any:
    """Loads an adapter with its base.

    Raises:
        InputError, RefusedError: it is damaged, or the base's no more than this one's.
    """
    with refusing("loading an adapter"):
        return importlib.import_module("agent.generate.adapted").AdaptedModel(base, bundle)


def check_signatures(manifest: Manifest) -> None:
    """Looks at what the manifest says of tensors, which is used before the runtime checks it.

    Raises:
        InputError: ``bad-manifest``; a dtype or a shape that no tensor has.
    """
    for spec in manifest.model.signatures:
        for tensor in (*spec.inputs, *spec.outputs):
            where = f"tensor {tensor.name[:64]!r} of signature {spec.name[:64]!r}"
            if tensor.dtype not in DTYPES:
                raise InputError(
                    "bad-manifest",
                    f"{where} has the dtype {tensor.dtype[:64]!r}; expected one of "
                    f"{', '.join(DTYPES)}",
                )
            shape = tensor.shape
            if len(shape) > MAX_RANK or not all(1 <= n <= MAX_DIMENSION for n in shape):
                raise InputError(
                    "bad-manifest",
                    f"{where} has the shape {str(shape)[:200]}; expected at most {MAX_RANK} "
                    f"dimensions of 1 to {MAX_DIMENSION}",
                )


def selftest(
    bundle: Bundle, options: Options | None = None, with_loader: Load | None = None
) -> Selftested:
    """Checks every file, loads, warms up, replays the golden vectors and judges the result.

    All that an agent does before the first request: what passes here loads there.

    Args:
        bundle: which.
        options: how it is loaded.
        with_loader: loads it; None: :func:`load`.

    Raises:
        RefusedError: ``golden-mismatch``, ``model-failed``.
        InputError: ``bundle-corrupt``, ``bad-manifest`` and the like.
        UnavailableError, OSError: as of :func:`load`.
    """
    from agent.runtime import golden

    bundle.verify()
    model = (with_loader or load)(bundle, options or Options())
    try:
        with refusing("the self-test"):
            model.warm_up()
            model.probe()
            result: Selftested = model.selftest(bundle)
    finally:
        model.close()
    golden.judge(result, bundle.manifest)
    return result


def expect_model_task(model: Model, task: str) -> None:
    """Raises ``InputError`` ``wrong-task`` unless a loaded model is of `task`."""
    if model.manifest.task != task:
        raise InputError("wrong-task", f"{model.ref} is a {model.manifest.task} bundle, not {task}")
