"""How a GGUF file's text is cut before its merges, by the name that the file gives it."""

from __future__ import annotations

import pytest

from contracts.errors import InputError
from model_builder.generate.gguf_source import GgufTokenizer
from model_builder.generate.tokenizer import build_tokenizer

TEXT = "It's 12345, a (b)==c\n x"


def source(pre: str) -> GgufTokenizer:
    """A tokenizer of one merge that is cut as `pre` says."""
    return GgufTokenizer(
        model="gpt2",
        pre=pre,
        tokens=["a", "b", "ab"],
        kinds=[],
        merges=["a b"],
        scores=[],
        bos_id=None,
        end_ids=[],
        add_bos=False,
        add_space_prefix=False,
        chat_template=None,
    )


# Pieces as llama.cpp cuts them: its vocabularies of these names, and what it makes of texts with
# them, gave the same tokens as ours.
@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("dbrx", "It|'s| |123|45|,| a| (|b|)==|c|\n| x"),
        ("falcon3", "It|'s| |123|45|,| a| (|b|)==|c|\n| x"),
        ("llama4", "It's| |123|45|,| a| (|b|)==|c|\n| x"),
        ("megrez", "It|'s| |1|2|3|4|5|,| a| (|b|)==|c|\n| x"),
        ("qwen35", "It|'s| |1|2|3|4|5|,| a| (|b|)==|c|\n| x"),
        ("minerva-7b", "It|'s| |1|2|3|4|5|,| a| (|b|)==|c|\n| x"),
        ("mpt", "It|'s| 12345|,| a| (|b|)==|c|\n| x"),
        ("deepseek-coder", "It|'|s| |1|2|3|4|5|,| a| (|b|)|==|c|\n| x"),
        ("falcon", "It|'|s| |123|45|,| a| |(|b|)==|c|\n| x"),
        ("default", "It|'|s| |123|45|,| a| |(|b|)==|c|\n| x"),
    ],
)
def test_text_is_cut_as_the_file_says(pre: str, pieces: str) -> None:
    """OLMo 2, Granite 4 and Phi-4 say ``dbrx``; a converter that knew none said ``default``."""
    cut = build_tokenizer(source(pre)).pre_tokenizer
    assert cut is not None
    found = [TEXT[start:stop] for _, (start, stop) in cut.pre_tokenize_str(TEXT)]
    assert found == pieces.split("|")


def test_only_families_that_join_accents_do() -> None:
    """Qwen 2 and 3 read a letter and its accent as one; Qwen 3.5 reads what is written."""
    assert build_tokenizer(source("qwen2")).normalizer is not None
    assert build_tokenizer(source("qwen35")).normalizer is None


@pytest.mark.parametrize(("pre", "said"), [("", "does not say how"), ("nobody-knows", "unknown")])
def test_a_file_that_does_not_say_how_is_refused(pre: str, said: str) -> None:
    """Any way of cutting would give other tokens than the model learnt, and nobody would know."""
    with pytest.raises(InputError, match=said) as caught:
        build_tokenizer(source(pre))
    assert caught.value.code == "unknown-tokenizer"
