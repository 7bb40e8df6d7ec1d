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
        layers = range(facts.layers)
        self._compact = facts.cache == "int8"
        self._outputs = [f"{which}_new_{i}" for which in "kv" for i in layers]
        # Positions are the second axis of each.
        self._values = [tensors[f"{which}_{i}"] for which in "kv" for i in layers]
        self._scales: list[Floats] = []
        if self._compact:
            self._scales = [tensors[f"{which}_scale_{i}"] for which in "kv" for i in layers]

    @staticmethod
    def bytes_of(count: int, facts: GeneratorFacts) -> int:
        """Bytes that :meth:`kept` takes for `count` tokens."""
        vector = facts.head_size + 4 if facts.cache == "int8" else 2 * facts.head_size
        return 2 * facts.layers * facts.kv_heads * count * vector

    def write(self, outputs: Mapping[str, Floats], start: int, count: int) -> None:
        """Takes the first `count` new slices of a run at position `start`."""
        stop = start + count
        if not self._compact:
            for values, name in zip(self._values, self._outputs, strict=True):
                values[:, start:stop] = outputs[name][:, :count]
        elif count == 1:
            # All at once: a call of NumPy costs more than its work on one vector.
            new, scales = _compact(np.stack([outputs[name][:, :1] for name in self._outputs]))
            for i, (values, kept) in enumerate(zip(self._values, self._scales, strict=True)):
                values[:, start:stop] = new[i]
                kept[:, start:stop] = scales[i]
        else:
            for values, kept, name in zip(self._values, self._scales, self._outputs, strict=True):
                values[:, start:stop], kept[:, start:stop] = _compact(outputs[name][:, :count])

    def copy(self, count: int) -> list[Array]:
        """The first `count` positions, exactly."""
        return [part[:, :count].copy() for part in self._values + self._scales]

    def kept(self, count: int) -> list[Array]:
        """The first `count` positions, to be kept for long: floats in float16."""
        if self._compact:
            return self.copy(count)
        return [part[:, :count].astype(np.float16) for part in self._values]

    def restore(self, parts: list[Array], count: int) -> None:
        """Takes back the first `count` positions of what :meth:`copy` or :meth:`kept` gave."""
        for mine, part in zip(self._values + self._scales, parts, strict=True):
            mine[:, :count] = part[:, :count]


def _compact(new: Floats) -> tuple[Array, Floats]:
    """int8 ``[..., size]`` and scales ``[..., 1]`` of float32 ``[..., size]``."""
    scales = np.abs(new).max(-1, keepdims=True) / np.float32(_LARGEST)
    np.maximum(scales, _SMALLEST_SCALE, out=scales)
    return np.rint(new / scales).astype(np.int8), scales
