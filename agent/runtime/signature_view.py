"""A TensorFlow Lite file with some of its signatures only, and an adapter, without a copy of it.

LiteRT prepares every signature of a file when it loads it, megabytes each, whether or not it
is ever run. The view is a private map of the file in which the two lists of signatures and
subgraphs are shortened, and the constants that an adapter replaces are its own: a few pages
become the process's own, the rest stays the file's.

Layout: FlatBuffers, https://flatbuffers.dev/internals/; schema: TensorFlow Lite, version 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.adapter import Adapter, Place

_SUBGRAPHS, _BUFFERS, _SIGNATURES = 2, 4, 7
"""Fields of ``Model``."""
_TENSORS = 0
"""Field of ``SubGraph``."""
_SHAPE, _BUFFER, _NAME, _QUANTIZATION = 0, 2, 3, 4
"""Fields of ``Tensor``."""
_SCALE = 2
"""Field of ``QuantizationParameters``."""
_DATA = 0
"""Field of ``Buffer``."""
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


def view_signatures(
    path: Path, names: Collection[str] | None, adapter: Adapter | None = None
) -> mmap.mmap:
    """The file's bytes with only the signatures `names` (None: with all), and an adapter in them.

    Raises:
        ValueError: it is no model file, or lacks one of them, or takes no such adapter.
        OSError: it cannot be mapped.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        if names is not None:
            _shorten(data, names)
        if adapter is not None:
            adapter.fill(_places(data, adapter.place_names))
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


def _places(data: mmap.mmap, names: Collection[str]) -> dict[str, Place]:
    """The places of an adapter, which signatures share, as writable views of `data`."""
    model = _Table(data, _follow(data, 0))
    buffers = model.follow(_BUFFERS)
    values: dict[str, npt.NDArray[np.int8]] = {}
    scales: dict[str, npt.NDArray[np.float32]] = {}
    for body in _tables(data, model.follow(_SUBGRAPHS)):
        for tensor in _tables(data, body.follow(_TENSORS)):
            name = _name(data, tensor)
            if not name.startswith("lora_") or name in values:
                continue
            index = _number(data, tensor.field(_BUFFER))
            buffer = _Table(data, _follow(data, buffers + 4 + 4 * index))
            shape = _vector(data, tensor.follow(_SHAPE), np.int32)
            values[name] = _vector(data, buffer.follow(_DATA), np.int8).reshape(shape)
            quantization = _Table(data, tensor.follow(_QUANTIZATION))
            scales[name] = _vector(data, quantization.follow(_SCALE), np.float32)
        if len(values) == 2 * len(names):
            break  # a prefill lacks those of the last layer; the others have all
    return {
        name: Place(values[f"lora_a_{name}"], scales[f"lora_a_{name}"], values[f"lora_b_{name}"])
        for name in names
        if f"lora_a_{name}" in values and f"lora_b_{name}" in values
    }


def _name(data: mmap.mmap, tensor: _Table) -> str:
    if not tensor.field(_NAME):
        return ""
    at = tensor.follow(_NAME)
    return data[at + 4 : at + 4 + _number(data, at)].decode()


def _vector(data: mmap.mmap, at: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.frombuffer(data, kind, _number(data, at), at + 4)
