"""Holds resident memory down, where the C library can: gives back what was freed."""

from __future__ import annotations

import contextlib
import ctypes

_MMAP_THRESHOLD = -3
"""``M_MMAP_THRESHOLD`` of glibc's ``mallopt``."""

_LARGE_BYTES = 128 * 1024


def keep_large_blocks_apart() -> None:
    """Has glibc map each large block by itself; elsewhere nothing happens.

    By default glibc stops doing so for sizes that were freed once. Then the cache of a longer
    context lands in the heap, and the shorter one that it replaces stays there as a hole.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Calls glibc's ``malloc_trim``; elsewhere nothing happens.

    Parsing a tokenizer leaves tens of freed megabytes in the heap, which a small board needs.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
