"""Generates the C99 engine of one model: its weights as tables, its operators as calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from contracts.errors import InputError
from model_builder.export_c.arithmetic import mean_multiplier, multiplier
from model_builder.export_c.graph import INT8, INT32, Graph, Operator, Tensor
from model_builder.export_c.plan import Plan, plan

# A union, so that int32 inputs are aligned.
_ARENA: Final = "static union {{\n    int64_t align;\n    int8_t bytes[{size}];\n}} arena;\n"


def table(kind: str, name: str, values: Iterable[Any]) -> str:
    """A constant C array."""
    items = [str(v) for v in values]
    lines = [", ".join(items[i : i + 16]) for i in range(0, len(items), 16)]
    body = ",\n    ".join(lines)
    return f"static const {kind} {name}[{len(items)}] = {{\n    {body}}};\n"


def _unsupported(op: Operator, why: str) -> InputError:
    return InputError("unsupported-operator", f"the C99 engine cannot run this {op.name}: {why}")


class Engine:
    """The C source of one graph.

    Args:
        graph: full int8.

    Raises:
        InputError: ``unsupported-operator`` with what the engine cannot run.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.plan: Plan = plan(graph)
        self._tables: list[str] = []
        self._calls: list[str] = []
        for number, op in enumerate(graph.operators):
            emit = getattr(self, f"_emit_{op.name.lower()}", None)
            if emit is None:
                raise _unsupported(op, "no kernel")
            emit(number, op)

    # The files. ---------------------------------------------------------------------------

    def header(self) -> str:
        """``model.h``."""
        lines = [
            "/* The model: fill the inputs, invoke, read the outputs. */",
            "#ifndef SHOAL_MODEL_H",
            "#define SHOAL_MODEL_H",
            "",
            "#include <stdint.h>",
            "",
            f"#define SHOAL_ARENA_BYTES {self.plan.arena_bytes}",
            "",
        ]
        for kind, indices in (("input", self.graph.inputs), ("output", self.graph.outputs)):
            for number, index in enumerate(indices):
                tensor = self.graph.tensors[index]
                size = f"SHOAL_{kind.upper()}_{number}_COUNT"
                lines += [
                    f"#define {size} {tensor.count}",
                    f"{tensor.dtype}_t *shoal_{kind}_{number}(void);",
                ]
        lines += [
            "",
            "/* 0, or -1 when an input id is outside of the model's table. Not reentrant. */",
            "int shoal_invoke(void);",
            "",
            "#endif",
            "",
        ]
        return "\n".join(lines)

    def source(self) -> str:
        """``model.c``."""
        parts = [
            '#include "model.h"\n\n#include <string.h>\n\n#include "shoal_kernels.h"\n',
            *self._tables,
            _ARENA.format(size=self.plan.arena_bytes),
        ]
        for kind, indices in (("input", self.graph.inputs), ("output", self.graph.outputs)):
            for number, index in enumerate(indices):
                dtype = self.graph.tensors[index].dtype
                parts.append(
                    f"{dtype}_t *shoal_{kind}_{number}(void)\n{{\n"
                    f"    return ({dtype}_t *)(void *){self._at(index)};\n}}\n"
                )
        calls = "\n".join(self._calls)
        parts.append(f"int shoal_invoke(void)\n{{\n{calls}\n    return 0;\n}}\n")
        return "\n".join(parts)

    # Helpers. -----------------------------------------------------------------------------

    def _at(self, index: int) -> str:
        return f"(arena.bytes + {self.plan.offsets[index]})"

    def _tensor(self, op: Operator, number: int) -> Tensor:
        if number >= len(op.inputs) or op.inputs[number] < 0:
            raise _unsupported(op, f"input {number} is missing")
        return self.graph.tensors[op.inputs[number]]

    def _constant(self, op: Operator, number: int, dtype: str) -> Tensor:
        tensor = self._tensor(op, number)
        if tensor.data is None or tensor.dtype != dtype:
            raise _unsupported(op, f"input {number} is not a constant {dtype}")
        return tensor

    def _io(self, op: Operator) -> tuple[Tensor, Tensor]:
        source, target = self._tensor(op, 0), self.graph.tensors[op.outputs[0]]
        if source.dtype != INT8 or target.dtype != INT8:
            raise _unsupported(op, "not int8")
        return source, target

    @staticmethod
    def _output(op: Operator, target: Tensor) -> str:
        activation = op.options.get("fusedActivationFunction", 0)
        if activation not in (0, 1):
            raise _unsupported(op, f"activation {activation}")
        least = max(-128, target.zero_point) if activation else -128
        return f"{{{target.zero_point}, {least}, 127}}"

    def _scales(self, op: Operator, number: int, source: Tensor, weights: Tensor) -> int:
        """Writes the table of scales of `op`; returns how many there are."""
        target = self.graph.tensors[op.outputs[0]]
        inner = source.scales[0]
        pairs = []
        for scale in weights.scales:
            if len(weights.scales) == 1 and op.name == "FULLY_CONNECTED":
                product = float(np.float32(inner * scale))
            else:
                product = float(inner) * float(scale)
            pairs.append(multiplier(product / float(target.scales[0])))
        items = [f"{{{fixed}, {shift}}}" for fixed, shift in pairs]
        self._tables.append(table("shoal_scale", f"scale_{number}", items))
        return len(pairs)

    def _bias(self, op: Operator, number: int, channels: int) -> str:
        if len(op.inputs) < 3 or op.inputs[2] < 0:
            return "0"
        bias = self._constant(op, 2, INT32)
        if bias.count != channels or bias.data is None:
            raise _unsupported(op, "the bias has another length")
        self._tables.append(table("int32_t", f"bias_{number}", bias.data.ravel().tolist()))
        return f"bias_{number}"

    def _weights(self, number: int, tensor: Tensor) -> None:
        assert tensor.data is not None
        self._tables.append(table("int8_t", f"weights_{number}", tensor.data.ravel().tolist()))

    # One method an operator. ----------------------------------------------------------------

    def _emit_reshape(self, number: int, op: Operator) -> None:
        if self._tensor(op, 0).size != self.graph.tensors[op.outputs[0]].size:
            raise _unsupported(op, "the size changes")

    def _emit_gather(self, number: int, op: Operator) -> None:
        rows, ids = self._constant(op, 0, INT8), self._tensor(op, 1)
        if len(rows.shape) != 2 or ids.dtype != INT32 or op.options.get("axis"):
            raise _unsupported(op, "not rows of a table")
        self._weights(number, rows)
        self._calls.append(
            f"    if (shoal_gather(weights_{number}, {rows.shape[0]}, {rows.shape[1]}, "
            f"(const int32_t *)(void *){self._at(op.inputs[1])}, {ids.count}, "
            f"{self._at(op.outputs[0])}) != 0) {{\n        return -1;\n    }}"
        )

    def _emit_conv_2d(self, number: int, op: Operator) -> None:
        source, target = self._io(op)
        filters = self._constant(op, 1, INT8)
        if (
            source.shape[:2] != (1, 1)
            or filters.shape[1] != 1
            or op.options["strideW"] != 1
            or op.options["dilationWFactor"] != 1
        ):
            raise _unsupported(op, "not 1 x k with stride 1")
        channels, _, k, depth = filters.shape
        left = (k - 1) // 2 if op.options["padding"] == 0 else 0
        if k > source.shape[2] or filters.shape[3] != source.shape[3]:
            raise _unsupported(op, "the filter does not fit its input")
        count = self._scales(op, number, source, filters)
        bias = self._bias(op, number, channels)
        self._weights(number, filters)
        fields = [
            source.shape[2], depth, k, target.shape[2], channels, left, source.zero_point, count,
        ]  # fmt: skip
        self._tables.append(
            f"static const shoal_conv_shape shape_{number} = {{"
            f"{', '.join(map(str, fields))}, {self._output(op, target)}}};\n"
        )
        self._calls.append(
            f"    shoal_conv(&shape_{number}, {self._at(op.inputs[0])}, weights_{number}, {bias}, "
            f"scale_{number}, {self._at(op.outputs[0])});"
        )

    def _emit_fully_connected(self, number: int, op: Operator) -> None:
        source, target = self._io(op)
        matrix = self._constant(op, 1, INT8)
        rows, n = matrix.shape
        if source.count != n:
            raise _unsupported(op, "more than one row of input")
        count = self._scales(op, number, source, matrix)
        bias = self._bias(op, number, rows)
        self._weights(number, matrix)
        self._tables.append(
            f"static const shoal_dense_shape shape_{number} = {{{n}, {rows}, "
            f"{source.zero_point}, {count}, {self._output(op, target)}}};\n"
        )
        self._calls.append(
            f"    shoal_dense(&shape_{number}, {self._at(op.inputs[0])}, weights_{number}, {bias}, "
            f"scale_{number}, {self._at(op.outputs[0])});"
        )

    def _reduced(self, op: Operator) -> tuple[Tensor, Tensor, int, int]:
        source, target = self._io(op)
        data = self._constant(op, 1, INT32).data
        assert data is not None
        rank = len(source.shape)
        axes = {int(a) % rank for a in data.ravel()}
        kept = [n for axis, n in enumerate(source.shape[:-1]) if axis not in axes]
        if rank - 1 in axes or int(np.prod(kept)) != 1:
            raise _unsupported(op, "not over all axes but the last")
        columns = source.shape[-1]
        return source, target, source.count // columns, columns

    def _emit_mean(self, number: int, op: Operator) -> None:
        source, target, rows, columns = self._reduced(op)
        fixed, shift = mean_multiplier(float(source.scales[0]) / float(target.scales[0]), rows)
        self._tables.append(
            f"static const shoal_scale scale_{number} = {{{fixed}, {shift}}};\n"
            f"static const shoal_output output_{number} = {self._output(op, target)};\n"
        )
        self._calls.append(
            f"    shoal_mean({rows}, {columns}, {source.zero_point}, scale_{number}, "
            f"&output_{number}, {self._at(op.inputs[0])}, {self._at(op.outputs[0])});"
        )

    def _same(self, op: Operator, a: Tensor, b: Tensor) -> None:
        if a.scales[0] != b.scales[0] or a.zero_point != b.zero_point:
            raise _unsupported(op, "the scales differ")

    def _emit_reduce_max(self, number: int, op: Operator) -> None:
        source, target, rows, columns = self._reduced(op)
        self._same(op, source, target)
        self._calls.append(
            f"    shoal_max({rows}, {columns}, {self._at(op.inputs[0])}, "
            f"{self._at(op.outputs[0])});"
        )

    def _emit_concatenation(self, number: int, op: Operator) -> None:
        target = self.graph.tensors[op.outputs[0]]
        axis = op.options["axis"] % len(target.shape)
        if int(np.prod(target.shape[:axis])) != 1:
            raise _unsupported(op, "not whole tensors in a row")
        at = self.plan.offsets[op.outputs[0]]
        for index in op.inputs:
            part = self.graph.tensors[index]
            if part.data is not None or part.dtype != INT8:
                raise _unsupported(op, "a part is not a computed int8 tensor")
            self._same(op, part, target)
            self._calls.append(f"    memcpy(arena.bytes + {at}, {self._at(index)}, {part.size});")
            at += part.size

    def _pair(self, op: Operator) -> tuple[Tensor, Tensor, Tensor]:
        one, target = self._io(op)
        two = self._tensor(op, 1)
        if one.count != two.count or one.data is not None or two.data is not None:
            raise _unsupported(op, "not two computed tensors of one shape")
        return one, two, target

    def _sum(self, number: int, op: Operator, sign: int) -> None:
        one, two, target = self._pair(op)
        a, b, out = (float(t.scales[0]) for t in (one, two, target))
        twice = 2 * max(a, b)
        scales = [multiplier(a / twice), multiplier(b / twice), multiplier(twice / (2**20 * out))]
        text = ", ".join(f"{{{fixed}, {shift}}}" for fixed, shift in scales)
        self._tables.append(
            f"static const shoal_add_shape shape_{number} = {{{one.zero_point}, "
            f"{two.zero_point}, {sign}, {text}, {self._output(op, target)}}};\n"
        )
        self._calls.append(
            f"    shoal_add(&shape_{number}, {target.count}, {self._at(op.inputs[0])}, "
            f"{self._at(op.inputs[1])}, {self._at(op.outputs[0])});"
        )

    def _emit_add(self, number: int, op: Operator) -> None:
        self._sum(number, op, 1)

    def _emit_sub(self, number: int, op: Operator) -> None:
        self._sum(number, op, -1)

    def _emit_mul(self, number: int, op: Operator) -> None:
        one, two, target = self._pair(op)
        real = float(one.scales[0]) * float(two.scales[0]) / float(target.scales[0])
        fixed, shift = multiplier(real)
        self._tables.append(
            f"static const shoal_scale scale_{number} = {{{fixed}, {shift}}};\n"
            f"static const shoal_output output_{number} = {self._output(op, target)};\n"
        )
        self._calls.append(
            f"    shoal_mul({target.count}, {one.zero_point}, {two.zero_point}, scale_{number}, "
            f"&output_{number}, {self._at(op.inputs[0])}, {self._at(op.inputs[1])}, "
            f"{self._at(op.outputs[0])});"
        )
