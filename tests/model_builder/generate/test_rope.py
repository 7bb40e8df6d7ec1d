"""Rotary positions against the library's, key by key; what is not known is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InputError
from model_builder.generate.gguf_source import GgufFile
from model_builder.generate.rope import rope
from tests.model_builder.generate.test_gguf_oracle import write

ROPES = json.loads((Path(__file__).parent / "oracle/ropes.json").read_text())
CASES: dict[str, Any] = ROPES["cases"]


def turned(stated: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Frequencies and the factor of cosines and sines."""
    found = rope(dict(stated), "config.json", ROPES["base"], ROPES["head_dim"], ROPES["trained"])
    return found.frequencies, found.scale


@pytest.mark.parametrize("case", CASES)
def test_frequencies_are_the_librarys(case: str) -> None:
    """Also with other betas, both magnitudes, a stated factor, and places that are not whole."""
    frequencies, scale = turned(CASES[case]["stated"])
    np.testing.assert_allclose(frequencies, CASES[case]["frequencies"], rtol=1e-6)
    assert scale == pytest.approx(CASES[case]["scale"], rel=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("factor", 2.0), ("original_max_position_embeddings", 512), ("beta_fast", 64.0),
        ("beta_slow", 4.0), ("attention_factor", 0.7), ("truncate", False),
    ],
)  # fmt: skip
def test_every_key_of_yarn_changes_something(key: str, value: object) -> None:
    """So that one that is no longer read turns a case above red."""
    stated = CASES["yarn"]["stated"]
    before, after = turned(stated), turned({**stated, key: value})
    assert not np.array_equal(before[0], after[0]) or before[1] != after[1]


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "llama3", "yarn"])
@pytest.mark.parametrize("key", ["gamma", "short_factor", "mscale_half"])
def test_a_key_that_is_not_known_is_named(kind: str, key: str) -> None:
    """Whatever the kind."""
    stated = {"rope_type": kind, **CASES["llama3"]["stated"], key: 2.0}
    if kind != "llama3":
        stated = {"rope_type": kind, "factor": 4.0, key: 2.0}
    if kind == "default":
        stated.pop("factor")
    with pytest.raises(InputError, match=key):
        turned(stated)


@pytest.mark.parametrize("case", ["llama", "llama-linear", "llama-yarn"])
def test_a_factor_of_attention_in_gguf_is_refused_by_name(case: str, tmp_path: Path) -> None:
    """Readers multiply by it in different places; 1 is none."""
    key = "rope.scaling.attn_factor"
    with pytest.raises(InputError, match=f"llama.{key}"):
        GgufFile(write(case, tmp_path / "model.gguf", {key: 0.5})).config()
    (tmp_path / "one").mkdir()
    GgufFile(write(case, tmp_path / "one" / "model.gguf", {key: 1.0})).config()


@pytest.mark.parametrize("key", ["yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"])
def test_other_keys_of_yarn_in_gguf_are_refused_by_name(key: str, tmp_path: Path) -> None:
    """They change what is computed, and the library's checkpoints have none of them."""
    with pytest.raises(InputError, match=key):
        GgufFile(
            write("llama-yarn", tmp_path / "model.gguf", {f"rope.scaling.{key}": 0.5})
        ).config()


@pytest.mark.parametrize(("key", "value"), [("yarn_beta_fast", 64.0), ("yarn_beta_slow", 4.0)])
def test_the_betas_of_gguf_are_those_of_the_checkpoint(
    key: str, value: float, tmp_path: Path
) -> None:
    """As the same checkpoint's config.json says them."""
    path = write("llama-yarn", tmp_path / "model.gguf", {f"rope.scaling.{key}": value})
    stated = {**CASES["yarn"]["stated"], "original_max_position_embeddings": 32}
    stated[key.removeprefix("yarn_")] = value
    exact = rope(stated, "config.json", 1e6, 8, 256)
    np.testing.assert_allclose(GgufFile(path).config().frequencies, exact.frequencies, rtol=1e-6)
