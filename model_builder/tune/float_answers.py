"""Whether the float model would give the expected answers: what rounding costs is measured by it.

An answer that is the most likely token at each place, given those before it, is what greedy
decoding gives. So one pass over prompts with their answers tells it, without decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_builder import lazy_tensorflow as tf
from model_builder.generate.weights import DecoderWeights
from model_builder.teachers.base import Progress, silent
from model_builder.tune.forward import Decoder
from model_builder.tune.packing import Coded, Packer

_TOKENS = 512
"""Of a batch."""


def answers_right(
    weights: DecoderWeights, pairs: Sequence[Coded], progress: Progress = silent
) -> list[bool]:
    """For each pair, whether greedy decoding in float32 gives its answer and ends there.

    Args:
        weights: of the decoder, in float32.
        pairs: as tokens; none is longer than the model's context.
        progress: told of each batch.
    """
    if not pairs:
        return []
    packer = Packer(pairs, _TOKENS, weights.config.trained_context)
    decoder = Decoder(weights, {}, 1.0, half=False, length=packer.length)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def likeliest(ids: tf.Tensor, positions: tf.Tensor, segments: tf.Tensor, at: tf.Tensor):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return tf.argmax(decoder(ids, positions, segments, at), -1)

    found: list[np.ndarray] = []
    batches = packer.batches(pairs)
    for number, batch in enumerate(batches, 1):
        fields = (batch.ids, batch.positions, batch.segments, batch.at)
        best = np.asarray(likeliest(*map(tf.constant, fields)))
        found.append((best == batch.wanted)[batch.counts > 0])
        progress("measuring in float", number, len(batches))
    right = np.concatenate(found)
    ends = np.cumsum([len(pair.answer) for pair in pairs])
    return [bool(part.all()) for part in np.split(right, ends[:-1])]
