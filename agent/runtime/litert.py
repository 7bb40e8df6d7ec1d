"""LiteRT (ai-edge-litert): ``CompiledModel`` on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.options import CpuOptions, Options

from agent.runtime.engine import Tensor
from agent.runtime.quiet import quiet
from contracts.errors import RefusedError


class _Signature:
    """The buffers of one signature, made once and used again."""

    def __init__(self, model: CompiledModel, name: str) -> None:
        self.name = name
        listed = model.get_signature_list()[name]
        inputs = model.get_input_tensor_details(name)
        outputs = model.get_output_tensor_details(name)
        self.inputs = {
            key: (
                model.create_input_buffer_by_name(name, key),
                tuple(int(n) for n in inputs[key]["shape"]),
                np.dtype(inputs[key]["dtype"]),
            )
            for key in listed["inputs"]
        }
        self.outputs = {
            key: (
                model.create_output_buffer_by_name(name, key),
                tuple(int(n) for n in outputs[key]["shape"]),
                np.dtype(outputs[key]["dtype"]),
            )
            for key in listed["outputs"]
        }
        self.input_map = {key: row[0] for key, row in self.inputs.items()}
        self.output_map = {key: row[0] for key, row in self.outputs.items()}

    def destroy(self) -> None:
        for rows in (self.inputs, self.outputs):
            for buffer, _, _ in rows.values():
                buffer.destroy()


class LiteRt:
    """A model in LiteRT. Signatures get their buffers at their first run.

    Args:
        path: of the model file.
        threads: of inference.
        cache: file for XNNPACK's packed weights.
    """

    name = "litert"

    def __init__(self, path: Path, *, threads: int, cache: Path | None) -> None:
        cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(cache) if cache else "")
        with quiet():
            self._model: Any = CompiledModel.from_file(str(path), options=Options(cpu_options=cpu))
        self.signatures: list[str] = list(self._model.get_signature_list())
        self._ready: dict[str, _Signature] = {}

    def run(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :meth:`agent.runtime.engine.Runtime.run`."""
        try:
            ready = self._ready.get(signature)
            if ready is None:
                with quiet():
                    ready = self._ready[signature] = _Signature(self._model, signature)
            for key, (buffer, shape, dtype) in ready.inputs.items():
                value = inputs[key]
                if value.shape != shape or value.dtype != dtype:
                    raise RefusedError(
                        "model-failed",
                        f"input {key} must be {dtype}{list(shape)}, "
                        f"not {value.dtype}{list(value.shape)}",
                    )
                buffer.write(value)
            self._model.run_by_name(signature, ready.input_map, ready.output_map)
            return {
                key: np.array(buffer.read(int(np.prod(shape)), dtype)).reshape(shape)
                for key, (buffer, shape, dtype) in ready.outputs.items()
            }
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise RefusedError("model-failed", f"LiteRT: {str(error)[:500]}") from None

    def close(self) -> None:
        """Frees buffers and the model."""
        with quiet():
            for ready in self._ready.values():
                ready.destroy()
            self._ready.clear()
            self._model.close()
            self._model = None
