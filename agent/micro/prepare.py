"""Checks a model, gives its tensors their places, and makes the steps that run it.

Needed while a model is loaded, and not while it serves.
"""

from array import array

from . import quantize, steps
from .errors import Refused
from .kernels import INT8, INT32
from .plan import place
from .tflite import Model


class Preparation:
    """A model that is ready to run.

    Args:
        source: of the ``.tflite`` file.
        memory: where tensors, and weights that fit, go.

    Attributes:
        steps: functions to call in a row.
        inputs, outputs: views of bytes.
        arena_bytes: of the computed tensors.

    Raises:
        Refused: ``bad-model``, ``unsupported-operator``, ``too-large``.
    """

    def __init__(self, source, memory):
        self._source = source
        model = Model(source)
        self._model = model
        self._weights_used = []
        tensors = model.tensors
        alias = list(range(len(tensors)))
        for operator in model.operators:
            if operator.name == "RESHAPE":
                before, after = operator.inputs[0], operator.outputs[0]
                if tensors[before].bytes != tensors[after].bytes or tensors[before].offset:
                    raise Refused("bad-model", "a reshape changes the number of bytes")
                alias[after] = alias[before]
        self._views = [None] * len(tensors)
        self.arena_bytes = self._plan(alias, memory)
        need_acc = 1
        need_flat = 8
        self._work = work = steps.Work()
        self.steps = []
        for operator in model.operators:
            prepare = getattr(self, "_prepare_" + operator.name.lower())
            step, acc, flat = prepare(operator)
            need_acc = max(need_acc, acc)
            need_flat = max(need_flat, flat)
            if step is not None:
                self.steps.append(step)
        work.acc = memory.take(4 * need_acc)
        if any(o.name in ("ADD", "SUB", "MUL") for o in model.operators):
            work.other = memory.take(4 * need_acc)
        work.flat = memory.take(need_flat)
        for weights, keep in self._weights_used:
            weights.settle(memory, keep)
        self.inputs = [self._views[i] for i in model.inputs]
        self.outputs = [self._views[i] for i in model.outputs]

    def _plan(self, alias, memory):
        """Gives every computed tensor its place in the arena."""
        model = self._model
        first, last = {}, {}
        end = len(model.operators)
        for index in model.inputs:
            if model.tensors[index].offset:
                raise Refused("bad-model", "an input is a constant")
            first[alias[index]], last[alias[index]] = -1, end
        for step, operator in enumerate(model.operators):
            for index in operator.inputs:
                if index >= 0 and not model.tensors[index].offset:
                    if alias[index] not in first:
                        raise Refused("bad-model", "a tensor is used before it is computed")
                    last[alias[index]] = max(last[alias[index]], step)
            index = alias[operator.outputs[0]]
            if model.tensors[operator.outputs[0]].offset:
                raise Refused("bad-model", "an operator writes to a constant")
            first.setdefault(index, step)
            last[index] = max(last.get(index, step), step)
        for index in model.outputs:
            if alias[index] not in first:
                raise Refused("bad-model", "an output is never computed")
            last[alias[index]] = end
        spans = [None] * len(model.tensors)
        for index in first:
            spans[index] = (model.tensors[index].bytes, first[index], last[index])
        offsets, total = place(spans)
        arena = memory.take(total)
        for index in range(len(model.tensors)):
            at = offsets[alias[index]]
            if at is not None:
                self._views[index] = arena[at : at + model.tensors[index].bytes]
        return total

    # Each checks an operator and returns (what runs it, int32s, bytes) that it needs. -----------

    def _weights(self, tensor, row, keep=True):
        weights = steps.Weights(self._source, tensor, row)
        self._weights_used.append((weights, keep))
        return weights

    def _scale(self, tensor, channel=0):
        at, count = tensor.scales
        if not count:
            raise Refused("bad-model", "a tensor has no scale")
        index = channel if count > 1 else 0
        if index >= count:
            raise Refused("bad-model", "a tensor has too few scales")
        return quantize.split(self._source.number("I", at + 4 * index))

    def _io(self, operator, types=(INT8,)):
        source = self._model.tensors[operator.inputs[0]]
        target = self._model.tensors[operator.outputs[0]]
        if source.type not in types or target.type != INT8:
            raise Refused("bad-model", "%s: only int8 is supported" % operator.name)
        return source, target

    def _constant(self, operator, index, kind):
        number = operator.inputs[index] if index < len(operator.inputs) else -1
        tensor = self._model.tensors[number] if number >= 0 else None
        if tensor is None or not tensor.offset or tensor.type != kind:
            raise Refused("bad-model", "%s: input %d must be a constant" % (operator.name, index))
        return tensor

    def _ints(self, tensor):
        return [self._source.number("i", tensor.offset + 4 * i) for i in range(tensor.count)]

    def _limits(self, activation, target):
        if activation == 0:
            return -128, 127
        if activation == 1:
            return max(-128, target.zero_point), 127
        raise Refused("unsupported-operator", "activation %d is not supported" % activation)

    def _triples(self, operator, source, weights, target, channels):
        """(bias, multiplier, shift) of every output channel."""
        bias = None
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = self._constant(operator, 2, INT32)
            if bias.count != channels:
                raise Refused("bad-model", "%s: the bias has another length" % operator.name)
        out, scale = self._scale(target), self._scale(source)
        one = weights.scales[1] == 1
        # The reference kernel of FULLY_CONNECTED multiplies one pair of scales in float32.
        single = one and operator.name == "FULLY_CONNECTED"
        result = array("i", bytearray(12 * channels))
        pair = None
        for c in range(channels):
            if pair is None or not one:
                number = quantize.product(scale, self._scale(weights, c), single)
                pair = quantize.multiplier(number, out)
            if bias:
                result[3 * c] = self._source.number("i", bias.offset + 4 * c)
            result[3 * c + 1], result[3 * c + 2] = pair
        return result

    def _prepare_reshape(self, operator):
        return None, 0, 0

    def _prepare_gather(self, operator):
        table = self._constant(operator, 0, INT8)
        ids = self._model.tensors[operator.inputs[1]]
        target = self._model.tensors[operator.outputs[0]]
        if (
            len(table.shape) != 2
            or ids.type != INT32
            or ids.offset
            or target.type != INT8
            or target.bytes != ids.count * table.shape[1]
            or operator.option(0, "i")
            or operator.option(1, "i")
        ):
            raise Refused("bad-model", "GATHER: expected rows of a table [n, width]")
        width = table.shape[1]
        # Few rows of a large table are read: it is never worth memory.
        weights = self._weights(table, width, keep=False)
        view, out, count = (
            self._views[operator.inputs[1]],
            self._views[operator.outputs[0]],
            ids.count,
        )
        return steps.gather(self._work, weights, width, view, out, count), 0, 0

    def _prepare_conv_2d(self, operator):
        source, target = self._io(operator)
        filters = self._constant(operator, 1, INT8)
        if (
            len(source.shape) != 4
            or source.shape[:2] != [1, 1]
            or len(filters.shape) != 4
            or filters.shape[1] != 1
            or filters.shape[3] != source.shape[3]
            or operator.option(1, "i", 1) != 1
            or operator.option(4, "i", 1) != 1
        ):
            raise Refused("unsupported-operator", "CONV_2D: expected 1 x k, stride 1")
        channels, k, depth = filters.shape[0], filters.shape[2], filters.shape[3]
        width = source.shape[2]
        same = operator.option(0, "b") == 0
        positions = width if same else width - k + 1
        if k > width or target.shape != [1, 1, positions, channels]:
            raise Refused("bad-model", "CONV_2D: the output has another shape")
        least, most = self._limits(operator.option(3, "b"), target)
        triples = memoryview(self._triples(operator, source, filters, target, channels))
        weights = self._weights(filters, k * depth)
        left = (k - 1) // 2 if same else 0
        shape = array("i", [width, depth, k, positions, left, source.zero_point + 128])
        after = array("i", [positions, 0, channels, target.zero_point, least, most, 0])
        view, out = self._views[operator.inputs[0]], self._views[operator.outputs[0]]
        run = steps.convolution(self._work, weights, triples, shape, after, view, out)
        return run, positions, source.bytes

    def _prepare_fully_connected(self, operator):
        source, target = self._io(operator)
        matrix = self._constant(operator, 1, INT8)
        if len(matrix.shape) != 2 or matrix.shape[1] != source.count:
            raise Refused("unsupported-operator", "FULLY_CONNECTED: expected one row of input")
        rows, n = matrix.shape
        if target.count != rows or operator.option(1, "b"):
            raise Refused("bad-model", "FULLY_CONNECTED: the output has another shape")
        least, most = self._limits(operator.option(0, "b"), target)
        triples = memoryview(self._triples(operator, source, matrix, target, rows))
        weights = self._weights(matrix, n)
        shape = array("i", [n, 0, source.zero_point + 128])
        after = array("i", [0, 1, 1, target.zero_point, least, most, 0])
        view, out = self._views[operator.inputs[0]], self._views[operator.outputs[0]]
        run = steps.dense(self._work, weights, triples, shape, after, view, out)
        return run, rows, n

    def _reduced(self, operator):
        """Rows and columns of a reduction over the middle axes of [1, ..., columns]."""
        source, target = self._io(operator)
        rank = len(source.shape)
        axes = sorted([a % rank for a in self._ints(self._constant(operator, 1, INT32))])
        columns = source.shape[-1]
        rows = source.count // columns
        kept = 1
        for axis in range(rank - 1):
            if axis not in axes:
                kept *= source.shape[axis]
        if rank - 1 in axes or kept != 1 or target.count != columns:
            raise Refused(
                "unsupported-operator", "%s: expected all axes but the last" % operator.name
            )
        return source, target, rows, columns

    def _prepare_mean(self, operator):
        source, target, rows, columns = self._reduced(operator)
        fixed, shift = quantize.multiplier(self._scale(source), self._scale(target))
        # As TFLite does: the division by the count goes into the multiplier.
        bits = min(quantize.bit_length(rows) - 1, 32, 31 + shift)
        triple = array("i", [0, (fixed << bits) // rows, shift - bits])
        shape = array("i", [rows, columns, source.zero_point])
        after = array("i", [columns, 0, 1, target.zero_point, -128, 127, 0])
        view, out = self._views[operator.inputs[0]], self._views[operator.outputs[0]]
        return steps.mean(self._work, triple, shape, after, view, out), columns, 0

    def _prepare_reduce_max(self, operator):
        source, target, rows, columns = self._reduced(operator)
        self._same(operator, source, target)
        shape = array("i", [rows, columns])
        view, out = self._views[operator.inputs[0]], self._views[operator.outputs[0]]
        return steps.maximum(shape, view, out), 0, 0

    def _same(self, operator, source, target):
        if self._scale(source) != self._scale(target) or source.zero_point != target.zero_point:
            raise Refused("unsupported-operator", "%s: the scales differ" % operator.name)

    def _prepare_concatenation(self, operator):
        target = self._model.tensors[operator.outputs[0]]
        parts = []
        size = 0
        for index in operator.inputs:
            tensor = self._model.tensors[index]
            if index < 0 or tensor.type != INT8 or self._views[index] is None:
                raise Refused("unsupported-operator", "CONCATENATION: expected computed int8")
            self._same(operator, tensor, target)
            parts.append(self._views[index])
            size += tensor.bytes
        axis = operator.option(0, "i") % max(1, len(target.shape))
        before = 1
        for length in target.shape[:axis]:
            before *= length
        if before != 1 or size != target.bytes:
            raise Refused("unsupported-operator", "CONCATENATION: expected whole tensors in a row")
        return steps.join(parts, self._views[operator.outputs[0]]), 0, 0

    def _elementwise(self, operator, how):
        """ADD and SUB in 20 extra bits, MUL in one product: as the reference kernels."""
        one, target = self._io(operator)
        two = self._model.tensors[operator.inputs[1]] if len(operator.inputs) == 2 else None
        if two is None or two.type != INT8 or not one.count == two.count == target.count:
            raise Refused("unsupported-operator", "%s: expected equal shapes" % operator.name)
        least, most = self._limits(operator.option(0, "b"), target)
        views = self._views[operator.inputs[0]], self._views[operator.inputs[1]]
        if None in views:
            raise Refused("unsupported-operator", "%s: expected computed tensors" % operator.name)
        n = target.count
        a, b, c = self._scale(one), self._scale(two), self._scale(target)
        shift = 0 if how == 2 else 20
        first = array("i", [n, one.zero_point, shift])
        second = array("i", [n, two.zero_point, shift])
        keep = array("i", [n, 0, 1, 0, 0, 0, 1])
        after = array("i", [n, 0, 1, target.zero_point, least, most, 0])
        if how == 2:
            scales = []
            final = quantize.multiplier(quantize.product(a, b), c)
        else:
            twice = max(a, b, key=lambda s: (s[1], s[0]))
            twice = twice[0], twice[1] + 1
            scales = [
                array("i", (0,) + quantize.multiplier(a, twice)),
                array("i", (0,) + quantize.multiplier(b, twice)),
            ]
            final = quantize.multiplier((twice[0], twice[1] - shift), c)
        final = array("i", (0,) + final)
        out = self._views[operator.outputs[0]]
        run = steps.elementwise(
            self._work, views, out, n, how, (first, second), scales, final, keep, after
        )
        return run, n, 0

    def _prepare_add(self, operator):
        return self._elementwise(operator, 0)

    def _prepare_sub(self, operator):
        return self._elementwise(operator, 1)

    def _prepare_mul(self, operator):
        return self._elementwise(operator, 2)
