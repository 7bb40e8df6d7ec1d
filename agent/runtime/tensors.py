"""What every runtime gives: named signatures with tensors in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

Tensor = np.ndarray


class Runtime(Protocol):
    """A model file, loaded and ready to run. One thread at a time."""

    @property
    def name(self) -> str:
        """``litert`` or ``tflite-runtime``, as in a manifest."""

    @property
    def signatures(self) -> list[str]:
        """Names of the signatures."""

    def run(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs a signature.

        Args:
            signature: its name.
            inputs: arrays by input name, with the shape and dtype of the model.

        Returns:
            Copies of the outputs by name, in the model's shapes and dtypes (int8 stays int8).

        Raises:
            RefusedError: ``model-failed``; the runtime would not run it.
        """

    def close(self) -> None:
        """Frees the model."""
