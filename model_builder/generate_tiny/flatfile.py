"""Writes the trained cell as a ``.tflite`` file: int8 throughout, scales as in training.

One step: ids int32 [1, 1] and state int8 [1, H] in, logits int8 [1, V] and state int8 [1, H]
out, with the same scale for the state on both sides. It is written by the schema, not by the
converter: the cell's scales are given, there is nothing to calibrate.
"""

from __future__ import annotations

from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from model_builder.generate_tiny.cell import GATE_STEP, LOGIT_STEP, STEP, Cell

_INT8: Final = schema.TensorType.INT8
_INT32: Final = schema.TensorType.INT32


class _Writer:
    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.buffers = [schema.BufferT()]
        self.codes: dict[int, int] = {}

    def tensor(
        self,
        name: str,
        shape: list[int],
        *,
        kind: int = _INT8,
        step: float = 0.0,
        zero: int = 0,
        data: npt.NDArray[Any] | None = None,
    ) -> int:
        """Adds a tensor; returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), shape, kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        if step:
            quantization = schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = [step], [zero]
            tensor.quantization = quantization
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(
        self, code: int, inputs: list[int], output: int, kind: int = 0, options: Any = None
    ) -> int:
        """Adds an operator; returns its output."""
        op = schema.OperatorT()
        op.opcodeIndex = self.codes.setdefault(code, len(self.codes))
        op.inputs, op.outputs = inputs, [output]
        op.builtinOptionsType, op.builtinOptions = kind, options
        self.graph.operators.append(op)
        return output

    def dense(self, source: int, name: str, weights: Any, bias: Any, **out: Any) -> int:
        """A fully connected layer on one row."""
        values = np.asarray(weights)
        step = float(np.abs(values).max()) / 127
        quantised = np.clip(np.round(values / step), -127, 127).astype(np.int8)
        inner = STEP * step
        matrix = self.tensor(f"{name}_weights", list(values.shape), step=step, data=quantised)
        whole = np.round(np.asarray(bias) / inner).astype(np.int32)
        offset = self.tensor(f"{name}_bias", [len(whole)], kind=_INT32, step=inner, data=whole)
        target = self.tensor(name, [1, values.shape[0]], **out)
        return self.operator(
            schema.BuiltinOperator.FULLY_CONNECTED,
            [source, matrix, offset],
            target,
            schema.BuiltinOptions.FullyConnectedOptions,
            schema.FullyConnectedOptionsT(),
        )

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file's bytes."""
        self.graph.inputs, self.graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [self.graph], self.buffers
        model.description = b"shoal status-line generator"
        model.operatorCodes = []
        for code in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
            model.operatorCodes.append(entry)
        model.signatureDefs = [self._signature(inputs, outputs)]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _signature(self, inputs: list[int], outputs: list[int]) -> Any:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"step", 0
        signature.inputs, signature.outputs = [], []
        for target, indices in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for index in indices:
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = self.graph.tensors[index].name, index
                target.append(entry)
        return signature


def write(cell: Cell) -> bytes:
    """The cell as a ``.tflite`` file: inputs ids and state, outputs logits and state."""
    ops, kinds = schema.BuiltinOperator, schema.BuiltinOptions
    writer = _Writer()
    table = np.clip(np.round(cell.table.numpy() / STEP), -127, 127).astype(np.int8)
    characters, width = table.shape
    state = cell.state
    ids = writer.tensor("ids", [1, 1], kind=_INT32)
    before = writer.tensor("state", [1, state], step=STEP)
    rows = writer.tensor("table", [characters, width], step=STEP, data=table)
    embedded = writer.tensor("embedded", [1, 1, width], step=STEP)
    writer.operator(ops.GATHER, [rows, ids], embedded, kinds.GatherOptions, schema.GatherOptionsT())
    shape = writer.tensor("row", [2], kind=_INT32, data=np.array([1, width], np.int32))
    flat = writer.tensor("flat", [1, width], step=STEP)
    writer.operator(ops.RESHAPE, [embedded, shape], flat)
    join = schema.ConcatenationOptionsT()
    join.axis = 1
    joined = writer.tensor("joined", [1, width + state], step=STEP)
    writer.operator(ops.CONCATENATION, [flat, before], joined, kinds.ConcatenationOptions, join)
    gate = writer.dense(
        joined, "gate", cell.update.numpy(), cell.update_bias.numpy(), step=GATE_STEP, zero=-128
    )
    candidate = writer.dense(
        joined, "candidate", cell.candidate.numpy(), cell.candidate_bias.numpy(), step=STEP
    )
    apart = writer.tensor("apart", [1, state], step=2 * STEP)
    writer.operator(ops.SUB, [candidate, before], apart, kinds.SubOptions, schema.SubOptionsT())
    move = writer.tensor("move", [1, state], step=2 * STEP)
    writer.operator(ops.MUL, [gate, apart], move, kinds.MulOptions, schema.MulOptionsT())
    after = writer.tensor("next_state", [1, state], step=STEP)
    writer.operator(ops.ADD, [before, move], after, kinds.AddOptions, schema.AddOptionsT())
    logits = writer.dense(
        after, "logits", cell.output.numpy(), cell.output_bias.numpy(), step=LOGIT_STEP
    )
    return writer.finish([ids, before], [logits, after])
