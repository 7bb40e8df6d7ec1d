"""What runs a prepared model: one function an operator, and the weights that it reads.

It stays in memory while a model serves; what checks a model and plans its memory
(:mod:`micro.prepare`) does not, so that nothing here may refer to it.
"""

from . import kernels
from .errors import Refused

ROW_BLOCK = 1024  # bytes of weights that are read from the file at once
RESERVE = 4096  # bytes that kept weights leave for the blocks of others


class Work:
    """Memory that all operators share: `acc` and `other` hold int32s, `flat` bytes."""

    acc = other = flat = None


class Weights:
    """Rows of a constant int8 tensor."""

    def __init__(self, source, tensor, row):
        self.row = row
        self.rows = tensor.bytes // row
        self._source = source
        self._offset = tensor.offset
        self._data = None
        self._block = None
        if source.memory is not None:
            self._data = source.memory[tensor.offset : tensor.offset + tensor.bytes]

    def settle(self, memory, keep):
        """Takes memory for all rows if they fit beside `RESERVE`, else for a few of them."""
        if self._data is not None:
            return
        count = self.rows * self.row
        if keep and count + RESERVE <= memory.left:
            self._data = memory.take(count)
            self._source.readinto(self._offset, self._data)
        else:
            few = max(1, min(self.rows, ROW_BLOCK // self.row)) if keep else 1
            self._block = memory.take(few * self.row)

    def step(self):
        """Rows that :meth:`block` gives at once."""
        return self.rows if self._data is not None else len(self._block) // self.row

    def block(self, first, count):
        """`count` rows from `first`: a view that is valid until the next call."""
        if self._data is not None:
            return self._data[first * self.row : (first + count) * self.row]
        view = self._block[: count * self.row]
        self._source.readinto(self._offset + first * self.row, view)
        return view


def gather(work, weights, width, view, out, count):
    """Rows of a table by `count` little-endian int32 ids."""

    def run():
        for i in range(count):
            row = view[4 * i] | view[4 * i + 1] << 8 | view[4 * i + 2] << 16
            if view[4 * i + 3] or row >= weights.rows:
                raise Refused("bad-input", "an id is outside of the table")
            out[i * width : (i + 1) * width] = weights.block(row, 1)

    return run


def convolution(work, weights, triples, shape, after, view, out):
    """One filter after the other over all positions."""
    channels = weights.rows

    def run():
        kernels.flip(view, work.flat, len(view))
        step = weights.step()
        for first in range(0, channels, step):
            count = min(step, channels - first)
            block = weights.block(first, count)
            for c in range(count):
                row = block[c * weights.row : (c + 1) * weights.row]
                kernels.window_dots(work.flat, row, work.acc, shape)
                channel = first + c
                kernels.rescale(work.acc, triples[3 * channel :], out[channel:], after)

    return run


def dense(work, weights, triples, shape, after, view, out):
    """As many rows of a matrix at once as are in memory."""
    rows, n = weights.rows, weights.row

    def run():
        kernels.flip(view, work.flat, n)
        step = weights.step()
        for first in range(0, rows, step):
            count = min(step, rows - first)
            shape[1] = after[0] = count
            kernels.row_dots(work.flat, weights.block(first, count), work.acc, shape)
            kernels.rescale(work.acc, triples[3 * first :], out[first:], after)

    return run


def mean(work, triple, shape, after, view, out):
    """Sums of columns, rescaled."""

    def run():
        kernels.column_sums(view, work.acc, shape)
        kernels.rescale(work.acc, triple, out, after)

    return run


def maximum(shape, view, out):
    """The largest of each column."""
    return lambda: kernels.column_max(view, out, shape)


def join(parts, out):
    """Tensors one after the other."""

    def run():
        at = 0
        for part in parts:
            out[at : at + len(part)] = part
            at += len(part)

    return run


def elementwise(work, views, out, n, how, centres, scales, final, keep, after):
    """The sum (`how` 0), difference (1) or product (2) of two tensors."""

    def run():
        kernels.centre(views[0], work.acc, centres[0])
        kernels.centre(views[1], work.other, centres[1])
        if scales:
            kernels.rescale(work.acc, scales[0], work.acc, keep)
            kernels.rescale(work.other, scales[1], work.other, keep)
        kernels.combine(work.acc, work.other, n, how)
        kernels.rescale(work.acc, final, out, after)

    return run
