"""The classic interpreter of tflite-runtime 2.14, or of ai-edge-litert.

The first is for 32-bit boards, the second for releases whose C API is not known:
:mod:`agent.runtime.litert_library`.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.runtime.tensors import Tensor
from contracts.errors import RefusedError

_MODULES: Final = {
    "litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}


def library(name: str) -> Any:
    """The module of the interpreter, imported."""
    return importlib.import_module(_MODULES[name])


def _delegate(classic: Any, path: str) -> Any:
    """Loads a delegate; `load_delegate` of what is none complains once more when it is freed."""
    there = ctypes.CDLL(path)
    for name in ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"):
        if not hasattr(there, name):
            raise ValueError(f"{path} is no delegate: it lacks {name}")
    return classic.load_delegate(path)


class TfliteRuntime:
    """A model in the classic interpreter.

    Args:
        path: of the model file.
        name: whose: ``litert`` or ``tflite-runtime``, as in a manifest.
        threads: of inference.
        cache: not used; the classic interpreter has none.
        delegate: path of the library of an external delegate; empty: none.

    Raises:
        OSError: the delegate's library cannot be loaded.
        ValueError: it is none, or it makes no delegate.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        cache: Path | None,
        name: str = "tflite-runtime",
        delegate: str = "",
    ) -> None:
        del cache
        self.name = name
        classic = library(name)
        self._interpreter: Any = classic.Interpreter(
            model_path=str(path),
            num_threads=threads,
            experimental_delegates=[_delegate(classic, delegate)] if delegate else None,
        )
        self.signatures: list[str] = list(self._interpreter.get_signature_list())
        if not self.signatures:
            raise ValueError("the model has no signature")
        self._runners: dict[str, Any] = {}

    def run(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :meth:`agent.runtime.tensors.Runtime.run`."""
        try:
            runner = self._runners.get(signature)
            if runner is None:
                runner = self._runners[signature] = self._interpreter.get_signature_runner(
                    signature
                )
            for key, detail in runner.get_input_details().items():
                value = inputs[key]
                if list(value.shape) != list(detail["shape"]) or value.dtype != detail["dtype"]:
                    raise RefusedError(
                        "model-failed",
                        f"input {key} must be {np.dtype(detail['dtype'])}{list(detail['shape'])}, "
                        f"not {value.dtype}{list(value.shape)}",
                    )
            return {key: np.array(value) for key, value in runner(**inputs).items()}
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise RefusedError("model-failed", f"{self.name}: {str(error)[:500]}") from None

    def close(self) -> None:
        """Frees the interpreter."""
        self._runners.clear()
        self._interpreter = None
