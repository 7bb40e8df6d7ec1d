"""A tokenizer that makes gigabytes of a text is refused before it is used."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest

from agent.runtime.front_end import Tokenizer
from contracts.errors import RefusedError
from contracts.manifest import TokenizerFrontEnd
from contracts.tokenizer import MAX_GROWTH, check_tokenizer, growth


def made(normalizer: Any = None, decoder: Any = None) -> bytes:
    """A ``tokenizer.json`` with one step."""
    return json.dumps(
        {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": None, "post_processor": None,
            "decoder": decoder,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
        }
    ).encode()  # fmt: skip


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    """A step that replaces."""
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    """Steps one after the other."""
    return {"type": "Sequence", "normalizers": list(steps)}


def charsmap(*texts: bytes) -> dict[str, Any]:
    """A map of characters with an empty trie."""
    data = (4).to_bytes(4, "little") + b"trie" + b"\0".join(texts)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


HOSTILE = {
    "one step": replace("a", "a" * 100_000),
    "several": sequence(*[replace("a", "a" * 20)] * 4),
    "between all characters": replace("", "a" * 1000, "Regex"),
    "an empty pattern": replace("", "a" * 1000),
    "nested": sequence(sequence(replace("a", "a" * 30)), sequence(replace("a", "a" * 30))),
    "before all": {"type": "Prepend", "prepend": "x" * 1000},
    "a map of characters": charsmap(b"x" * 5000),
    "two maps": sequence(charsmap(b"x" * 30), charsmap(b"x" * 30)),
    "many of the forms": sequence(*[{"type": "NFKD"}] * 5),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_what_makes_a_text_far_longer_is_refused(name: str) -> None:
    """In a normalizer, and by the agent before it loads the tokenizer."""
    data = made(HOSTILE[name])
    with pytest.raises(RefusedError) as caught:
        Tokenizer(data, TokenizerFrontEnd("t.json", lengths=[16]))
    assert caught.value.code == "bad-tokenizer"


def test_a_decoder_is_judged_too() -> None:
    """Answers are made by it."""
    steps = [replace("a", "a" * 30)] * 2
    with pytest.raises(RefusedError, match="decoder"):
        check_tokenizer(made(decoder={"type": "Sequence", "decoders": steps}), "t")


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Later"}, {}, [], "x", 7, {"type": []}, {"type": "Replace"},
        {"type": "Replace", "pattern": {"String": 5}, "content": "x"},
        {"type": "Sequence", "normalizers": [None]}, {"type": "Sequence"},
        {"type": "Precompiled", "precompiled_charsmap": "!"},
        {"type": "Precompiled", "precompiled_charsmap": "////////"},
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(step: Any) -> None:
    """By our error, whatever it is."""
    with pytest.raises(RefusedError, match="not understood"):
        check_tokenizer(made(step), "t")
    deep: Any = step
    for _ in range(100):
        deep = sequence(deep)
    with pytest.raises(RefusedError):
        check_tokenizer(made(deep), "t")
    with pytest.raises(RefusedError, match="no tokenizer"):
        check_tokenizer(b"[" * 100_000, "t")


def test_known_kinds_of_models_pass() -> None:
    """Llama, BERT, T5 and XLM-R, ALBERT."""
    space = replace(" {2,}", " ", "Regex")
    form = charsmap(b"x" * 33)
    for step in (
        None,
        sequence({"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581")),
        {"type": "BertNormalizer", "clean_text": True, "lowercase": True},
        sequence(form, space),
        sequence(
            replace("``", '"'), replace("\'\'", '"'), {"type": "NFKD"}, {"type": "StripAccents"},
            {"type": "Lowercase"}, form, space,
        ),
    ):  # fmt: skip
        check_tokenizer(made(step), "t")
        assert step is None or growth(step) <= MAX_GROWTH


def test_what_passes_takes_bounded_memory() -> None:
    """The worst that is let through, on the longest text."""
    program = """
import resource, sys
from agent.runtime.front_end import Tokenizer
from contracts.manifest import TokenizerFrontEnd
made = Tokenizer(sys.stdin.buffer.read(), TokenizerFrontEnd("t.json", lengths=[16]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made.encode("a" * 16384)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    data = made(sequence(replace("a", "a" * 20), replace("a", "a" * 20)))
    done = subprocess.run(
        [sys.executable, "-c", program], input=data, capture_output=True, check=True
    )
    assert int(done.stdout) < 1024, "MB"
