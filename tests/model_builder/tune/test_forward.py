"""The decoder that is trained, against the float reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_builder.generate import reference
from model_builder.tune.packing import Coded, Packer
from tests.model_builder.generate.test_oracle import CASES, IDS, folder
from tests.support.tiny_decoder import tiny_weights


def _logits(weights, pairs: list[Coded], variables=None, scale=2.0, half=False):
    from model_builder.tune.forward import Decoder

    packer = Packer(pairs, 64, weights.config.trained_context)
    (batch,) = packer.batches(pairs)
    decoder = Decoder(weights, variables or {}, scale, half=half, length=packer.length)
    made = decoder(batch.ids, batch.positions, batch.segments, batch.at).numpy()
    return made[batch.counts > 0]


@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_computes_what_the_reference_computes_for_each_family(
    tmp_path: Path, case: str
) -> None:
    """Logits within 1e-3, at every place of the text."""
    from model_builder.generate.safetensors_source import HfFolder

    weights = HfFolder(folder(case, tmp_path)).weights()
    ids = [int(i) for i in IDS[: weights.config.trained_context]]
    found = _logits(weights, [Coded(ids[:1], ids[1:])])
    expected = reference.logits(weights, np.array(ids))[:-1]
    assert np.abs(found - expected).max() < 1e-3


def test_a_packed_pair_computes_what_it_computes_alone() -> None:
    """Pairs of a row see their common beginning and themselves, nothing else."""
    weights = tiny_weights(bias=True)
    rng = np.random.default_rng(3)
    begin = [int(i) for i in rng.integers(0, 300, 7)]
    pairs = [
        Coded([*begin, n, *map(int, rng.integers(0, 300, 3 + n))], [5, 6 + n, 7]) for n in range(4)
    ]
    packed = _logits(weights, pairs)
    alone = [
        reference.logits(weights, np.array(p.prompt + p.answer))[len(p.prompt) - 1 : -1]
        for p in pairs
    ]
    assert np.abs(packed - np.concatenate(alone)).max() < 1e-3
