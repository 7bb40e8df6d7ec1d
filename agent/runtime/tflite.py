"""tflite-runtime 2.14: the classic interpreter, for 32-bit boards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tflite_runtime.interpreter import Interpreter

from agent.runtime.engine import Tensor
from contracts.errors import RefusedError


class TfliteRuntime:
    """A model in tflite-runtime.

    Args:
        path: of the model file.
        threads: of inference.
        cache: not used; the classic interpreter has none.
    """

    name = "tflite-runtime"

    def __init__(self, path: Path, *, threads: int, cache: Path | None) -> None:
        del cache
        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
        self.signatures: list[str] = list(self._interpreter.get_signature_list())
        if not self.signatures:
            raise ValueError("the model has no signature")
        self._runners: dict[str, Any] = {}

    def run(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :meth:`agent.runtime.engine.Runtime.run`."""
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
            raise RefusedError("model-failed", f"tflite-runtime: {str(error)[:500]}") from None

    def close(self) -> None:
        """Frees the interpreter."""
        self._runners.clear()
        self._interpreter = None
