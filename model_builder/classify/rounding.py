"""Scales under which every runtime rounds a MEAN to the same integer.

TensorFlow Lite Micro rescales a sum S in two steps (gemmlowp, ``fixedpoint.h``): to
``round(S * m)``, then to ``round(that / 2**k)``, with m in [0.5, 1). XNNPACK rounds
``S * m / 2**k`` once. The two differ where the first rounding lands on a tie of the second. A
mean over n-grams has a k of about 5, and then one sum in 2**(k + 1) differs, which the layers
after it make larger.

Where m is ``2**j / q`` with q odd and j < k, the products S * m are multiples of 1/q, and none
lies in the half below a tie: the one below it is m away. A hair more than that moves the ties
themselves upwards, for both. Such an m is a few percent below any other, where k is 5 or more.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

HAIR: Final = 5e-7
"""More than what float32 loses in a product; 255 steps of 2**k must not make half a unit of it."""


def same_rounding(real: float) -> float:
    """The largest multiplier at most `real` that rounds once as it rounds twice.

    Args:
        real: of a sum, input scale / (output scale * count); positive.
    """
    m, exponent = math.frexp(real)
    k = -exponent
    if not 1 <= k <= 10:
        return real  # rounded once anyway, or so finely that it hardly matters
    # The product below a tie is m away from it, less what the hair adds over all steps.
    least = 0.5 + 256 * 2**k * HAIR
    best = 0.0
    for j in range(k):
        q = math.ceil(2**j * (1 + HAIR) / m)
        q += 1 - q % 2
        if 2**j / q > least:
            best = max(best, 2**j / q)
    if not best:  # the next power of two down has one
        return same_rounding(math.ldexp(0.999, exponent - 1))
    return math.ldexp(best * (1 + HAIR), exponent)


def align_means(model: bytes) -> bytes:
    """`model` with the output scale of every MEAN widened until it rounds once and twice alike.

    The layers that read it get their int32 biases in the new unit. A model whose mean is read
    by anything but FULLY_CONNECTED or CONV_2D is left as it is there.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    data = bytearray(model)
    root = schema.Model.GetRootAs(data)
    graph = root.Subgraphs(0)

    def code(op: Any) -> int:
        entry = root.OperatorCodes(op.OpcodeIndex())
        return max(int(entry.BuiltinCode()), int(entry.DeprecatedBuiltinCode()))

    def scales(index: int) -> Any:
        return graph.Tensors(index).Quantization().ScaleAsNumpy()  # a view of `data`

    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    linear = (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D)
    for mean in operators:
        if code(mean) != schema.BuiltinOperator.MEAN:
            continue
        source, target = mean.Inputs(0), mean.Outputs(0)
        readers = [op for op in operators if target in op.InputsAsNumpy()]
        outputs = graph.OutputsAsNumpy()
        if target in outputs or any(code(op) not in linear for op in readers):
            continue
        count = int(
            np.prod(graph.Tensors(source).ShapeAsNumpy())
            // np.prod(graph.Tensors(target).ShapeAsNumpy())
        )
        old = np.float64(scales(target)[0])
        given = np.float64(scales(source)[0])
        new = np.float32(given / (count * same_rounding(float(given / (count * old)))))
        scales(target)[0] = new
        ratio = old / np.float64(new)
        for op in readers:
            if op.InputsLength() < 3 or op.Inputs(2) < 0:
                continue
            bias = op.Inputs(2)
            values = root.Buffers(graph.Tensors(bias).Buffer()).DataAsNumpy().view(np.int32)
            values[:] = np.round(values * ratio).astype(np.int32)
            unit = scales(bias)
            unit[:] = (unit / ratio).astype(np.float32)
    return bytes(data)
