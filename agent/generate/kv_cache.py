"""Keys and values of a text, in the runtime's own buffers: float32, or int8 with scales.

An int8 cache takes a quarter of the memory. Each vector of a head has a scale of its own, as in
the blocks of GGUF's Q8_0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agent.generate.caches import Array, Floats
from contracts.manifest import GeneratorFacts

_LARGEST = 127
_SMALLEST_SCALE = np.float32(1e-30)


class KvCache:
    """Views of an engine's buffers.

    Args:
        tensors: as :meth:`agent.generate.caches.CacheEngine.open_cache` gives them.
        facts: the model's shape.
    """

    def __init__(self, tensors: Mapping[str, Array], facts: GeneratorFacts) -> None:
        self._compact = facts.cache == "int8"
        # Rows are keys of all layers, then values; positions are the third axis.
        self._values = tensors["values"]
        self._parts = [self._values] + ([tensors["scales"]] if self._compact else [])

    @staticmethod
    def bytes_of(count: int, facts: GeneratorFacts) -> int:
        """Bytes that :meth:`kept` takes for `count` tokens."""
        vector = facts.head_size + 4 if facts.cache == "int8" else 2 * facts.head_size
        return 2 * facts.layers * facts.kv_heads * count * vector

    def write(self, new: Floats, start: int, count: int) -> None:
        """Takes the new slices of a run.

        Args:
            new: as :meth:`agent.generate.caches.CacheEngine.run` gives them.
            start: of the positions.
            count: of the slices.
        """
        stop = start + count
        if not self._compact:
            self._values[:, :, start:stop] = new[:, :, :count]
            return
        # All at once for a token: a call of NumPy costs more than its work on a few vectors.
        # For many the floats in between would be as large as the model's activations.
        step = len(new) if count == 1 else 1
        for first in range(0, len(new), step):
            rows = slice(first, first + step)
            made = _compact(new[rows, :, :count])
            for part, values in zip(self._parts, made, strict=True):
                part[rows, :, start:stop] = values

    def copy(self, count: int) -> list[Array]:
        """The first `count` positions, exactly."""
        return [part[:, :, :count].copy() for part in self._parts]

    def kept(self, count: int) -> list[Array]:
        """The first `count` positions, to be kept for long: floats in float16."""
        if self._compact:
            return self.copy(count)
        return [part[:, :, :count].astype(np.float16) for part in self._parts]

    def restore(self, parts: list[Array], count: int) -> None:
        """Takes back the first `count` positions of what :meth:`copy` or :meth:`kept` gave."""
        for mine, part in zip(self._parts, parts, strict=True):
            mine[:, :, :count] = part[:, :, :count]


def _compact(new: Floats) -> tuple[Array, Floats]:
    """int8 ``[..., size]`` and scales ``[..., 1]`` of float32 ``[..., size]``."""
    scales = np.abs(new).max(-1, keepdims=True) / np.float32(_LARGEST)
    np.maximum(scales, _SMALLEST_SCALE, out=scales)
    return np.rint(new / scales).astype(np.int8), scales
