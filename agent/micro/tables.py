"""Tables of a FlatBuffer, of which models are made; given back when a model is prepared."""

import struct

from .errors import Refused


class Table:
    """A table of the buffer at `at`."""

    def __init__(self, source, at):
        self._source = source
        self._at = at
        self._vtable = at - source.number("i", at)
        self._vtable_size = source.number("H", self._vtable)

    def _field(self, index):
        slot = 4 + 2 * index
        if slot + 2 > self._vtable_size:
            return 0
        offset = self._source.number("H", self._vtable + slot)
        return self._at + offset if offset else 0

    def number(self, index, fmt, default=0):
        """A number field, or its default where it is absent."""
        at = self._field(index)
        return self._source.number(fmt, at) if at else default

    def _target(self, index):
        at = self._field(index)
        return at + self._source.number("I", at) if at else 0

    def table(self, index):
        """A table field, or None."""
        at = self._target(index)
        return Table(self._source, at) if at else None

    def vector(self, index, size):
        """``(offset, count)`` of a vector's items of `size` bytes; ``(0, 0)`` where absent."""
        at = self._target(index)
        if not at:
            return 0, 0
        count = self._source.number("I", at)
        self._source.check(at + 4, count * size)
        return at + 4, count

    def numbers(self, index, fmt, cap):
        """A vector of numbers as a list of at most `cap`."""
        size = struct.calcsize("<" + fmt)
        at, count = self.vector(index, size)
        if count > cap:
            raise Refused("bad-model", "a vector has %d items, at most %d are read" % (count, cap))
        return [self._source.number(fmt, at + i * size) for i in range(count)]

    def tables(self, index, cap):
        """A vector of tables as a list of at most `cap`."""
        at, count = self.vector(index, 4)
        if count > cap:
            raise Refused("bad-model", "a vector has %d items, at most %d are read" % (count, cap))
        return [
            Table(self._source, at + 4 * i + self._source.number("I", at + 4 * i))
            for i in range(count)
        ]


def root(source, identifier):
    """The root table of a buffer with this 4-byte file identifier."""
    if source.size < 12 or bytes(source.read(4, 4)) != identifier:
        raise Refused("bad-model", "the file does not begin with %s" % identifier.decode())
    return Table(source, source.number("I", 0))
