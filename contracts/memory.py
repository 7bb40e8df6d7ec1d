"""Gives memory that was freed back to the system, where the C library can."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Calls glibc's ``malloc_trim``; elsewhere nothing happens.

    Parsing a tokenizer leaves tens of freed megabytes in the heap, which a small board needs; a
    training leaves gigabytes, which the steps after it need.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
