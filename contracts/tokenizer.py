"""How much longer a ``tokenizer.json`` may make a text: bounded before it is ever used.

A normalizer may replace each character by a hundred thousand, and several in a row multiply: a
text of 16 KB becomes gigabytes, in a library that nothing can stop half-way. What a step may do
at most is in the file, so it is worked out from there. Decoders replace, too.

Source: the format of Hugging Face tokenizers 0.2x, `normalizers` and `decoders`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from contracts.errors import RefusedError

MAX_GROWTH: Final = 400
"""Bytes that a byte of a text may become, as bounded here; the least tight known model has 363."""

_KNOWN_MAP: Final = 36
"""Bytes of the longest text in a map of the compatibility forms, which has 33."""

_DEEPEST: Final = 32

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
