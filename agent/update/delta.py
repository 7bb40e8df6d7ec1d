"""Applying a delta: zstd with the old file as raw-content dictionary (RFC 8878).

A delta is ``deltas/{from_sha256}-{to_sha256}.zst`` in the repository. It saves bytes, never
trust: what it gives is checked against the manifest's sha256 like any other download.
"""

from __future__ import annotations

from typing import Final

from contracts.errors import InputError

MAX_WINDOW_BYTES: Final = 1 << 27
"""Bytes of the largest window that is accepted."""


def path(old_sha256: str, new_sha256: str) -> str:
    """The repository path of the delta between two files."""
    return f"deltas/{old_sha256}-{new_sha256}.zst"


def apply(old: bytes, packed: bytes, size: int) -> bytes:
    """The new file.

    Args:
        old: the file that the delta was made from.
        packed: the delta.
        size: bytes of the new file; more are never produced.

    Raises:
        InputError: ``bad-delta``; damaged, of other files, or of another size.
    """
    import zstandard  # only a device that gets a delta pays for it

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
