"""What every engine of a decoder gives: a cache of keys and values that stays where it computes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from contracts.adapter import Adapter

Floats = npt.NDArray[np.float32]


Array = npt.NDArray[Any]


class CacheEngine(Protocol):
    """A loaded decoder and its cache of one context size at a time."""

    @property
    def name(self) -> str:
        """``litert`` or ``tflite-runtime``, as in a manifest."""

    def open_cache(
        self, signatures: Sequence[str], later: Sequence[str], adapter: Adapter | None = None
    ) -> dict[str, Array]:
        """The inputs that are kept from run to run, all zero; frees those of before.

        Args:
            signatures: of one context size, that are run next; one at least takes the cache.
            later: others of this size, which may be prepared when they are first run.
            adapter: that is in them.

        Returns:
            ``values`` ``[2 * layers, kv_heads, C, head_size]``, the keys of all layers, then
            their values; and ``scales`` ``[2 * layers, kv_heads, C, 1]``, where these are int8.
        """

    def use(self, signatures: Sequence[str], later: Sequence[str], adapter: Adapter | None) -> None:
        """Runs other signatures of the same context size from now on, on the same cache.

        Raises:
            RefusedError: ``model-failed``; all is as it was.
        """

    def inputs(self, signature: str) -> dict[str, Floats]:
        """The small inputs of a signature, to be filled in place before a run."""

    def run(self, signature: str) -> dict[str, Floats]:
        """Runs a signature; the outputs hold until the next run of any.

        Raises:
            RefusedError: ``model-failed``.

        Returns:
            ``new`` ``[2 * layers, kv_heads, T, head_size]``, keys, then values; and ``logits``,
            where it has them.
        """

    def close(self) -> None:
        """Frees the model and its buffers."""


_NAME: Final = re.compile(r"([kv])(?:_(scale|new))?_([0-9]{1,4})")
_STACKS: Final = {"": "values", "scale": "scales", "new": "new"}


def stacks(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of keys and values by what they are: those of keys, then of values, by layer."""
    found: dict[str, dict[tuple[str, int], str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            stack = found.setdefault(_STACKS[match[2] or ""], {})
            stack[match[1], int(match[3])] = name
    return {stack: [rows[key] for key in sorted(rows)] for stack, rows in found.items()}
