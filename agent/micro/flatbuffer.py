"""Reads a FlatBuffer by offsets, from a file or in place, checking every offset.

Format: https://flatbuffers.dev/internals. Only what is asked for is read: a model's weights
stay where they are.
"""

import struct

from .errors import Refused

PAGE = 256


class Source:
    """Random access to the bytes of a file.

    Where the file system can show a file's bytes in place (ROMFS on memory-mapped flash),
    `memory` is a view of them and nothing is ever copied. Elsewhere `memory` is None and
    reads seek in the file, small ones through one page of cache.
    """

    def __init__(self, path):
        self._file = open(path, "rb")
        try:
            self.memory = memoryview(self._file)
        except TypeError:
            self.memory = None
        self._file.seek(0, 2)
        self.size = self._file.tell()
        self._page = bytearray(PAGE)
        self._at = -1

    def close(self):
        """Closes the file; views of it must not be used any more."""
        self.memory = None
        self._file.close()

    def check(self, offset, count):
        """Raises ``bad-model`` unless ``[offset, offset + count)`` is inside the file."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise Refused(
                "bad-model", "offset %d + %d is beyond %d bytes" % (offset, count, self.size)
            )

    def readinto(self, offset, buffer):
        """Fills `buffer` from `offset`."""
        self.check(offset, len(buffer))
        if self.memory is not None:
            buffer[:] = self.memory[offset : offset + len(buffer)]
            return
        self._file.seek(offset)
        if self._file.readinto(buffer) != len(buffer):
            raise Refused("bad-model", "the file ended at %d" % offset)

    def read(self, offset, count):
        """`count` bytes from `offset`."""
        self.check(offset, count)
        data = bytearray(count)
        self.readinto(offset, data)
        return data

    def number(self, fmt, offset):
        """One little-endian number: `fmt` is a struct letter."""
        count = struct.calcsize("<" + fmt)
        self.check(offset, count)
        if self.memory is not None:
            return struct.unpack_from("<" + fmt, self.memory, offset)[0]
        start = offset - offset % PAGE
        if offset + count > start + PAGE:
            return struct.unpack("<" + fmt, self.read(offset, count))[0]
        if start != self._at:
            self._at = -1
            self._file.seek(start)
            self._file.readinto(self._page)
            self._at = start
        return struct.unpack_from("<" + fmt, self._page, offset - start)[0]
