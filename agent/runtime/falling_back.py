"""An accelerator's runtime, and the processor's in its place as soon as it refuses to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.runtime.tensors import Runtime, Tensor
from contracts.errors import RefusedError


class FallingBack:
    """Runs an accelerator until it refuses, and the processor from then on.

    Args:
        accelerated: what runs.
        processor: opens the same model on the processor.
        broke: told why the accelerator runs no more.
    """

    def __init__(
        self,
        accelerated: Runtime,
        processor: Callable[[], Runtime],
        broke: Callable[[RefusedError], None],
    ) -> None:
        self._engine = accelerated
        self._processor: Callable[[], Runtime] | None = processor
        self._broke = broke

    @property
    def name(self) -> str:
        """As of :class:`agent.runtime.tensors.Runtime`."""
        return self._engine.name

    @property
    def signatures(self) -> list[str]:
        """As of :class:`agent.runtime.tensors.Runtime`."""
        return self._engine.signatures

    def run(self, signature: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :meth:`agent.runtime.tensors.Runtime.run`."""
        try:
            return self._engine.run(signature, inputs)
        except RefusedError as error:
            if self._processor is None:
                raise
            broken, self._engine = self._engine, self._processor()
            self._processor = None
            broken.close()
            self._broke(error)
        return self._engine.run(signature, inputs)

    def close(self) -> None:
        """Frees the model."""
        self._engine.close()
