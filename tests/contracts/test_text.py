"""The hashed n-gram front end gives the published ids, whatever it remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.text import NgramConfig, fnv1a, ngram_ids, normalize

VECTORS = json.loads((Path(__file__).parent / "ngram_vectors.json").read_text("utf-8"))
CONFIGS = [NgramConfig(**config) for config in VECTORS["configs"]]


@pytest.mark.parametrize(
    ("data", "state"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)]
)
def test_fnv1a_gives_the_values_of_its_specification(data: bytes, state: int) -> None:
    """Test vectors of draft-eastlake-fnv, appendix C."""
    assert fnv1a(data) == state


@pytest.mark.parametrize("case", VECTORS["normalize"], ids=lambda case: case["text"][:20])
def test_normalisation_is_as_published(case: dict[str, str]) -> None:
    """Case, punctuation and spaces of many scripts."""
    assert normalize(case["text"]) == case["normal"]


@pytest.mark.parametrize("index", range(len(CONFIGS)))
def test_ids_are_as_published(index: int) -> None:
    """Every vector of one configuration."""
    config = CONFIGS[index]
    for case in VECTORS["vectors"]:
        if case["config"] == index:
            expected = case["ids"] + [0] * (config.length - len(case["ids"]))
            assert ngram_ids(case["text"], config) == (expected, case["truncated"]), case["text"]


@settings(deadline=None)
@given(st.text(max_size=300), st.sampled_from(CONFIGS))
def test_any_text_gives_ids_of_the_right_length_and_range(text: str, config: NgramConfig) -> None:
    """No text raises, half surrogate pairs included; nothing is out of range."""
    ids, _ = ngram_ids(text, config)
    assert len(ids) == config.length
    assert all(0 <= i < config.buckets for i in ids)
    assert normalize(normalize(text)) == normalize(text)


def test_a_lone_surrogate_separates_words() -> None:
    """JSON can carry half a surrogate pair, which no UTF-8 has."""
    assert normalize("a\ud800b") == "a b"


def test_what_a_caller_does_with_the_ids_does_not_change_the_next_answer() -> None:
    """Remembered words are not handed out."""
    config = CONFIGS[0]
    first, _ = ngram_ids("turn on", config)
    expected = list(first)
    first.clear()
    assert ngram_ids("turn on", config)[0] == expected
