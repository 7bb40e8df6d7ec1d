"""Threads for products of matrices: one a processor, and each product in one of them.

The threads of a BLAS wait for one another busily. Where another program has one of two
processors, that makes a product three times as long as one thread needs for it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

PARTS: int = 4
"""Into which a matrix is cut, on any machine: products of other shapes are rounded otherwise."""


def processors() -> int:
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@contextlib.contextmanager
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """A pool with a thread a processor; within it, numpy and scipy compute in one each."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(processors()) as pool:
        yield pool


def shares(count: int) -> list[slice]:
    """`count` rows in `PARTS` parts, or as many as there are rows."""
    cuts = np.linspace(0, count, min(PARTS, max(count, 1)) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]
