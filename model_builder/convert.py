"""TensorFlow to TensorFlow Lite, and what the file then is.

Conversion runs in this process; the converter's chatter goes to a pipe that is dropped, so that
a build's own lines stay readable.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import InputError
from contracts.manifest import SignatureSpec, TensorSpec
from model_builder import lazy_tensorflow as tf
from model_builder.files import write_atomically as write_atomically
from model_builder.rounding import align


@contextlib.contextmanager
def native_output() -> Iterator[Callable[[], str]]:
    """Catches what C++ code writes to stderr; yields a function that returns it."""
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)

        def text() -> str:
            sink.seek(0)
            return sink.read().decode(errors="replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def to_int8(
    module: Any, call: Callable[[Any], Any], length: int, samples: NDArray[np.int32]
) -> bytes:
    """Converts a student over ids to full int8.

    Args:
        module: the `tf.Module` that owns the variables.
        call: int32 [1, L] -> float32 [1, C].
        length: L.
        samples: int32 [n, L], the representative set that fixes the activations' ranges.

    Returns:
        The ``.tflite`` file: input ``ids`` int32 [1, L], output ``logits`` int8 [1, C]. Every
        runtime computes it alike: :mod:`model_builder.rounding`.

    Raises:
        RefusedError: ``no-common-rounding``.
    """
    function = tf.function(
        lambda ids: {"logits": call(ids)},
        input_signature=[tf.TensorSpec([1, length], tf.int32, "ids")],
        autograph=False,
    )

    def converting() -> Any:
        return tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()], module
        )

    reference = converting()
    reference.experimental_lower_to_saved_model = False  # nobody asks for its signature
    converter = converting()
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_output_type = tf.int8
    with native_output():
        return align(bytes(converter.convert()), bytes(reference.convert()))


class Runner:
    """Runs a classifier's ``.tflite`` file with LiteRT, one text at a time, on one thread."""

    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            with native_output():
                self._interpreter = Interpreter(model_content=model, num_threads=1)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError("bad-model", f"LiteRT cannot load the model: {error}") from None
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self.scale, self.zero_point = self._output["quantization"]

    def quantised(self, ids: NDArray[np.int32]) -> NDArray[np.int8]:
        """Ids int32 [N, L] -> int8 [N, C]."""
        rows = []
        for row in ids:
            self._interpreter.set_tensor(self._input["index"], row[None])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._output["index"])[0])
        return np.stack(rows)

    def steps(self, logits: NDArray[np.float32]) -> NDArray[np.int8]:
        """The int8 outputs that logits of this model came from."""
        values = np.rint(logits.astype(np.float64) / self.scale) + self.zero_point
        return np.asarray(values, np.int8)

    def logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Ids int32 [N, L] -> float32 [N, C]."""
        values = self.quantised(ids).astype(np.float32) - self.zero_point
        return np.asarray(values * np.float32(self.scale), np.float32)

    def signatures(self) -> list[SignatureSpec]:
        """The model's borders, as the manifest states them."""

        def spec(name: str, detail: dict[str, Any]) -> TensorSpec:
            scale, zero = detail["quantization"]
            return TensorSpec(
                name,
                [int(n) for n in detail["shape"]],
                np.dtype(detail["dtype"]).name,
                float(scale),
                int(zero),
            )

        found = []
        for key in self._interpreter.get_signature_list():
            runner = self._interpreter.get_signature_runner(key)
            found.append(
                SignatureSpec(
                    key,
                    [spec(n, d) for n, d in runner.get_input_details().items()],
                    [spec(n, d) for n, d in runner.get_output_details().items()],
                )
            )
        return found

    def operators(self) -> list[str]:
        """Names of the operators in the file, sorted, without the runtime's own delegates."""
        details = self._interpreter._get_ops_details()  # no public way lists them
        return sorted({str(op["op_name"]) for op in details} - {"DELEGATE"})

    def parameters(self) -> int:
        """Weights in the file, counted once."""
        total = 0
        activations = {
            int(index) for op in self._interpreter._get_ops_details() for index in op["outputs"]
        }
        for detail in self._interpreter.get_tensor_details():
            if detail["index"] in activations or detail["index"] == self._input["index"]:
                continue
            total += int(np.prod(detail["shape"], dtype=np.int64))
        return total


Runtime = Literal["litert", "tflite-runtime", "tflm"]
_OLDEST_RUNTIME = (2, 14)
"""tflite-runtime's last release, which 32-bit boards have."""


def runs_on_tflite_runtime(model: bytes) -> bool:
    """Whether the newest operator version in the file is one that tflite-runtime 2.14 has.

    The converter writes ``min_runtime_version`` into the file's metadata from its table of
    operator versions.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    root = schema.Model.GetRootAs(model)
    version = b""
    for index in range(root.MetadataLength()):
        entry = root.Metadata(index)
        if entry.Name() == b"min_runtime_version":
            version = root.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    parts = version.decode(errors="replace").strip("\0 ").split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        return False
    return (int(parts[0]), int(parts[1])) <= _OLDEST_RUNTIME


def shuffled(count: int, wanted: int, rng: np.random.Generator) -> Sequence[int]:
    """At most `wanted` of `count` indices, drawn without repetition."""
    return [int(i) for i in rng.permutation(count)[:wanted]]
