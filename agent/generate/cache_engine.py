"""Runs a decoder's signatures with the key/value cache in host memory.

:class:`agent.generate.litert_engine.LiteRtEngine` reads and writes the runtime's own buffers in
place: nothing but the new slices of a step is copied. It holds no more signatures than it runs.
`InterpreterEngine` does the same job with the classic interpreter (ai-edge-litert's or
tflite-runtime's), which copies the cache on every call.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.generate.caches import Array, CacheEngine, Floats, stacks
from agent.runtime.signature_view import view_signatures
from contracts.adapter import Adapter
from contracts.errors import RefusedError, UnavailableError


def open_engine(
    path: Path,
    *,
    runtime: str | None,
    wanted: Sequence[str],
    threads: int,
    cache: Path | None,
    whole: Sequence[str] = (),
) -> CacheEngine:
    """Loads a decoder's model file.

    Args:
        path: the file, checked against its manifest.
        runtime: ``litert`` (the classic interpreter where its C API is not known),
            ``litert-interpreter`` (the classic interpreter),
            or ``tflite-runtime``; None: the best one that is installed and in `wanted`.
        wanted: the manifest's runtimes.
        threads: of inference.
        cache: file for packed weights.
        whole: signatures that ``litert`` prepares at once; others when they are needed.

    Raises:
        UnavailableError: ``no-runtime``.
        RefusedError: ``model-failed``.
    """
    modules = {"litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
    here = [
        name
        for name, module in modules.items()
        if importlib.util.find_spec(module) and (not wanted or name in wanted)
    ]
    choice = runtime or next(iter(here), "")
    if choice.removesuffix("-interpreter") not in here:
        raise UnavailableError(
            "no-runtime",
            f"the model needs {choice or ' or '.join(wanted) or 'a runtime'}; "
            f"it can use here: {', '.join(here) or 'none'}",
        )
    try:
        if choice == "litert":
            return _litert(path, threads, cache, whole)
        return InterpreterEngine(path, modules[choice.removesuffix("-interpreter")], threads)
    except (RuntimeError, ValueError, OSError, TypeError, KeyError) as error:
        raise RefusedError(
            "model-failed", f"{choice} cannot load {path.name}: {str(error)[:500]}"
        ) from None


def _litert(path: Path, threads: int, cache: Path | None, whole: Sequence[str]) -> CacheEngine:
    import ai_edge_litert

    from agent.generate.litert_engine import LiteRtEngine
    from agent.runtime.litert_library import Library

    if Library.supports(ai_edge_litert.__version__):
        return LiteRtEngine(path, threads=threads, cache=cache, whole=whole)
    return InterpreterEngine(path, "ai_edge_litert", threads)


class InterpreterEngine:
    """The classic TensorFlow Lite interpreter. To change adapters it loads the whole model."""

    def __init__(self, path: Path, package: str, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._module = importlib.import_module(f"{package}.interpreter")
        self._interpreter: Any = self._open(None)
        self._adapter: Adapter | None = None
        self.name = "tflite-runtime" if package == "tflite_runtime" else "litert"
        self._runners: dict[str, Any] = {}
        self._inputs: dict[str, dict[str, Floats]] = {}
        self._names: dict[str, list[str]] = {}
        self._cache: dict[str, Array] = {}

    def _open(self, adapter: Adapter | None) -> Any:
        import warnings

        model: dict[str, Any] = {"model_path": str(self._path)}
        if adapter is not None:
            model = {"model_content": bytes(view_signatures(self._path, None, adapter))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._module.Interpreter(**model, num_threads=self._threads)

    def _runner(self, signature: str) -> Any:
        if signature not in self._runners:
            self._runners[signature] = self._interpreter.get_signature_runner(signature)
        return self._runners[signature]

    def use(self, signatures: Sequence[str], later: Sequence[str], adapter: Adapter | None) -> None:
        """As :meth:`CacheEngine.use`."""
        if adapter is self._adapter:
            return
        try:
            opened = self._open(adapter)
        except (RuntimeError, ValueError, OSError) as error:
            raise RefusedError("model-failed", f"interpreter: {str(error)[:500]}") from None
        self._interpreter, self._adapter = opened, adapter
        for made in (self._runners, self._inputs, self._names):
            made.clear()

    def open_cache(
        self, signatures: Sequence[str], later: Sequence[str], adapter: Adapter | None = None
    ) -> dict[str, Array]:
        """As :meth:`CacheEngine.open_cache`."""
        self.use(signatures, later, adapter)
        rows = {
            name: row
            for signature in signatures
            for name, row in self._runner(signature).get_input_details().items()
        }
        found: dict[str, Array] = {}
        self._cache = {}
        for stack, names in stacks(rows).items():
            first = rows[names[0]]
            found[stack] = np.zeros((len(names), *_shape(first)), first["dtype"])
            self._cache |= zip(names, found[stack], strict=True)
        self._inputs.clear()
        self._names.clear()
        return found

    def inputs(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.inputs`."""
        if signature not in self._inputs:
            details = self._runner(signature).get_input_details()
            self._inputs[signature] = {
                name: np.zeros(_shape(row), np.float32)
                for name, row in details.items()
                if name not in self._cache
            }
        return self._inputs[signature]

    def _kept(self, signature: str) -> list[str]:
        """The kept inputs of a signature."""
        if signature not in self._names:
            details = self._runner(signature).get_input_details()
            self._names[signature] = [name for name in details if name in self._cache]
        return self._names[signature]

    def run(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.run`."""
        small = self.inputs(signature)
        # A new text reads no cache, and a prefill needs nothing after the last keys and values.
        cache = {name: self._cache[name] for name in self._kept(signature)}
        try:
            outputs: dict[str, Floats] = self._runner(signature)(**small, **cache)
        except (RuntimeError, ValueError) as error:
            raise RefusedError("model-failed", f"interpreter: {str(error)[:500]}") from None
        for stack, names in stacks(outputs).items():
            outputs[stack] = np.stack([outputs.pop(name) for name in names])
        return outputs

    def close(self) -> None:
        """Frees the model."""
        self._runners.clear()
        self._inputs.clear()
        self._cache.clear()
        self._interpreter = None


def _shape(row: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in row["shape"])
