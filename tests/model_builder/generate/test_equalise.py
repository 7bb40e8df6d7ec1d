"""Channels that are made as loud as the weights that read them: the same decoder, less rounding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_builder.generate import reference
from model_builder.generate.equalise import equalised, factors
from model_builder.generate.fold import fold, is_bound
from model_builder.generate.importer import ImportOptions, import_model
from model_builder.generate.package import Layout, build_model, facts_of
from model_builder.generate.quantize import quantize
from model_builder.generate.runner import Runner
from model_builder.generate.safetensors_source import HfFolder
from model_builder.generate.weights import DecoderWeights
from tests.model_builder.generate.test_oracle import CASES, IDS, expected, folder, with_tokenizer


def in_int8(weights: DecoderWeights) -> np.ndarray:
    """Logits of the device's graph."""
    layout = Layout(contexts=[64], prompt=[], prefill=[], score=[16])
    decoder = quantize(fold(weights))
    model, _ = build_model(decoder, layout)
    runner = Runner(model, decoder.embedding.restore(), decoder.config, facts_of(decoder, layout))
    return runner.logits(IDS)


@pytest.mark.parametrize("case", CASES)
def test_every_family_computes_what_it_did(case: str, tmp_path: Path) -> None:
    """By the library's own logits, and every matrix that may be rewritten is another."""
    weights = HfFolder(folder(case, tmp_path)).weights()
    found = equalised(weights, [IDS])
    assert np.abs(reference.logits(found, IDS) - expected(case)).max() < 1e-3
    names = ["up", "down", "v", "o"]
    if is_bound(weights):
        names += [n for n in ("q", "k", "gate") if weights.layers[0].ffn_norm is not None]
        assert np.abs(found.head - weights.head).max() > 1e-3
    for old, new in zip(weights.layers, found.layers, strict=True):
        for name in names:
            if name in ("q", "k") and old.attention_norm is None:
                continue
            assert np.abs(getattr(new, name) - getattr(old, name)).max() > 1e-3, name


@pytest.mark.parametrize(
    ("case", "where"),
    [
        ("llama", "fed"), ("llama", "values"),
        ("gemma3", "fed"), ("gemma3", "values"), ("gemma3", "normalised"),
    ],
)  # fmt: skip
def test_loud_channels_cost_no_more(case: str, where: str, tmp_path: Path) -> None:
    """Channels a hundred times as loud, read by weights a hundredth as large."""
    weights = HfFolder(folder(case, tmp_path)).weights()
    c = weights.config
    loud = {
        name: np.where(np.arange(size) % 5 == 2, 100, 1).astype(np.float32)
        for name, size in (
            ("fed", c.hidden), ("values", c.head_size), ("normalised", c.width)
        )
    }[where]  # fmt: skip
    layers = []
    for layer in weights.layers:
        if where == "fed":
            layer = dataclasses.replace(layer, up=layer.up * loud[:, None], down=layer.down / loud)
        elif where == "values":
            v = (layer.v.reshape(c.kv_heads, c.head_size, -1) * loud[:, None]).reshape(
                layer.v.shape
            )
            o = layer.o / np.tile(loud, c.heads)
            v_bias = None if layer.v_bias is None else layer.v_bias * np.tile(loud, c.kv_heads)
            layer = dataclasses.replace(layer, v=v, o=o, v_bias=v_bias)
        else:
            assert layer.ffn_norm is not None
            layer = dataclasses.replace(
                layer,
                ffn_norm=layer.ffn_norm * loud,
                gate=layer.gate / loud,
                up=layer.up / loud,
            )
        layers.append(layer)
    loud_weights = dataclasses.replace(weights, layers=layers)
    wanted = reference.logits(loud_weights, IDS)
    assert np.abs(wanted - expected(case)).max() < 1e-2, "the same decoder"

    def error(found: np.ndarray) -> float:
        return float(np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()))

    without, there = error(in_int8(loud_weights)), error(in_int8(equalised(loud_weights, [IDS])))
    plain = error(in_int8(weights))
    assert there < 1.2 * plain < without, (there, plain, without)


def test_channels_that_nothing_is_known_of_stay_finite() -> None:
    """One that is always zero, weights that are all zero, and a site that reads nothing."""
    read = np.array([0.0, 1.0, 4.0])
    for columns in (np.array([1.0, 0.0, 1.0]), np.zeros(3)):
        for values in (read, np.zeros(3)):
            found = factors(values, columns)
            assert np.isfinite(found).all()
            assert (found > 0).all()
    assert np.allclose(factors(np.ones(4), np.ones(4)), 1)
    assert np.allclose(factors(np.array([16.0, 1.0]), np.array([1.0, 1.0])), [2**0.5, 2**-0.5])


@pytest.mark.parametrize(
    ("case", "changes", "there"),
    [
        ("gemma3", {}, True),
        ("olmo2", {}, True),
        ("llama", {}, False),
        ("gemma3", {"weights": "int4"}, False),
        ("gemma3", {"calibration_tokens": 0}, False),
        ("gemma3", {"layout": Layout(contexts=[64], adapters=4)}, False),
    ],
)
def test_an_import_equalises_where_it_pays(
    case: str, changes: dict[str, Any], there: bool, tmp_path: Path
) -> None:
    """Int8, a stream that is not turned, no places for adapters, and a text to go by."""
    fields: dict[str, Any] = {
        "name": "oracle",
        "layout": Layout(contexts=[64], prompt=[], prefill=[], score=[]),
        "calibration_tokens": 256,
        "check_tokens": 64,
        "max_perplexity_change": 10.0,
    }
    source = with_tokenizer(folder(case, tmp_path), bos_token="<s>", add_bos_token=True)
    told: set[str] = set()
    options = ImportOptions(**{**fields, **changes})
    import_model(str(source), tmp_path / "out", options, lambda what, *_: told.add(what))
    assert ("equalising" in told) == there
    assert "quantising" in told
