"""Reads a ``.tflite`` file: tensors and operators, checked; weights stay in the file.

Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs (version 3).
"""

from .errors import Refused
from .kernels import INT8, INT32
from .tables import root

SIZES = {0: 4, INT32: 4, INT8: 1}

OPERATORS = {
    0: "ADD",
    2: "CONCATENATION",
    3: "CONV_2D",
    9: "FULLY_CONNECTED",
    18: "MUL",
    22: "RESHAPE",
    36: "GATHER",
    40: "MEAN",
    41: "SUB",
    82: "REDUCE_MAX",
}
MAX_TENSORS = 256
MAX_OPERATORS = 128
MAX_ELEMENTS = 1 << 22


class Tensor:
    """A tensor: `shape`, `type`, and where its bytes are (`offset` 0: computed).

    `scales` is ``(file offset, count)`` of its float32 scales; `zero_point` is of the whole
    tensor (per-channel tensors are symmetric, which is checked).
    """

    def __init__(self, source, table, buffers):
        self.shape = table.numbers(0, "i", 8)
        self.type = table.number(1, "b")
        if self.type not in SIZES:
            raise Refused("bad-model", "tensor type %d is not supported" % self.type)
        self.count = 1
        for size in self.shape:
            if size < 1 or size > MAX_ELEMENTS:
                raise Refused("bad-model", "a tensor has the shape %s" % self.shape)
            self.count *= size
            if self.count > MAX_ELEMENTS:
                raise Refused("bad-model", "a tensor has the shape %s" % self.shape)
        self.bytes = self.count * SIZES[self.type]
        index = table.number(2, "I")
        if index >= len(buffers):
            raise Refused("bad-model", "a tensor uses buffer %d of %d" % (index, len(buffers)))
        self.offset, size = buffers[index]
        if self.offset and size != self.bytes:
            raise Refused("bad-model", "a tensor of %d bytes has %d" % (self.bytes, size))
        self.scales = (0, 0)
        self.zero_point = 0
        quantization = table.table(4)
        if quantization is not None:
            self.scales = quantization.vector(2, 4)
            at, count = quantization.vector(3, 8)
            for i in range(count):
                zero = source.number("q", at + 8 * i)
                if not -128 <= zero <= 127 or (count > 1 and zero):
                    raise Refused("bad-model", "zero point %d" % zero)
                self.zero_point = zero


class Operator:
    """An operator: its name, tensor indices, and its options table (or None)."""

    def __init__(self, table, codes, tensors):
        index = table.number(0, "I")
        if index >= len(codes):
            raise Refused("bad-model", "an operator uses code %d of %d" % (index, len(codes)))
        self.name = codes[index]
        self.inputs = table.numbers(1, "i", 64)
        self.outputs = table.numbers(2, "i", 64)
        self.options = table.table(4)
        for tensor in self.inputs + self.outputs:
            if not -1 <= tensor < tensors:
                raise Refused("bad-model", "an operator uses tensor %d of %d" % (tensor, tensors))
        if not self.inputs or self.inputs[0] < 0 or len(self.outputs) != 1 or self.outputs[0] < 0:
            raise Refused("bad-model", "%s needs an input and one output" % self.name)

    def option(self, index, fmt, default=0):
        """A number of the options."""
        return default if self.options is None else self.options.number(index, fmt, default)


class Model:
    """A parsed model: `source`, `tensors`, `operators`, `inputs`, `outputs`."""

    def __init__(self, source):
        self.source = source
        top = root(source, b"TFL3")
        if top.number(0, "I") != 3:
            raise Refused("bad-model", "schema version %d, 3 is read" % top.number(0, "I"))
        codes = []
        for code in top.tables(1, MAX_OPERATORS):
            # Old files have the code in a byte, new ones in a word: the larger is the code.
            number = max(code.number(0, "b"), code.number(3, "i"))
            if number not in OPERATORS:
                raise Refused("unsupported-operator", "operator %d is not supported" % number)
            codes.append(OPERATORS[number])
        graphs = top.tables(2, 8)
        if not graphs:
            raise Refused("bad-model", "the file has no graph")
        graph = graphs[0]
        buffers = []
        for buffer in top.tables(4, MAX_TENSORS * 2):
            at, size = buffer.vector(0, 1)
            buffers.append((at, size) if size else (0, 0))
        self.tensors = [Tensor(source, t, buffers) for t in graph.tables(0, MAX_TENSORS)]
        count = len(self.tensors)
        self.inputs = graph.numbers(1, "i", 8)
        self.outputs = graph.numbers(2, "i", 8)
        for index in self.inputs + self.outputs:
            if not 0 <= index < count:
                raise Refused("bad-model", "the graph uses tensor %d of %d" % (index, count))
        self.operators = [Operator(t, codes, count) for t in graph.tables(3, MAX_OPERATORS)]
        if not self.inputs or not self.outputs or not self.operators:
            raise Refused("bad-model", "the graph is empty")
