"""Tokens to text: whole characters, stop strings across tokens, and nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from agent.generate.text_stream import TextStream
from tests.support.tiny_decoder import byte_fallback, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


FALLBACK = byte_fallback()


def decode(ids: list[int]) -> str:
    """Text of tokens."""
    return TOKENIZER.decode(ids)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, FALLBACK], ids=["byte-level", "byte-fallback"])
@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40) | st.text("ab 日本語🙂é", max_size=80))
def test_the_pieces_of_any_text_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    """Joined pieces are the whole decoding, and no piece ends in half a character."""
    ids = tokenizer.encode(text).ids
    stream = TextStream(tokenizer.decode)
    pieces = [stream.push(i) for i in ids]
    pieces.append(stream.finish())
    assert "".join(pieces) == tokenizer.decode(ids) == stream.text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 299), max_size=40))
def test_any_tokens_decode_to_what_they_decode_to_at_once(ids: list[int]) -> None:
    """Bytes that are no UTF-8 come out as the tokenizer shows them, without loss or repeat."""
    stream = TextStream(decode)
    joined = "".join([*(stream.push(i) for i in ids), stream.finish()])
    assert joined == decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_strings_are_found_across_tokens(text: str, stops: list[str]) -> None:
    """The text ends before the first stop string, however the tokens cut it."""
    ids = [i for char in text for i in TOKENIZER.encode(char).ids]
    stream = TextStream(decode, stops)
    joined = "".join([*(stream.push(i) for i in ids), stream.finish()])
    found = [text.index(s) for s in stops if s in text]
    assert joined.startswith(text[: min(found)] if found else text)
    assert not any(s in joined for s in stops)
    assert stream.stopped == bool(found)


def test_a_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    """`ab` waits while `abc` may still come, and is given out when it does not."""
    stream = TextStream(decode, ["abc"])
    a, b, x = (TOKENIZER.encode(char).ids[0] for char in "abx")
    assert [stream.push(a), stream.push(b)] == ["", ""]
    assert stream.push(x) == "abx"


@pytest.mark.parametrize("tokenizer", [TOKENIZER, FALLBACK], ids=["byte-level", "byte-fallback"])
def test_characters_of_several_tokens_are_streamed_one_by_one(tokenizer: Tokenizer) -> None:
    """Many in a row, and each goes out with its last byte."""
    text = "語🙂" * 40
    stream = TextStream(tokenizer.decode)
    pieces = [stream.push(i) for i in tokenizer.encode(text).ids]
    assert [piece for piece in pieces if piece.strip()] == list(text) and not stream.finish()
