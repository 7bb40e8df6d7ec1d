"""Deltas between two versions of a file: zstd with the old file as raw-content dictionary.

A delta is ``deltas/{from_sha256}-{to_sha256}.zst`` in the repository. It saves bytes, never
trust: what it gives is checked against the manifest's sha256 like any other download.
Format: RFC 8878; the dictionary is the old file as it is ("raw content").
"""

from __future__ import annotations

from typing import Final

import zstandard

from contracts.errors import InputError

LEVEL: Final = 19
MAX_WINDOW_BYTES: Final = 1 << 27
"""Bytes of the window that a decoder must accept; also the largest old file worth a delta."""


def path(old_sha256: str, new_sha256: str) -> str:
    """The repository path of the delta between two files."""
    return f"deltas/{old_sha256}-{new_sha256}.zst"


def make(old: bytes, new: bytes) -> bytes | None:
    """A delta that turns `old` into `new`; None when it would save less than a tenth."""
    if not old or not new or len(old) > MAX_WINDOW_BYTES:
        return None
    window = max(10, min(27, (len(old) + len(new)).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=window, enable_ldm=len(old) > 1 << 22
    )
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    packed = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(
        new
    )
    return packed if len(packed) < 0.9 * len(new) else None


def apply(old: bytes, packed: bytes, size: int) -> bytes:
    """The new file.

    Args:
        old: the file that the delta was made from.
        packed: the delta.
        size: bytes of the new file; more are never produced.

    Raises:
        InputError: ``bad-delta``; damaged, of other files, or of another size.
    """
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    decoder = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=MAX_WINDOW_BYTES)
    try:
        with decoder.stream_reader(packed) as reader:
            data = reader.read(size + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise InputError("bad-delta", f"the delta cannot be applied: {error}") from None
    if len(data) != size:
        raise InputError("bad-delta", f"the delta gives {len(data)} bytes or more, not {size}")
    return data
