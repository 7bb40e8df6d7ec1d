"""Runs an int8 model: plans memory once, then calls one kernel after the other.

Weights are used in place where the flash is memory-mapped, kept in memory while they fit, and
read row by row from the file otherwise.
"""

from .flatbuffer import Source
from .loan import give_back


class Interpreter:
    """A loaded model with one arena; not for two threads.

    Args:
        path: of the ``.tflite`` file.
        memory: where tensors, and weights that fit, go.

    Attributes:
        inputs, outputs: views of bytes.
        arena_bytes: of the computed tensors.

    Raises:
        Refused: ``bad-model``, ``unsupported-operator``, ``too-large``.
    """

    def __init__(self, path, memory):
        self._source = Source(path)
        try:
            from .prepare import Preparation

            ready = Preparation(self._source, memory)
        except Exception:
            self._source.close()
            raise
        finally:
            Preparation = None
            give_back("prepare", "plan", "quantize", "tflite", "tables")
        self._steps = ready.steps
        self.inputs, self.outputs = ready.inputs, ready.outputs
        self.arena_bytes = ready.arena_bytes

    def close(self):
        """Closes the file."""
        self._source.close()

    def invoke(self):
        """Runs the model from `inputs` to `outputs`."""
        for step in self._steps:
            step()
