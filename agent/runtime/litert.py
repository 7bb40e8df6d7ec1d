"""LiteRT (ai-edge-litert) through its C API: on the CPU, or on what else it offers.

The Python binding of the same wheel runs the same model, and takes 12 MB more: of a second copy
of the runtime, a GPU library and ``ml_dtypes``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agent.runtime.litert_library import Library, Model, Signature
from agent.runtime.litert_library import Tensor as Buffer
from agent.runtime.tensors import Tensor
from contracts.errors import RefusedError


class _Bound:
    """A signature and its buffers, made once and used again."""

    def __init__(self, signature: Signature) -> None:
        library = signature.model.library
        self.inputs: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        try:
            for kinds, made in (
                (signature.inputs, self.inputs),
                (signature.outputs, self.outputs),
            ):
                for key, kind in kinds.items():
                    made[key] = Buffer(library, kind)
            self.run = signature.bound(self.inputs, self.outputs)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for buffer in (*self.inputs.values(), *self.outputs.values()):
            buffer.close()


class LiteRt:
    """A model in LiteRT. Signatures get their buffers at their first run.

    Args:
        path: of the model file.
        threads: of inference.
        cache: file for XNNPACK's packed weights.
        accelerator: ``gpu`` or ``npu``; empty: the processor alone.

    Raises:
        RuntimeError: LiteRT refuses the model.
        ValueError: it is no model file.
        OSError: the library or the file cannot be read.
        UnavailableError: ``accelerator-absent``.
    """

    name = "litert"

    def __init__(
        self, path: Path, *, threads: int, cache: Path | None, accelerator: str = ""
    ) -> None:
        self._library = Library(threads, cache, accelerator)
        try:
            self._model = Model(self._library, path)
        except BaseException:
            self._library.close()
            raise
        self.signatures: list[str] = list(self._model.signatures)
        self._bound: dict[str, _Bound] = {}
        # The library lets other threads go on; one that came here would get another's answer.
        self._running = threading.Lock()

    def run(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :meth:`agent.runtime.tensors.Runtime.run`; from any thread."""
        with self._running:
            return self._run(signature, inputs)

    def _run(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            bound = self._bound.get(signature)
            if bound is None:
                bound = self._bound[signature] = _Bound(self._model.signatures[signature])
            for key, buffer in bound.inputs.items():
                value, room = inputs[key], buffer.values
                if value.shape != room.shape or value.dtype != room.dtype:
                    raise RefusedError(
                        "model-failed",
                        f"input {key} must be {room.dtype}{list(room.shape)}, "
                        f"not {value.dtype}{list(value.shape)}",
                    )
                np.copyto(room, value)
            bound.run()
            return {key: buffer.values.copy() for key, buffer in bound.outputs.items()}
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise RefusedError("model-failed", f"LiteRT: {str(error)[:500]}") from None

    def close(self) -> None:
        """Frees buffers and the model."""
        for bound in self._bound.values():
            bound.close()
        self._bound.clear()
        self._model.close()
        self._library.close()
