"""Scales under which every runtime rounds to the same integer, bit for bit.

An int8 kernel rescales an int32 sum S by a real M < 1, written ``m / 2**k`` with m in
[0.5, 1). TensorFlow Lite Micro, C99 and MicroPython round twice (gemmlowp, ``fixedpoint.h``):
to ``round(S * m)``, then to ``round(that / 2**k)``. XNNPACK multiplies in float32 and rounds
once, half to even. The kernels of LiteRT itself do one or the other, by operator and processor.
They differ where the first rounding lands on a tie of the second, and on ties.

Where m is ``2**j / q`` with q odd and j < k, the products S * m are multiples of m. A tie of the
second rounding is one of them, so the next product below it is m away, which is more than the
half that the first rounding can add. A hair more than that m moves the ties themselves away from
zero, for all. Such numbers lie close: 0.4 % apart where k is 8.

So after conversion, and before anything is measured:

- MEAN: its output's scale grows until M is such a number.
- FULLY_CONNECTED and CONV_2D: each channel's weights are rounded again, from their float values,
  on a grid that is as much coarser as it takes.
- ADD: its two inputs and its output get one scale, under which it adds integers.

GATHER, RESHAPE and REDUCE_MAX move integers; they need nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RefusedError

HAIR: Final = 5e-7
"""More than what float32 loses in scales and products (3 units of 2**-24)."""

MEAN_HAIR: Final = 8.2e-6
"""The same in a mean, where XNNPACK adds the zero point in float32, in steps of 2**-17."""

_OUTPUTS: Final = 256
"""More than an int8 output can be from its zero point."""

_FINEST: Final = {HAIR: 11, MEAN_HAIR: 7}
"""The largest k with room for a hair: `_OUTPUTS` * 2**k of it must stay well below a half."""


def _alike(k: int, hair: float) -> Iterator[float]:
    """The m in [0.5, 1) that round once as twice before a shift by `k` bits."""
    if k <= 0:  # one rounding; no tie where q is odd, and none near
        for q in range(3, 102, 2):
            for p in range(q // 2 + 1, q):
                yield p / q
        return
    # The product below a tie must be this far away: a half, and what the hair moves the tie.
    least = 0.5 + _OUTPUTS * 2**k * (hair + 2e-7)
    for j in range(1, k):
        for q in range(2**j + 1, 2 ** (j + 1), 2):
            if 2**j / q > least:
                yield 2**j / q


def _table(hair: float) -> dict[int, NDArray[np.float64]]:
    return {k: np.array(sorted(set(_alike(k, hair)))) for k in range(-8, _FINEST[hair] + 1)}


_ALIKE: Final = _table(HAIR)
_ALIKE_MEANS: Final = _table(MEAN_HAIR)


def coarser(real: float) -> float:
    """The smallest multiplier, at least `real`, that every runtime rounds alike.

    Args:
        real: input scale * weight scale / output scale; positive. Above 100 it is the answer: one
            unit of a sum is then many steps of the output.
    """
    fraction, exponent = math.frexp(real)
    k = min(-exponent, _FINEST[HAIR])
    fraction = real * 2.0**k
    while k in _ALIKE:
        found = _ALIKE[k]
        at = int(np.searchsorted(found, fraction * (1 - 1e-9)))
        if fraction <= 1 and at < len(found):
            return math.ldexp(float(found[at]) * (1 + HAIR), -k)
        k, fraction = k - 1, fraction / 2
    return real


def common_length(length: int) -> int:
    """The smallest count of ids, at least `length`, whose mean every runtime rounds alike.

    A count that is much above a power of two leaves no room: 200 stays, 201 becomes 256.
    """
    power = 1 << (length.bit_length() - 1)
    return length if length <= _LARGEST_PART * power else 2 * power


_LARGEST_PART: Final = 1.5625


def finer_mean(real: float, count: int) -> float:
    """The largest multiplier, at most `real`, that every runtime rounds alike in a mean.

    The kernels divide the multiplier by `count` after they have normalised it for the scales
    alone, so that it is ``m / 2**k`` with m between 0.25 and 1. Where `real` is below all that
    have room for the hair, the answer is the smallest of them: the largest means are cut off.

    Args:
        real: input scale / output scale / count; positive.
        count: values in a mean, as :func:`common_length` allows.

    Raises:
        RefusedError: ``no-common-rounding``.
    """
    part = count / 2 ** (count.bit_length() - 1)  # in [1, 2)
    found = [
        math.ldexp(float(m) * (1 + MEAN_HAIR), -k)
        for k, table in _ALIKE_MEANS.items()
        for m in table
        if m * part < 1 - 2 * MEAN_HAIR
    ]
    if not found or real > 2 * max(found):
        raise RefusedError("no-common-rounding", f"no kernel rounds a mean of {count} alike")
    return max((m for m in found if m <= real * (1 + 1e-9)), default=min(found))


def align(model: bytes, reference: bytes) -> bytes:
    """`model` with scales under which all runtimes give the same output.

    Args:
        model: full int8, one subgraph.
        reference: the same module converted without quantisation; its weights are the floats.

    Returns:
        The file with other scales, zero points, weights and biases; nothing else changes.

    Raises:
        RefusedError: ``no-common-rounding``; a scale, or an operator, for which there is none.
    """
    graph = Graph(model)
    floats = Graph(reference)
    linear = [op for op in graph.operators if op.name in _LINEAR]
    originals = [op for op in floats.operators if op.name in _LINEAR]
    if [op.name for op in linear] != [op.name for op in originals]:
        raise RefusedError("no-common-rounding", "the float graph has other operators")
    for op in graph.operators:
        if op.name == "MEAN":
            _align_mean(graph, op)
        elif op.name == "ADD":
            _align_add(graph, op)
        elif op.name not in _LINEAR | _MOVES:
            raise RefusedError("no-common-rounding", f"{op.name} rounds in its own way")
    for op, original in zip(linear, originals, strict=True):
        _align_linear(graph, op, floats, original)
    return bytes(graph.data)


_LINEAR: Final = {"FULLY_CONNECTED", "CONV_2D"}
_MOVES: Final = {"GATHER", "RESHAPE", "REDUCE_MAX", "EXPAND_DIMS", "SQUEEZE"}


class Operator:
    """An operator: its name, and the tensors that it reads and makes."""

    def __init__(self, name: str, inputs: list[int], output: int) -> None:
        self.name = name
        self.inputs = inputs
        self.output = output


class Graph:
    """A model file whose scales and weights are written in place.

    Args:
        model: a ``.tflite`` file with one subgraph.
    """

    def __init__(self, model: bytes) -> None:
        from tensorflow.lite.python import schema_py_generated as schema

        self.data = bytearray(model)
        self._root = schema.Model.GetRootAs(self.data)
        self._graph = self._root.Subgraphs(0)
        names = {
            value: name
            for name, value in vars(schema.BuiltinOperator).items()
            if isinstance(value, int)
        }
        self.operators = []
        for index in range(self._graph.OperatorsLength()):
            operator = self._graph.Operators(index)
            entry = self._root.OperatorCodes(operator.OpcodeIndex())
            code = max(int(entry.BuiltinCode()), int(entry.DeprecatedBuiltinCode()))
            self.operators.append(
                Operator(
                    names.get(code, str(code)),
                    [int(i) for i in operator.InputsAsNumpy()],
                    int(operator.Outputs(0)),
                )
            )
        self.border = {int(i) for i in self._graph.OutputsAsNumpy()}

    def scales(self, tensor: int) -> Any:
        """Scales of a tensor: a view of the file."""
        return self._graph.Tensors(tensor).Quantization().ScaleAsNumpy()

    def zero_points(self, tensor: int) -> Any:
        """Its zero points: a view of the file."""
        return self._graph.Tensors(tensor).Quantization().ZeroPointAsNumpy()

    def shape(self, tensor: int) -> list[int]:
        """Its shape."""
        return [int(n) for n in self._graph.Tensors(tensor).ShapeAsNumpy()]

    def values(self, tensor: int, kind: type[np.generic]) -> Any:
        """A constant's values: a view of the file."""
        buffer = self._root.Buffers(self._graph.Tensors(tensor).Buffer())
        return buffer.DataAsNumpy().view(kind).reshape(self.shape(tensor))

    def producer(self, tensor: int) -> Operator | None:
        """What computes a tensor."""
        return next((op for op in self.operators if op.output == tensor), None)

    def readers(self, tensor: int) -> int:
        """How many operators read it."""
        return sum(op.inputs.count(tensor) for op in self.operators)

    def rescale(self, tensor: int, scale: float) -> None:
        """Gives an activation a scale that is no smaller, with the same lower end."""
        old, zero = np.float64(self.scales(tensor)[0]), int(self.zero_points(tensor)[0])
        lowest = (-128 - zero) * old
        self.scales(tensor)[0] = np.float32(scale)
        moved = round(-128 - lowest / scale)
        self.zero_points(tensor)[0] = max(-128, min(127, moved))


def _align_mean(graph: Graph, op: Operator) -> None:
    source = op.inputs[0]
    count = math.prod(graph.shape(source)) // math.prod(graph.shape(op.output))
    given = float(graph.scales(source)[0])
    old = float(graph.scales(op.output)[0])
    graph.rescale(op.output, given / (count * finer_mean(given / (count * old), count)))


def _align_add(graph: Graph, op: Operator) -> None:
    for tensor in op.inputs:
        producer = graph.producer(tensor)
        free = producer is not None and producer.name in _LINEAR and graph.readers(tensor) == 1
        if not free:
            raise RefusedError("no-common-rounding", "ADD of what no weights precede")
    tensors = [*op.inputs, op.output]
    common = max(float(graph.scales(tensor)[0]) for tensor in tensors)
    for tensor in tensors:
        graph.rescale(tensor, common)


def _align_linear(graph: Graph, op: Operator, floats: Graph, original: Operator) -> None:
    source, weights = op.inputs[:2]
    given = np.float64(graph.scales(source)[0])
    wanted = np.float64(graph.scales(op.output)[0])
    real = np.asarray(floats.values(original.inputs[1], np.float32), np.float64)
    grid, scales = graph.values(weights, np.int8), graph.scales(weights)
    if real.shape != grid.shape:
        raise RefusedError("no-common-rounding", "the float graph has other weights")
    # Channels are rows, in FULLY_CONNECTED and in CONV_2D.
    before = _by_row(scales, real)
    if np.abs(grid * before - real).max() > 0.1 * np.abs(real).max():
        raise RefusedError("no-common-rounding", "the float graph has its weights in another order")
    scales[:] = [
        np.float32(coarser(float(given * np.float64(scale) / wanted)) * wanted / given)
        for scale in scales
    ]
    step = _by_row(scales, real)
    grid[:] = np.clip(np.rint(real / step), -127, 127).astype(np.int8)
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        bias = graph.values(op.inputs[2], np.int32)
        unit = graph.scales(op.inputs[2])
        unit[:] = (given * scales[: len(unit)].astype(np.float64)).astype(np.float32)
        if len(original.inputs) > 2 and original.inputs[2] >= 0:
            exact = np.asarray(floats.values(original.inputs[2], np.float32), np.float64)
            limit = float(2**31 - 1)
            bias[:] = np.clip(np.rint(exact / (given * step.reshape(-1))), -limit, limit).astype(
                np.int32
            )
        elif bias.any():
            raise RefusedError("no-common-rounding", "the float graph has no such bias")


def _by_row(scales: Any, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales of a tensor, one or one a row, to be multiplied with its rows."""
    rows = np.broadcast_to(scales.astype(np.float64), (weights.shape[0],))
    return rows.reshape(-1, *([1] * (weights.ndim - 1)))
