"""Walks the header of a GGUF file within bounds, before a reader that believes it is let in.

The reader of the `gguf` package loops over as many items as the file says that it has, whether
they are there or not.
Format: GGUF specification of the ggml project, version 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from contracts import limits
from contracts.errors import InputError

MAX_KEYS: Final = 1 << 16
"""Keys, and tensors, of one file."""

MAX_ITEMS: Final = 1 << 22
"""Items of all arrays of one file; a tokenizer of 256,000 words has about a million."""

_MAX_DIMENSIONS: Final = 4
_MAX_ALIGNMENT: Final = 1 << 16
_STRING: Final = 8
_ARRAY: Final = 9
_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type's number."""

_NAMES: Final = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 42: "Q2_0",
}  # fmt: skip
"""Types that the `gguf` package does not know: given up, or newer."""

_OLD: Final = "of GGML's formats before GGUF; convert the model again"
_OTHERS: Final = {
    b"lmgg": _OLD,
    b"fmgg": _OLD,
    b"tjgg": _OLD,
    b"vers": "a pointer of Git LFS; fetch the file itself: git lfs pull",
}


def unread_kind(file: str, tensor: str, kind: str) -> InputError:
    """That a tensor's type cannot be read here."""
    return InputError(
        "unknown-architecture",
        f"{file}: the tensor {tensor[:100]} is of the type {kind}, which cannot be read here; take "
        "the model in another (Q8_0, Q4_K_M, F16), or write it back by llama-quantize "
        "--allow-requantize",
    )


def _other_version(version: int) -> str:
    if version == 1:
        return "of GGUF's version 1 (August 2023), which is not read; convert the model again"
    if version & 0xFFFF == 0:
        return "a big-endian GGUF file; turn it with gguf_convert_endian of the gguf package"
    return f"of GGUF's version {version}, or broken; expected version 2 or 3"


def check_header(path: Path) -> None:
    """Checks that all that the header of a file names is inside the file.

    Raises:
        InputError: ``no-such-file``, ``too-large``, ``not-gguf``.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size > limits.MAX_BUNDLE_BYTES:
                raise InputError(
                    "too-large", f"{path.name} is over {limits.MAX_BUNDLE_BYTES} bytes"
                )
            if size < 24:
                raise InputError("not-gguf", f"{path.name} is not a GGUF file, or is truncated")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _Walk(path.name, data, size).check()
    except (OSError, ValueError) as error:
        raise InputError("no-such-file", f"cannot read {path}: {error}") from None


class _Walk:
    """One pass over a header.

    Args:
        name: of the file, for errors.
        data: the file.
        size: its bytes.
    """

    def __init__(self, name: str, data: mmap.mmap, size: int) -> None:
        self._name = name
        self._data = data
        self._size = size
        self._at = 0
        self._items = 0

    def check(self) -> None:
        """Walks all of it; raises ``not-gguf``."""
        magic, version, tensors, keys = self._take("<4sIQQ")
        if magic != b"GGUF":
            raise InputError("not-gguf", f"{self._name} is {_OTHERS.get(magic, 'no GGUF file')}")
        if version not in (2, 3):
            raise InputError("not-gguf", f"{self._name} is {_other_version(version)}")
        if tensors > MAX_KEYS or keys > MAX_KEYS:
            raise self._broken(f"{tensors} tensors and {keys} keys, over {MAX_KEYS} of each")
        alignment = 32
        for _ in range(keys):
            key = self._string()
            (kind,) = self._take("<I")
            if key == b"general.alignment" and kind == 4:
                (alignment,) = struct.unpack_from("<I", self._data, self._skip(4))
            else:
                self._value(kind)
        if not 0 < alignment <= _MAX_ALIGNMENT:
            raise self._broken(f"an alignment of {alignment} bytes")
        ends = [self._tensor() for _ in range(tensors)]
        start = -(-self._at // alignment) * alignment
        if ends and start + max(ends) > self._size:
            raise self._broken(f"its tensors need {start + max(ends)} bytes, it has {self._size}")

    def _broken(self, what: str) -> InputError:
        return InputError(
            "not-gguf", f"{self._name} is broken or truncated: {what}; get the file again"
        )

    def _skip(self, count: int) -> int:
        """Moves over `count` bytes; returns where they begin."""
        at = self._at
        if count > self._size - at:
            raise self._broken(f"{count} bytes are missing at {at}")
        self._at += count
        return at

    def _take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack_from(form, self._data, self._skip(struct.calcsize(form)))

    def _string(self) -> bytes:
        (length,) = self._take("<Q")
        at = self._skip(length)
        return self._data[at : at + min(length, 64)]

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            self._array()
        elif kind in _BYTES:
            self._skip(_BYTES[kind])
        else:
            raise self._broken(f"a value of the unknown type {kind}")

    def _array(self) -> None:
        kind, count = self._take("<IQ")
        self._items += count
        if self._items > MAX_ITEMS:
            raise self._broken(f"{self._items} items in arrays, over {MAX_ITEMS}")
        if kind == _STRING:
            for _ in range(count):
                self._string()
        elif kind in _BYTES:
            self._skip(count * _BYTES[kind])
        else:
            raise self._broken(f"an array of the type {kind}")

    def _tensor(self) -> int:
        """Returns where its data end, counted from where all data begin."""
        name = self._string()
        (dimensions,) = self._take("<I")
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise self._broken(f"a tensor of {dimensions} dimensions")
        shape = self._take(f"<{dimensions}Q")
        kind, offset = self._take("<IQ")
        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            said = name.decode("utf-8", "replace")
            raise unread_kind(self._name, said, _NAMES.get(kind, str(kind))) from None
        end: int = offset + math.prod(shape) // block * size
        return end
