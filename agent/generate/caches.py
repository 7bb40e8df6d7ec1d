"""What every engine of a decoder gives: a cache of keys and values that stays where it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

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
        self, signatures: Sequence[str], adapter: Adapter | None = None
    ) -> dict[str, Array]:
        """The inputs that are kept from run to run, all zero; frees those of before.

        They are keys, values and their scales.

        Args:
            signatures: of one context size, that may be run until the next call.
            adapter: that is in them.
        """

    def use(self, signatures: Sequence[str], adapter: Adapter | None) -> None:
        """Runs other signatures of the same context size from now on, on the same cache.

        Raises:
            RefusedError: ``model-failed``; all is as it was.
        """

    def inputs(self, signature: str) -> dict[str, Floats]:
        """The small inputs of a signature, to be filled in place before a run."""

    def run(self, signature: str) -> dict[str, Floats]:
        """Runs a signature; the outputs hold until the next run of any."""

    def close(self) -> None:
        """Frees the model and its buffers."""


def is_kept(name: str) -> bool:
    """Whether an input is kept by the host from run to run."""
    return name.startswith(("k_", "v_"))
