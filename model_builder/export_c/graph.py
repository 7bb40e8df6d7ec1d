"""The graph of an int8 ``.tflite`` file, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from contracts.errors import InputError

INT8: Final = "int8"
INT32: Final = "int32"
_TYPES: Final = {schema.TensorType.INT8: INT8, schema.TensorType.INT32: INT32}
_DTYPES: Final = {INT8: np.int8, INT32: np.int32}
_NAMES: Final = {
    code: name
    for name, code in vars(schema.BuiltinOperator).items()
    if isinstance(code, int) and not name.startswith("_")
}


@dataclass(frozen=True)
class Tensor:
    """A tensor.

    Attributes:
        shape, dtype: ``int8`` or ``int32``.
        data: the values of a constant, in `shape`; None when it is computed.
        scales: float32, one for the tensor or one for each of its first dimension.
        zero_point: of the tensor.
    """

    shape: tuple[int, ...]
    dtype: str
    data: npt.NDArray[Any] | None
    scales: npt.NDArray[np.float32]
    zero_point: int

    @property
    def count(self) -> int:
        """Elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * (4 if self.dtype == INT32 else 1)


@dataclass(frozen=True)
class Operator:
    """An operator with the indices of its tensors (-1: absent) and its options."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """The first graph of a model file."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _tensor(raw: Any, buffers: list[Any]) -> Tensor:
    if raw.type not in _TYPES:
        raise InputError("not-int8", f"a tensor has the type {raw.type}; expected int8 or int32")
    dtype = _TYPES[raw.type]
    shape = tuple(int(n) for n in (raw.shape if raw.shape is not None else ()))
    data = buffers[raw.buffer].data
    values = None
    if data is not None and len(data):
        values = np.frombuffer(bytes(bytearray(data)), _DTYPES[dtype]).reshape(shape)
    scales = np.zeros(0, np.float32)
    zero = 0
    if raw.quantization is not None and raw.quantization.scale is not None:
        scales = np.asarray(raw.quantization.scale, np.float32)
        zero = int(raw.quantization.zeroPoint[0])
    return Tensor(shape, dtype, values, scales, zero)


def read(model: bytes) -> Graph:
    """Reads a model file.

    Raises:
        InputError: ``bad-model`` when it is not one, ``not-int8`` when it is not full int8.
    """
    try:
        raw = schema.ModelT.InitFromPackedBuf(model, 0)
        graph = raw.subgraphs[0]
        tensors = tuple(_tensor(t, raw.buffers) for t in graph.tensors)
        operators = []
        for op in graph.operators:
            code = raw.operatorCodes[op.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            operators.append(
                Operator(
                    _NAMES[number],
                    tuple(int(i) for i in op.inputs),
                    tuple(int(i) for i in op.outputs),
                    dict(vars(op.builtinOptions)) if op.builtinOptions is not None else {},
                )
            )
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - generated readers raise anything on bad bytes
        raise InputError("bad-model", f"the file is not a readable .tflite: {error}") from None
    return Graph(
        tensors,
        tuple(operators),
        tuple(int(i) for i in graph.inputs),
        tuple(int(i) for i in graph.outputs),
    )
