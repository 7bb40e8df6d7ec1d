"""Runs a decoder's signatures with the key/value cache in host memory.

:class:`agent.generate.litert_engine.LiteRtEngine` and `BindingEngine` read and write the
runtime's own buffers in place: nothing but the new slices of a step is copied. The former holds
no more signatures than it runs. `InterpreterEngine` does the same job with the classic interpreter
(ai-edge-litert's or tflite-runtime's), which copies the cache on every call.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.generate.caches import Array, CacheEngine, Floats, is_kept
from agent.runtime import processor
from contracts.errors import RefusedError, UnavailableError

_READ_WRITE = 2
"""kLiteRtTensorBufferLockModeReadWrite of LiteRT's C API."""


def open_engine(
    path: Path,
    *,
    runtime: str | None,
    wanted: Sequence[str],
    threads: int,
    cache: Path | None,
    lean: bool = False,
) -> CacheEngine:
    """Loads a decoder's model file.

    Args:
        path: the file, checked against its manifest.
        runtime: ``litert`` (the classic interpreter where its C API is not known and the
            processor too old for its binding), ``litert-interpreter`` (the classic interpreter),
            or ``tflite-runtime``; None: the best one that is installed and in `wanted`.
        wanted: the manifest's runtimes.
        threads: of inference.
        cache: file for packed weights.
        lean: without one, no signature is prepared before it is needed.

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
            return _litert(path, threads, cache, lean)
        return InterpreterEngine(path, modules[choice.removesuffix("-interpreter")], threads)
    except (RuntimeError, ValueError, OSError, TypeError, KeyError) as error:
        raise RefusedError(
            "model-failed", f"{choice} cannot load {path.name}: {str(error)[:500]}"
        ) from None


def _litert(path: Path, threads: int, cache: Path | None, lean: bool) -> CacheEngine:
    import ai_edge_litert

    from agent.generate.litert_engine import LiteRtEngine
    from agent.runtime.litert_library import Library

    if Library.supports(ai_edge_litert.__version__):
        return LiteRtEngine(path, threads=threads, cache=cache, lean=lean)
    if processor.runs_binding():
        return BindingEngine(path, threads=threads, cache=cache)
    return InterpreterEngine(path, "ai_edge_litert", threads)


class _HostView:
    """NumPy views of LiteRT's host buffers, through its C API.

    The Python binding only copies in and out, which for a cache of tens of megabytes would
    cost more than the step itself.
    """

    def __init__(self, package: Path) -> None:
        self._library = ctypes.CDLL(str(package / "libLiteRt.so"))
        self._pointer = ctypes.pythonapi.PyCapsule_GetPointer
        self._pointer.restype = ctypes.c_void_p
        self._pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        self._capsule_name = ctypes.pythonapi.PyCapsule_GetName
        self._capsule_name.restype = ctypes.c_char_p
        self._capsule_name.argtypes = [ctypes.py_object]

    def of(self, buffer: Any, row: Any) -> Array:
        """The buffer's memory; it stays where it is until the buffer is destroyed."""
        handle = self._pointer(buffer.capsule, self._capsule_name(buffer.capsule))
        address = ctypes.c_void_p()
        status = self._library.LiteRtLockTensorBuffer(
            ctypes.c_void_p(handle), ctypes.byref(address), ctypes.c_int(_READ_WRITE)
        )
        if status != 0 or not address.value:
            raise RuntimeError(f"LiteRtLockTensorBuffer answered {status}")
        self._library.LiteRtUnlockTensorBuffer(ctypes.c_void_p(handle))
        shape, dtype = _shape(row), np.dtype(row["dtype"])
        size = int(np.prod(shape)) * dtype.itemsize
        values = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
        found: Array = np.ctypeslib.as_array(values, (size,)).view(dtype).reshape(shape)
        return found


class _Bound:
    """The buffers of one signature."""

    def __init__(self) -> None:
        self.owned: list[Any] = []
        self.input_buffers: dict[str, Any] = {}
        self.output_buffers: dict[str, Any] = {}
        self.inputs: dict[str, Floats] = {}
        self.outputs: dict[str, Floats] = {}


class BindingEngine:
    """``CompiledModel`` of ai-edge-litert's Python binding, for releases of another C API."""

    name = "litert"

    def __init__(self, path: Path, *, threads: int, cache: Path | None) -> None:
        import ai_edge_litert
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.options import CpuOptions, Options

        from agent.children.quiet import quiet

        cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(cache) if cache else "")
        with quiet():
            self._model: Any = CompiledModel.from_file(str(path), options=Options(cpu_options=cpu))
        self._view = _HostView(Path(ai_edge_litert.__path__[0]))
        self._bound: dict[str, _Bound] = {}
        self._cache: dict[str, tuple[Any, Array]] = {}

    def open_cache(self, signatures: Sequence[str]) -> dict[str, Array]:
        """As :meth:`CacheEngine.open_cache`."""
        self._release()
        for signature in signatures:
            for name, row in self._model.get_input_tensor_details(signature).items():
                if is_kept(name) and name not in self._cache:
                    buffer = self._model.create_input_buffer_by_name(signature, name)
                    view = self._view.of(buffer, row)
                    # Masked positions count 0 times their value, which must not be nan.
                    view[...] = 0
                    self._cache[name] = (buffer, view)
        return {name: view for name, (_, view) in self._cache.items()}

    def _bind(self, signature: str) -> _Bound:
        bound = self._bound.get(signature)
        if bound is not None:
            return bound
        bound = _Bound()
        for name, row in self._model.get_input_tensor_details(signature).items():
            if name in self._cache:
                bound.input_buffers[name] = self._cache[name][0]
                continue
            buffer = self._model.create_input_buffer_by_name(signature, name)
            bound.owned.append(buffer)
            bound.input_buffers[name] = buffer
            bound.inputs[name] = self._view.of(buffer, row)
            bound.inputs[name][...] = 0
        for name, row in self._model.get_output_tensor_details(signature).items():
            buffer = self._model.create_output_buffer_by_name(signature, name)
            bound.owned.append(buffer)
            bound.output_buffers[name] = buffer
            bound.outputs[name] = self._view.of(buffer, row)
        self._bound[signature] = bound
        return bound

    def inputs(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.inputs`."""
        return self._bind(signature).inputs

    def run(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.run`."""
        bound = self._bind(signature)
        try:
            self._model.run_by_name(signature, bound.input_buffers, bound.output_buffers)
        except (RuntimeError, ValueError) as error:
            raise RefusedError("model-failed", f"LiteRT: {str(error)[:500]}") from None
        return bound.outputs

    def _release(self) -> None:
        for bound in self._bound.values():
            bound.inputs.clear()
            bound.outputs.clear()
            for buffer in bound.owned:
                buffer.destroy()
        self._bound.clear()
        for buffer, _ in self._cache.values():
            buffer.destroy()
        self._cache.clear()

    def close(self) -> None:
        """Frees buffers and the model; arrays that it gave out must no longer be used."""
        from agent.children.quiet import quiet

        self._release()
        with quiet():
            self._model.close()


class InterpreterEngine:
    """The classic TensorFlow Lite interpreter."""

    def __init__(self, path: Path, package: str, threads: int) -> None:
        import warnings

        module = importlib.import_module(f"{package}.interpreter")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._interpreter: Any = module.Interpreter(str(path), num_threads=threads)
        self.name = "tflite-runtime" if package == "tflite_runtime" else "litert"
        self._runners: dict[str, Any] = {}
        self._inputs: dict[str, dict[str, Floats]] = {}
        self._names: dict[str, list[str]] = {}
        self._cache: dict[str, Array] = {}

    def _runner(self, signature: str) -> Any:
        if signature not in self._runners:
            self._runners[signature] = self._interpreter.get_signature_runner(signature)
        return self._runners[signature]

    def open_cache(self, signatures: Sequence[str]) -> dict[str, Array]:
        """As :meth:`CacheEngine.open_cache`."""
        self._cache = {
            name: np.zeros(_shape(row), row["dtype"])
            for signature in signatures
            for name, row in self._runner(signature).get_input_details().items()
            if is_kept(name)
        }
        self._inputs.clear()
        self._names.clear()
        return self._cache

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
        return outputs

    def close(self) -> None:
        """Frees the model."""
        self._runners.clear()
        self._inputs.clear()
        self._cache.clear()
        self._interpreter = None


def _shape(row: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in row["shape"])
