"""A TensorFlow Lite file with some of its signatures only, without a copy of it.

LiteRT prepares every signature of a file when it loads it, megabytes each, whether or not it
is ever run. The view is a private map of the file in which the two lists of signatures and
subgraphs are shortened: a few pages become the process's own, the rest stays the file's.

Layout: FlatBuffers, https://flatbuffers.dev/internals/; schema: TensorFlow Lite, version 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from pathlib import Path

_SUBGRAPHS, _SIGNATURES = 2, 7
"""Fields of ``Model``."""
_KEY, _SUBGRAPH_INDEX = 2, 4
"""Fields of ``SignatureDef``."""


class _Table:
    """A table of the file: finds its fields."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self._data = data
        self.at = at
        vtable = at - struct.unpack_from("<i", data, at)[0]
        size = struct.unpack_from("<H", data, vtable)[0]
        self._offsets = struct.unpack_from(f"<{(size - 4) // 2}H", data, vtable + 4)

    def field(self, number: int) -> int:
        """Where a field's value is; 0 when the file leaves it out."""
        offset = self._offsets[number] if number < len(self._offsets) else 0
        return self.at + offset if offset else 0

    def follow(self, number: int) -> int:
        """Where a field's vector, string or table is."""
        at = self.field(number)
        if not at:
            raise ValueError("not a model with signatures")
        return _follow(self._data, at)


def _number(data: mmap.mmap, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _follow(data: mmap.mmap, at: int) -> int:
    return at + _number(data, at)


def _tables(data: mmap.mmap, vector: int) -> list[_Table]:
    starts = range(vector + 4, vector + 4 + 4 * _number(data, vector), 4)
    return [_Table(data, _follow(data, start)) for start in starts]


def view_signatures(path: Path, names: Collection[str] | None) -> mmap.mmap:
    """The file's bytes with only the signatures `names` (None: with all).

    Raises:
        ValueError: it is no model file, or lacks one of them.
        OSError: it cannot be mapped.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        if names is not None:
            _shorten(data, names)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no model file: {error}") from None
    return data


def _shorten(data: mmap.mmap, names: Collection[str]) -> None:
    model = _Table(data, _follow(data, 0))
    subgraphs, signatures = model.follow(_SUBGRAPHS), model.follow(_SIGNATURES)
    bodies = _tables(data, subgraphs)
    chosen: list[tuple[int, _Table]] = []
    for table in _tables(data, signatures):
        key = table.follow(_KEY)
        if data[key + 4 : key + 4 + _number(data, key)].decode() in names:
            at = table.field(_SUBGRAPH_INDEX)
            chosen.append((_number(data, at) if at else 0, table))
    if len(chosen) != len(names):
        raise ValueError(f"the model lacks one of the signatures {', '.join(sorted(names))}")
    # In the file's order: an index of 0 is left out of the file, and must then stay 0.
    chosen.sort(key=lambda row: row[0])
    for index, (old, table) in enumerate(chosen):
        for vector, target in ((subgraphs, bodies[old]), (signatures, table)):
            entry = vector + 4 + 4 * index
            struct.pack_into("<I", data, entry, target.at - entry)
        at = table.field(_SUBGRAPH_INDEX)
        if at:
            struct.pack_into("<I", data, at, index)
    for vector in (subgraphs, signatures):
        struct.pack_into("<I", data, vector, len(chosen))
