"""One piece of memory for models, taken at the start, before the heap is in pieces.

MicroPython's heap does not move objects: after a while there is no large free piece left,
however much is free in all. So what models need is given out of one piece, in a row, and
taken back all at once.
"""

from .errors import Refused

ALIGN = 8


class Memory:
    """Gives out parts of a piece of memory.

    Args:
        size: bytes.
    """

    def __init__(self, size):
        self._piece = memoryview(bytearray(size))
        self._used = 0

    @property
    def left(self):
        """Bytes that are left."""
        return len(self._piece) - self._used

    def take(self, count):
        """A view of `count` zero bytes; raises ``too-large`` when they are not there."""
        if count > self.left:
            raise Refused("too-large", "a model needs %d bytes, %d are left" % (count, self.left))
        view = self._piece[self._used : self._used + count]
        self._used = min(len(self._piece), self._used + (count + ALIGN - 1) // ALIGN * ALIGN)
        for i in range(count):
            view[i] = 0
        return view

    def reset(self):
        """Takes everything back: views given out before must not be used any more."""
        self._used = 0
