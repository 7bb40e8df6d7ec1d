"""The quality student for single-board computers: the encoder itself, in dynamic int8.

Word embeddings are int8 with a scale a row, gathered as int8 and scaled in the graph, so that no
float table is ever made; the matrices become int8 by the converter (weights with a scale an
output channel, activations quantised as they come). One signature a token length; padding is
id 0 and is masked in the graph.

With fewer layers than the teacher it is the small transformer: the teacher's first layers,
trained on the teacher's labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.manifest import EMBEDDING
from model_builder import lazy_tensorflow as tf
from model_builder.convert import native_output
from model_builder.encoders.encoder import Encoder, layer_norm, masked_bias, pad_batch, pool
from model_builder.students.fakequant import LEVELS

SIGNATURE_PREFIX = "classify_"


class EncoderStudent(tf.Module):  # type: ignore[misc]
    """The encoder and its head as they are exported.

    Args:
        encoder: fine-tuned.
        weight: of the head, float32 [H, C].
        bias: of the head, float32 [C].
        lengths: token counts of the signatures.
    """

    def __init__(
        self,
        encoder: Encoder,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        lengths: Sequence[int],
    ) -> None:
        super().__init__()
        words = encoder.words.numpy()
        scale = np.abs(words).max(axis=1, keepdims=True) / LEVELS
        scale[scale == 0] = 1.0
        self.table = tf.constant(np.round(words / scale).astype(np.int8))
        self.scale = tf.constant(scale.astype(np.float32))
        self.positions = tf.constant(encoder.positions.numpy()[: max(lengths)])
        self.norm = encoder.norm
        self.eps = encoder.config.layer_norm_eps
        self.encoder = encoder  # owns the variables that the export reads
        self.blocks = encoder.blocks
        self.weight = tf.Variable(weight)
        self.bias = tf.Variable(bias)
        self.lengths = tuple(lengths)
        self._encode = tf.function(
            lambda ids, mask: encoder(ids, mask),
            input_signature=[
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None, None], tf.float32),
            ],
            autograph=False,
        )

    def __call__(self, ids: Any) -> dict[str, Any]:
        """Token ids int32 [N, T], padded with 0, to logits float32 [N, C] and embeddings [N, H].

        The embedding is computed for the logits anyway: as an output it costs nothing.
        """
        words = tf.cast(tf.gather(self.table, ids), tf.float32) * tf.gather(self.scale, ids)
        x = layer_norm(words + self.positions[: ids.shape[1]], self.norm, self.eps)
        mask = tf.cast(tf.not_equal(ids, 0), tf.float32)
        bias = masked_bias(mask)
        for block in self.blocks:
            x = block(x, bias)
        sentence = pool(x, mask)
        return {"logits": tf.matmul(sentence, self.weight) + self.bias, EMBEDDING: sentence}

    def float_logits(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Token ids of each text to float32 [N, C], with the float word embeddings."""
        longest = max(self.lengths)
        found = np.zeros((len(rows), self.weight.shape[1]), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for first in range(0, len(rows), 64):
            part = order[first : first + 64]
            ids, mask = pad_batch([list(rows[i][:longest]) for i in part], 4)
            hidden = self._encode(tf.constant(ids), tf.constant(mask))
            found[part] = (tf.matmul(hidden, self.weight) + self.bias).numpy()
        return found

    def convert(self) -> bytes:
        """The ``.tflite`` file: a signature ``classify_T`` for each length T.

        Input ``ids`` int32 [1, T], outputs ``logits`` float32 [1, C] and, after it in the
        alphabet as in the signature, the embedding float32 [1, H].
        """
        functions = {
            f"{SIGNATURE_PREFIX}{length}": tf.function(
                lambda ids: self(ids),
                input_signature=[tf.TensorSpec([1, length], tf.int32, "ids")],
                autograph=False,
            ).get_concrete_function()
            for length in self.lengths
        }
        with tempfile.TemporaryDirectory() as folder, native_output():
            tf.saved_model.save(self, folder, signatures=functions)
            converter = tf.lite.TFLiteConverter.from_saved_model(
                folder, signature_keys=list(functions)
            )
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            return bytes(converter.convert())


class EncoderRunner:
    """Runs the converted encoder with LiteRT, one text at a time, on one thread."""

    def __init__(self, model: bytes, lengths: Sequence[int]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with native_output():
            self._interpreter = Interpreter(model_content=model, num_threads=2)
            self._runners = {
                length: self._interpreter.get_signature_runner(f"{SIGNATURE_PREFIX}{length}")
                for length in sorted(lengths)
            }

    def logits(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Token ids of each text to float32 [N, C]; rows are at most the longest length."""
        found = []
        for row in rows:
            ids = self.padded(row)
            found.append(self._runners[ids.shape[1]](ids=ids)["logits"][0])
        return np.asarray(np.stack(found), np.float32)

    def padded(self, row: Sequence[int]) -> NDArray[np.int32]:
        """int32 [1, T] with the smallest T that holds the row."""
        length = next(n for n in self._runners if n >= len(row))
        ids = np.zeros((1, length), np.int32)
        ids[0, : len(row)] = row
        return ids
