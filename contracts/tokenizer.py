"""A ``tokenizer.json`` that somebody made: bounded before it is used, and then kept to it.

A normalizer may replace each character by a hundred thousand, and several in a row multiply: a
text of 16 KB becomes gigabytes, in a library that nothing can stop half-way. What a step may do
at most is in the file, so it is worked out from there. Decoders replace, and a template of special
tokens may hold the text a thousand times. Padding and truncation are switched off: lengths are ours
to give.

An expression may also go back and forth for ever. The library gives up a single match after ten
million steps, by a panic, but a text has many places to begin. How long one takes is not in the
file: :func:`probe` tries texts at which expressions like to fail, in a process that may be ended.

Source: the format of Hugging Face tokenizers 0.2x.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from contracts.errors import RefusedError, ShoalError

MAX_GROWTH: Final = 400
"""Bytes that a byte of a text may become, as bounded here; the least tight known model has 363."""

_KNOWN_MAP: Final = 36
"""Bytes of the longest text in a map of the compatibility forms, which has 33."""

_DEEPEST: Final = 32

_MAX_COPIES: Final = 4
"""Times that a text may be in what a template makes; known models have one or two."""

_MAX_SPECIAL: Final = 1000
"""Special tokens that a template may add."""

_PROBE_CHARS: Final = 8192

_FIXED: Final = {
    # Of Unicode: U+FDFA has 18 characters, 33 bytes, in the compatibility forms.
    "NFKC": 11.0, "NFKD": 11.0, "NFC": 3.0, "NFD": 4.0, "Nmt": 1.0, "Lowercase": 1.5,
    "StripAccents": 1.0, "Strip": 1.0, "ByteLevel": 2.0, "BertNormalizer": 6.0,
    # Decoders.
    "Fuse": 1.0, "ByteFallback": 3.0, "Metaspace": 3.0, "BPEDecoder": 2.0, "WordPiece": 2.0,
    "CTC": 2.0,
}  # fmt: skip


class _Parts(msgspec.Struct):
    """Those of a ``tokenizer.json`` that may make a text longer; others are not read."""

    normalizer: Any = None
    decoder: Any = None
    post_processor: Any = None


def check_tokenizer(data: bytes, what: str) -> None:
    """Refuses a tokenizer that may make a text far longer.

    Args:
        data: the ``tokenizer.json``.
        what: its name in an error.

    Raises:
        RefusedError: ``bad-tokenizer``; it is none, has an unknown step, or grows a text too much.
    """
    try:
        parts = msgspec.json.decode(data, type=_Parts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError("bad-tokenizer", f"{what} is no tokenizer: {str(error)[:200]}") from None
    for name, step in (("normalizer", parts.normalizer), ("decoder", parts.decoder)):
        if step is None:
            continue
        try:
            most = growth(step)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RefusedError(
                "bad-tokenizer", f"the {name} of {what} is not understood: {error!s:.200}"
            ) from None
        if most > MAX_GROWTH:
            raise RefusedError(
                "bad-tokenizer",
                f"the {name} of {what} makes a text up to {most:.3g} times as long; at most "
                f"{MAX_GROWTH} times is allowed",
            )

    try:
        copies, special = _added(parts.post_processor)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(
            "bad-tokenizer", f"the post_processor of {what} is not understood: {error!s:.200}"
        ) from None
    if copies > _MAX_COPIES or special > _MAX_SPECIAL:
        raise RefusedError(
            "bad-tokenizer",
            f"the post_processor of {what} puts a text {copies} times and {special} special "
            f"tokens; at most {_MAX_COPIES} and {_MAX_SPECIAL} are allowed",
        )


def load(data: bytes, what: str) -> Any:
    """A tokenizer that neither pads nor truncates.

    Args:
        data: the ``tokenizer.json``.
        what: its name in an error.

    Raises:
        RefusedError: ``bad-tokenizer``; as of :func:`check_tokenizer`, or the library refuses it.
    """
    import tokenizers  # 4 MB that hashed n-grams never need

    check_tokenizer(data, what)
    with told(what):
        made = tokenizers.Tokenizer.from_buffer(data)
        made.no_padding()
        made.no_truncation()
    return made


@contextmanager
def told(what: str) -> Iterator[None]:
    """What the library raises, as our error: bare exceptions, and panics, which are none.

    Raises:
        RefusedError: ``bad-tokenizer``.
    """
    try:
        yield
    except (ShoalError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise RefusedError("bad-tokenizer", f"{what}: {str(error)[:300]}") from None


def probe(tokenizer: Any, what: str) -> None:
    """Encodes texts at which expressions take long, or fail; in a process with limits.

    Raises:
        RefusedError: ``bad-tokenizer``; one of them cannot be encoded.
    """
    for piece in ("a", " ", "\n", "1", "'", "aA", "a ", " \n", "é", "\u4e00", "\U0001f600", "_-"):
        run = piece * (_PROBE_CHARS // len(piece))
        for text in (run, run + "!", "x" + run + "b", run[: len(run) // 2] + "\t" + run):
            with told(f"{what} cannot encode a text of {text[:2]!r} {len(text)} times"):
                tokenizer.encode(text, add_special_tokens=False)


def _added(step: Any, depth: int = 0) -> tuple[int, int]:
    """How often a post-processor may put the text, and how many special tokens.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not formed as its kind is.
    """
    if step is None:
        return 1, 0
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    kind = step["type"]
    if kind == "ByteLevel":
        return 1, 0
    if kind in ("BertProcessing", "RobertaProcessing"):
        return 2, 4
    if kind == "Sequence":
        copies, special = 1, 0
        for one in step["processors"]:
            more, added = _added(one, depth + 1)
            copies, special = min(copies * more, 1 << 60), special + added
        return copies, special
    if kind == "TemplateProcessing":
        copies, special = 0, 0
        for pieces in (step["single"], step["pair"]):
            names = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
            copies = max(copies, sum("Sequence" in piece for piece in pieces))
            ids = [len(step["special_tokens"][name]["ids"]) for name in names]
            special = max(special, sum(ids), len(names))
        return copies, special
    raise ValueError(f"{str(kind)[:60]!r} is not known")


def growth(step: dict[str, Any], depth: int = 0) -> float:
    """How many bytes one byte may become.

    Raises:
        ValueError: the kind of the step is not known, or it is nested too deeply.
        KeyError, TypeError, AttributeError: the step is not formed as its kind is.
    """
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    kind = step["type"]
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == "Sequence":
        inner: Any = step.get("normalizers", step.get("decoders"))
        if sum(one["type"] == "Precompiled" for one in inner) > 1:
            raise ValueError("more than one map of characters")
        total = 1.0
        for one in inner:
            total = min(total * growth(one, depth + 1), 1e300)
        return total
    if kind == "Replace":
        return _replaced(step["pattern"], len(step["content"].encode()))
    if kind == "Prepend":
        # Once for a text, of which there may be one byte.
        return 1.0 + len(step["prepend"].encode())
    if kind == "Precompiled":
        return _charsmap(step["precompiled_charsmap"])
    raise ValueError(f"{str(kind)[:60]!r} is not known")


def _replaced(pattern: dict[str, Any], content: int) -> float:
    """A pattern matches at each of its lengths, an expression perhaps between all characters."""
    text = pattern.get("String")
    if text is not None and text:
        return max(1.0, content / len(text.encode()))
    return 1.0 + content


def _charsmap(packed: str) -> float:
    """SentencePiece's: a trie, then the texts that replace, each behind a zero."""
    data = base64.b64decode(packed, validate=True) if packed else b""
    if len(data) < 4:
        return 1.0
    begin = 4 + int.from_bytes(data[:4], "little")
    if begin > len(data):
        raise binascii.Error("the map of characters is cut off")
    longest = max(map(len, data[begin:].split(b"\0")))
    return _FIXED["NFKC"] if longest <= _KNOWN_MAP else float(longest)
