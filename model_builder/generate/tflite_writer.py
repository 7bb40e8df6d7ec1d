"""Writes TensorFlow Lite models operator by operator.

The decoder's graph is laid out by hand (see :mod:`model_builder.generate.decoder_graph`), so
that every operator is one that the runtime's fast path has, weights have the scales that we
chose, and all signatures share one copy of each weight. Schema: TensorFlow Lite, version 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

_IDENTIFIER = b"TFL3"
_MOST_COMPARED = 1 << 24
"""Bytes of a constant that may be there already; a mask of many tokens is in every layer."""

_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


@dataclass(frozen=True)
class Node:
    """A tensor of a graph: its index there and its shape."""

    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A constant that several graphs share.

    Attributes:
        buffer: index of its bytes in the model.
        shape, dtype: of the values.
        scales: one for each row of a quantised matrix, or one for all; None for float values.
        bits: 4: two values lie in a byte, the first in its lower half.
    """

    buffer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scales: npt.NDArray[np.float32] | None = None
    bits: int = 8


class _Scales(schema.QuantizationParametersT):  # type: ignore[misc]
    """Scales of a matrix's rows, written once however many graphs have the matrix.

    Args:
        scales: one a row.
        zeros: by their number, where vectors of zero points lie that were written.
    """

    def __init__(self, scales: npt.NDArray[np.float32], zeros: dict[int, Any]) -> None:
        super().__init__()
        self.scale = scales.astype(np.float32)
        self._zeros = zeros
        self._written: Any = None

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - flatbuffers calls it
        if self._written is None:
            count = len(self.scale)
            scales = builder.CreateNumpyVector(self.scale)
            if count not in self._zeros:
                self._zeros[count] = builder.CreateNumpyVector(np.zeros(count, np.int64))
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scales)
            schema.QuantizationParametersAddZeroPoint(builder, self._zeros[count])
            self._written = schema.QuantizationParametersEnd(builder)
        return self._written


class ModelWriter:
    """A model under construction: buffers that graphs share, and a graph for each signature."""

    def __init__(self, description: str) -> None:
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = description
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._model.subgraphs = []
        self._model.signatureDefs = []
        self._codes: dict[int, int] = {}
        self._known: dict[bytes, Weight] = {}
        self._scales: dict[int, _Scales] = {}
        self._zeros: dict[int, Any] = {}
        self._bytes = 0

    def weight(
        self,
        values: npt.NDArray[Any],
        scales: npt.NDArray[np.float32] | None = None,
        bits: int = 8,
    ) -> Weight:
        """Adds a constant; equal ones that are no matrices are kept once.

        Args:
            values: float32, int32 or int8.
            scales: for int8 ``[rows, columns]``: one for each row, or one.
            bits: 4 packs int8 values from -8 to 7 in pairs; `columns` must be even.
        """
        values = np.ascontiguousarray(values)
        shape, dtype = values.shape, values.dtype
        if bits == 4:
            low, high = values[:, 0::2].astype(np.uint8), values[:, 1::2].astype(np.uint8)
            values = (low & 15) | (high << 4)
        key = b""
        if values.nbytes <= _MOST_COMPARED and scales is None:
            key = str((values.dtype, values.shape)).encode() + values.tobytes()
            if key in self._known:
                return self._known[key]
        buffer = schema.BufferT()
        buffer.data = values.reshape(-1).view(np.uint8)
        self._model.buffers.append(buffer)
        self._bytes += values.nbytes
        made = Weight(len(self._model.buffers) - 1, shape, dtype, scales, bits)
        if key:
            self._known[key] = made
        return made

    def scales(self, weight: Weight) -> Any:
        """The scales of a quantised weight, the same object each time."""
        assert weight.scales is not None
        return self._scales.setdefault(weight.buffer, _Scales(weight.scales, self._zeros))

    def code(self, builtin: int) -> int:
        """The index of an operator's code."""
        if builtin not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = builtin
            code.deprecatedBuiltinCode = min(builtin, 127)
            # FULLY_CONNECTED with float inputs and per-channel int8 weights came with version 9.
            code.version = 9 if builtin == schema.BuiltinOperator.FULLY_CONNECTED else 1
            self._model.operatorCodes.append(code)
            self._codes[builtin] = len(self._model.operatorCodes) - 1
        return self._codes[builtin]

    @property
    def operators(self) -> list[str]:
        """Names of the operators in use, sorted."""
        names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        return sorted(names[code] for code in self._codes)

    def add(self, graph: Graph, signature: str, outputs: dict[str, Node]) -> None:
        """Adds a finished graph as a signature."""
        graph.subgraph.name = signature
        graph.subgraph.inputs = [node.index for node in graph.inputs.values()]
        graph.subgraph.outputs = [node.index for node in outputs.values()]
        for name, node in outputs.items():
            graph.subgraph.tensors[node.index].name = name
        self._model.subgraphs.append(graph.subgraph)
        entry = schema.SignatureDefT()
        entry.signatureKey = signature
        entry.subgraphIndex = len(self._model.subgraphs) - 1
        entry.inputs = [_tensor_map(name, node) for name, node in graph.inputs.items()]
        entry.outputs = [_tensor_map(name, node) for name, node in outputs.items()]
        self._model.signatureDefs.append(entry)

    def serialize(self) -> bytes:
        """The model's bytes. Once: what graphs share is written by the first that has it."""
        builder = flatbuffers.Builder(self._bytes + (4 << 20))
        builder.Finish(self._model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())


def _tensor_map(name: str, node: Node) -> Any:
    entry = schema.TensorMapT()
    entry.name = name
    entry.tensorIndex = node.index
    return entry


class Graph:
    """One subgraph: methods add an operator and return its output."""

    def __init__(self, writer: ModelWriter) -> None:
        self._writer = writer
        self.subgraph = schema.SubGraphT()
        self.subgraph.tensors = []
        self.subgraph.operators = []
        self.inputs: dict[str, Node] = {}
        self._constants: dict[int, Node] = {}

    def _tensor(self, name: str | None, shape: Sequence[int], kind: int, buffer: int = 0) -> Node:
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = [int(n) for n in shape]
        tensor.type = kind
        tensor.buffer = buffer
        self.subgraph.tensors.append(tensor)
        return Node(len(self.subgraph.tensors) - 1, tuple(int(n) for n in shape))

    def input(self, name: str, shape: Sequence[int]) -> Node:
        """A float32 input of the signature."""
        node = self._tensor(name, shape, schema.TensorType.FLOAT32)
        self.inputs[name] = node
        return node

    def input_int8(self, name: str, shape: Sequence[int]) -> Node:
        """An int8 input, each step of which counts 1."""
        node = self._tensor(name, shape, schema.TensorType.INT8)
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.ones(1, np.float32)
        quantization.zeroPoint = np.zeros(1, np.int64)
        self.subgraph.tensors[node.index].quantization = quantization
        self.inputs[name] = node
        return node

    def constant(self, weight: Weight, name: str | None = None) -> Node:
        """A constant of the model in this graph."""
        if weight.buffer in self._constants:
            return self._constants[weight.buffer]
        kind = schema.TensorType.INT4 if weight.bits == 4 else _TYPES[weight.dtype]
        node = self._tensor(name, weight.shape, kind, weight.buffer)
        if weight.scales is not None:
            self.subgraph.tensors[node.index].quantization = self._writer.scales(weight)
        self._constants[weight.buffer] = node
        return node

    def _op(
        self,
        name: str,
        inputs: Sequence[Node],
        shapes: Sequence[Sequence[int]],
        options: Any = None,
    ) -> list[Node]:
        builtin = getattr(schema.BuiltinOperator, name)
        outputs = [self._tensor(None, s, schema.TensorType.FLOAT32) for s in shapes]
        operator = schema.OperatorT()
        operator.opcodeIndex = self._writer.code(builtin)
        operator.inputs = [node.index for node in inputs]
        operator.outputs = [node.index for node in outputs]
        if options is not None:
            operator.builtinOptions = options
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        self.subgraph.operators.append(operator)
        return outputs

    def _ints(self, values: Sequence[int]) -> Node:
        return self.constant(self._writer.weight(np.asarray(values, np.int32)))

    def scalar(self, value: float) -> Node:
        """A float32 constant of shape [1]."""
        return self.constant(self._writer.weight(np.asarray([value], np.float32)))

    def linear(
        self, x: Node, weight: Weight, bias: Weight | None = None, name: str | None = None
    ) -> Node:
        """FULLY_CONNECTED: x ``[..., K]``, weight ``[N, K]`` -> ``[..., N]``.

        `name`: of the weight in this graph.
        """
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        options.asymmetricQuantizeInputs = weight.scales is not None
        inputs = [x, self.constant(weight, name)]
        if bias is not None:
            inputs.append(self.constant(bias))
        return self._op("FULLY_CONNECTED", inputs, [(*x.shape[:-1], weight.shape[0])], options)[0]

    def binary(self, name: str, a: Node, b: Node) -> Node:
        """ADD, DIV, MAXIMUM, MUL or SUB with broadcasting."""
        options = {
            "ADD": schema.AddOptionsT,
            "DIV": schema.DivOptionsT,
            "MAXIMUM": schema.MaximumMinimumOptionsT,
            "MUL": schema.MulOptionsT,
            "SUB": schema.SubOptionsT,
        }[name]()
        return self._op(name, [a, b], [np.broadcast_shapes(a.shape, b.shape)], options)[0]

    def unary(self, name: str, x: Node) -> Node:
        """An elementwise operator without options (ABS, ROUND, RSQRT, LOGISTIC, DEQUANTIZE)."""
        return self._op(name, [x], [x.shape])[0]

    def gelu(self, x: Node) -> Node:
        """GELU by its tanh formula."""
        options = schema.GeluOptionsT()
        options.approximate = True
        return self._op("GELU", [x], [x.shape], options)[0]

    def _over_last(self, name: str, x: Node) -> Node:
        options = schema.ReducerOptionsT()
        options.keepDims = True
        axis = self._ints([len(x.shape) - 1])
        return self._op(name, [x, axis], [(*x.shape[:-1], 1)], options)[0]

    def mean_last(self, x: Node) -> Node:
        """Mean over the last axis, which stays with size 1."""
        return self._over_last("MEAN", x)

    def sum_last(self, x: Node) -> Node:
        """Sum over the last axis, which stays with size 1."""
        return self._over_last("SUM", x)

    def max_last(self, x: Node) -> Node:
        """Largest of the last axis, which stays with size 1."""
        return self._over_last("REDUCE_MAX", x)

    def tiled(self, x: Node, times: int) -> Node:
        """``[B, T, N]`` -> ``[B, times * T, N]``: the second axis again and again."""
        if times == 1:
            return x
        options = schema.ConcatenationOptionsT()
        options.axis = 1
        shape = (x.shape[0], times * x.shape[1], x.shape[2])
        return self._op("CONCATENATION", [x] * times, [shape], options)[0]

    def softmax(self, x: Node) -> Node:
        """Over the last axis."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self._op("SOFTMAX", [x], [x.shape], options)[0]

    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        """The same values in another shape."""
        options = schema.ReshapeOptionsT()
        options.newShape = [int(n) for n in shape]
        return self._op("RESHAPE", [x, self._ints(shape)], [shape], options)[0]

    def transpose(self, x: Node, axes: Sequence[int]) -> Node:
        """Axes in another order."""
        shape = [x.shape[a] for a in axes]
        return self._op("TRANSPOSE", [x, self._ints(axes)], [shape], schema.TransposeOptionsT())[0]

    def concat_last(self, parts: Sequence[Node]) -> Node:
        """Along the last axis."""
        options = schema.ConcatenationOptionsT()
        options.axis = len(parts[0].shape) - 1
        shape = (*parts[0].shape[:-1], sum(p.shape[-1] for p in parts))
        return self._op("CONCATENATION", parts, [shape], options)[0]

    def halves(self, x: Node) -> tuple[Node, Node]:
        """The two halves of the last axis: one operator where two slices would be two."""
        shape = (*x.shape[:-1], x.shape[-1] // 2)
        options = schema.SplitOptionsT()
        options.numSplits = 2
        axis = self.constant(self._writer.weight(np.array(len(x.shape) - 1, np.int32)))
        first, second = self._op("SPLIT", [axis, x], [shape, shape], options)
        return first, second

    def slice_axis(self, x: Node, axis: int, start: int, size: int) -> Node:
        """``x[..., start:start + size, ...]`` on one axis."""
        begin = [0] * len(x.shape)
        begin[axis] = start
        shape = list(x.shape)
        shape[axis] = size
        inputs = [x, self._ints(begin), self._ints(shape)]
        return self._op("SLICE", inputs, [shape], schema.SliceOptionsT())[0]

    def matmul(self, a: Node, b: Node, *, transposed: bool = False) -> Node:
        """BATCH_MATMUL: a ``[B, M, K]``, b ``[B, K, N]``, or ``[B, N, K]`` when `transposed`."""
        options = schema.BatchMatMulOptionsT()
        options.adjX = False
        options.adjY = transposed
        columns = b.shape[-2] if transposed else b.shape[-1]
        return self._op("BATCH_MATMUL", [a, b], [(*a.shape[:-1], columns)], options)[0]
