"""Text to ids, as the manifest says: hashed n-grams or a ``tokenizer.json``."""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np

from agent.runtime.tensors import Tensor
from contracts import limits
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.manifest import AlphabetFrontEnd, BaseFrontEnd, NgramFrontEnd, TokenizerFrontEnd
from contracts.text import NgramConfig, ngram_ids
from contracts.tokenizer import load, probe, told


class Encoded(msgspec.Struct, frozen=True):
    """A text as the model takes it.

    Attributes:
        ids: int32[1, L].
        used: how many of them are not padding.
        truncated: the text was longer than the model's window.
    """

    ids: Tensor
    used: int
    truncated: bool


class FrontEnd(Protocol):
    """Turns a text into ids."""

    def encode(self, text: str) -> Encoded:
        """Encodes one text; raises ``InputError`` when it is over the protocol's cap."""

    def probe(self) -> None:
        """Encodes texts that may take long, where the process may be ended for it."""


def check_text(text: str) -> None:
    """Refuses what is over the cap or is not a text.

    Raises:
        InputError: ``too-large`` or ``bad-text``.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InputError("bad-text", "the text holds half a surrogate pair: not UTF-8") from None
    if size > limits.MAX_TEXT_BYTES:
        raise InputError(
            "too-large", f"the text has {size} bytes; at most {limits.MAX_TEXT_BYTES} are accepted"
        )


class HashedNgrams:
    """Hashed n-grams; see :mod:`contracts.text`."""

    def __init__(self, config: NgramConfig) -> None:
        self._config = config

    def probe(self) -> None:
        """Nothing: n-grams take a time that the text's length bounds."""

    def encode(self, text: str) -> Encoded:
        """``ids``: int32[1, config.length]."""
        check_text(text)
        ids, truncated = ngram_ids(text, self._config)
        array = np.array([ids], dtype=np.int32)
        return Encoded(array, int(np.count_nonzero(array)), truncated)


class Tokenizer:
    """A Hugging Face tokenizer; the ids are padded to the smallest bucket that holds them.

    Args:
        data: bytes of ``tokenizer.json``.
        config: the manifest's front end.

    Raises:
        InputError, RefusedError: ``bad-tokenizer``.
    """

    def __init__(self, data: bytes, config: TokenizerFrontEnd) -> None:
        self._tokenizer = load(data, config.file)
        if not config.lengths:
            raise InputError("bad-manifest", "a tokenizer front end for a classifier needs lengths")
        self._lengths = sorted(config.lengths)
        self._pad = config.pad_id

    def probe(self) -> None:
        """As :func:`contracts.tokenizer.probe`."""
        probe(self._tokenizer, "the tokenizer")

    def encode(self, text: str) -> Encoded:
        """``ids``: int32[1, L] with L one of the manifest's lengths."""
        check_text(text)
        with told("the tokenizer"):
            ids = self._tokenizer.encode(text).ids
        longest = self._lengths[-1]
        truncated = len(ids) > longest
        if truncated:  # keep the closing special token, which the model was trained with
            ids = [*ids[: longest - 1], ids[-1]]
        length = next(n for n in self._lengths if n >= len(ids))
        array = np.full((1, length), self._pad, dtype=np.int32)
        array[0, : len(ids)] = ids
        return Encoded(array, len(ids), truncated)


def open_front_end(bundle: Bundle) -> FrontEnd:
    """The front end of a classify bundle.

    Raises:
        InputError: ``bundle-corrupt``, ``bad-tokenizer``.
    """
    kind = bundle.manifest.front_end
    if isinstance(kind, NgramFrontEnd):
        return HashedNgrams(kind.config)
    if isinstance(kind, AlphabetFrontEnd):
        raise InputError("wrong-front-end", f"{bundle.path} is a generator for microcontrollers")
    if isinstance(kind, BaseFrontEnd):
        raise InputError("wrong-front-end", f"{bundle.path} is an adapter of a generator")
    return Tokenizer(bundle.read(kind.file), kind)
