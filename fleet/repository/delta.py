"""Patches between files of consecutive versions: zstd with the old file as the prefix.

A patch is not signed: the file it makes is checked against the sha256 in the signed manifest,
and a device takes the whole file when it does not match.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import zstandard

from contracts import limits

MAX_FILE_BYTES: Final = 64 * limits.MIB
"""Bytes of the largest file that gets a patch: a device holds the old one in memory for it."""

_LEVEL: Final = 19
_FAST_LEVEL: Final = 9
_SMALL: Final = 4 * limits.MIB
_MAX_WINDOW_LOG: Final = 27
_MAX_TABLE_LOG: Final = 26


def make(old: bytes, new: bytes) -> bytes | None:
    """The patch from `old` to `new`, or None when it would not be smaller than `new`.

    Args:
        old: what the device has.
        new: what it needs.

    Returns:
        A zstd frame that states the content size; to be opened with
        ``ZstdCompressionDict(old, dict_type=DICT_TYPE_RAWCONTENT)``.
    """
    if not old or not new or max(len(old), len(new)) > MAX_FILE_BYTES:
        return None
    level = _LEVEL if len(new) <= _SMALL else _FAST_LEVEL
    # The window must reach from the end of the new file back to the start of the old one, and
    # the match tables must be as large: zstd indexes only the end of a longer dictionary.
    window = min(_MAX_WINDOW_LOG, max(10, (len(old) + len(new)).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        window_log=window,
        hash_log=min(window, _MAX_TABLE_LOG),
        chain_log=min(window, _MAX_TABLE_LOG),
        write_content_size=True,
        write_checksum=False,
    )
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    patch = compressor.compress(new)
    return patch if len(patch) < len(new) else None


def read_capped(path: Path) -> bytes:
    """A file's bytes, or none when it is missing or over :data:`MAX_FILE_BYTES`."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return b""
        return path.read_bytes()
    except FileNotFoundError:
        return b""
