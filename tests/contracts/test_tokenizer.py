"""A tokenizer that makes gigabytes of a text is refused before it is used."""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
from typing import Any

import pytest

from agent.runtime.front_end import Tokenizer
from contracts.errors import RefusedError
from contracts.manifest import TokenizerFrontEnd
from contracts.tokenizer import MAX_GROWTH, check_tokenizer, growth, load
from contracts.tokenizer_probe import probe_apart


def made(normalizer: Any = None, decoder: Any = None, **parts: Any) -> bytes:
    """A ``tokenizer.json`` with one step."""
    return json.dumps(
        {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": None, "post_processor": None,
            "decoder": decoder, **parts,
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


TEXT = {"Sequence": {"id": "A", "type_id": 0}}
MARK = {"SpecialToken": {"id": "m", "type_id": 0}}


def template(pieces: list[Any], special: dict[str, Any] | None = None) -> dict[str, Any]:
    """A post-processor that puts the text into a template."""
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces,
            "special_tokens": special or {}}  # fmt: skip


def of_ids(count: int) -> dict[str, Any]:
    """Special tokens: one name for many ids."""
    return {"m": {"id": "m", "ids": [0] * count, "tokens": ["a"] * count}}


@pytest.mark.parametrize(
    "step",
    [
        template([TEXT] * 5),
        template([MARK, TEXT] + [MARK] * 1001, of_ids(1)),
        template([MARK] * 40, of_ids(40)),
        {"type": "Sequence", "processors": [template([TEXT] * 2)] * 3},
        {"type": "Later"}, {"type": "TemplateProcessing"}, {"type": "Sequence"}, [], 7,
        template([MARK]), template([{"SpecialToken": {}}]),
    ],
)  # fmt: skip
def test_a_template_that_multiplies_a_text_is_refused(step: Any) -> None:
    """A thousand copies of 16 KB are gigabytes of tokens."""
    with pytest.raises(RefusedError, match="post_processor") as caught:
        load(made(post_processor=step), "t")
    assert caught.value.code == "bad-tokenizer"


def test_templates_of_known_models_pass() -> None:
    """BERT's, RoBERTa's, Llama 3's."""
    for step in (
        template([MARK, TEXT, MARK], of_ids(1)),
        {"type": "BertProcessing", "sep": ["a", 0], "cls": ["a", 0]},
        {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
             "use_regex": True},
            template([MARK, TEXT], of_ids(1)),
        ]},
    ):  # fmt: skip
        load(made(post_processor=step), "t")


def test_neither_padding_nor_truncation_of_a_file_counts() -> None:
    """A file that pads each text to a thousand million tokens takes no memory."""
    data = made(
        pre_tokenizer={"type": "WhitespaceSplit"},
        padding={"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": 10**9,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "a"},
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 1},
    )  # fmt: skip
    assert load(data, "t").encode("a a a").ids == [0, 0, 0]
    classifier = Tokenizer(data, TokenizerFrontEnd("t.json", lengths=[4]))
    assert classifier.encode("a a a").ids.shape == (1, 4)


def split(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer that splits at an expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
            "invert": False}  # fmt: skip


PANICS = {
    "at each text": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "for ever": {"pre_tokenizer": split("(a+)+$")},
    "for ever, in a normalizer": {"normalizer": replace("(a|aa)+[^a]c", "", "Regex")},
    "at once": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
}


@pytest.mark.parametrize("name", PANICS)
def test_a_tokenizer_that_panics_is_refused_by_our_error(name: str) -> None:
    """What the library raises then is no ``Exception``, and would pass every handler."""
    with pytest.raises(RefusedError) as caught:
        made_ = Tokenizer(made(**PANICS[name]), TokenizerFrontEnd("t.json", lengths=[16]))
        made_.encode("a" * 40 + "!")
    assert caught.value.code == "bad-tokenizer"
    with pytest.raises(RefusedError) as caught:
        probe_apart(made(**PANICS[name]), "t")
    assert caught.value.code == "bad-tokenizer"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["pre_tokenizer", "normalizer"])
def test_an_expression_that_takes_minutes_is_refused_in_bounded_time(where: str) -> None:
    """Below the library's own limit at each place of the text, and far above it in all."""
    pattern = r"[a-z]{0,600}[a-z]*[^a-z]{2}$"
    step = split(pattern) if where == "pre_tokenizer" else replace(pattern, "", "Regex")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(RefusedError, match="processor time") as caught:
        probe_apart(made(**{where: step}), "t", seconds=3)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert caught.value.code == "bad-tokenizer"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 6


def test_a_tokenizer_of_a_known_kind_passes_its_probes() -> None:
    """GPT-2's expression, through the process with limits."""
    probe_apart(
        made(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False,
                            "trim_offsets": True, "use_regex": True}), "t",
    )  # fmt: skip
