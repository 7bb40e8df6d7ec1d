"""The hashed n-gram front end: text -> int32 ids, the same on every device.

Only integer arithmetic and simple case rules, so that MicroPython (which knows ASCII case
alone) can do the same: see ``agent/micro`` and the vectors in
``tests/contracts/ngram_vectors.json``, which every implementation replays.

A text is normalised, cut into words, and every word gives, in this order: its own id, the
id of the pair with the word before, and the ids of its character n-grams. A feature's id is
``1 + fnv1a(kind, bytes) % (buckets - 1)``; id 0 is padding. Punctuation separates words; with
`marks` each mark is a word too.

FNV-1a, 32 bit: G. Fowler, L. C. Noll, K.-P. Vo, "The FNV Non-Cryptographic Hash Algorithm"
(draft-eastlake-fnv).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final

import msgspec

FNV_OFFSET: Final = 0x811C9DC5
FNV_PRIME: Final = 0x01000193
_MASK: Final = 0xFFFFFFFF

# A feature's kind is the first byte that is hashed.
_WORD: Final = 0x01
_PAIR: Final = 0x02
_CHARS: Final = 0x03


class NgramConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which n-grams are hashed to where.

    Attributes:
        buckets: rows of the embedding table; ids are in ``[0, buckets)`` and 0 is padding.
        length: ids of one text (L); more are cut off, fewer are padded with 0.
        char_min, char_max: lengths of character n-grams, in code points of the word with a
            space on both sides; ``char_max`` 0 means none.
        pairs: also hash each pair of neighbouring words.
        marks: punctuation marks and signs are words, not only what separates words.
    """

    buckets: Annotated[int, msgspec.Meta(ge=16, le=2**24)] = 4096
    length: Annotated[int, msgspec.Meta(ge=4, le=4096)] = 128
    char_min: Annotated[int, msgspec.Meta(ge=1, le=8)] = 3
    char_max: Annotated[int, msgspec.Meta(ge=0, le=8)] = 4
    pairs: bool = True
    marks: bool = False


def _fold(code: int) -> int:
    """One code point: lower case by simple ranges; 0x20 for what separates words."""
    if code < 0x80:
        if 0x41 <= code <= 0x5A:
            return code + 32
        if 0x61 <= code <= 0x7A or 0x30 <= code <= 0x39 or code == 0x27:
            return code
        return 0x20
    if code < 0x180:
        if 0xC0 <= code <= 0xDE and code != 0xD7:
            return code + 32
        if code < 0xC0:
            return code if code in (0xAA, 0xB5, 0xBA) else 0x20
        if 0x100 <= code <= 0x137 or 0x14A <= code <= 0x177:
            return code | 1
        if 0x139 <= code <= 0x148 or 0x179 <= code <= 0x17E:
            return code + 1 if code & 1 else code
        return 0x20 if code in (0xD7, 0xF7) else code
    if 0x391 <= code <= 0x3A9:
        return code + 32
    if 0x410 <= code <= 0x42F:
        return code + 32
    if 0x400 <= code <= 0x40F:
        return code + 80
    if 0xFF01 <= code <= 0xFF5E:
        return _fold(code - 0xFEE0)
    if 0xD800 <= code <= 0xDFFF:  # half of a pair: no character, and no UTF-8
        return 0x20
    if 0x2000 <= code <= 0x206F or 0x3000 <= code <= 0x303F:
        return 0x27 if code == 0x2019 else 0x20
    return code


class _FoldTable(dict[int, int]):
    """For `str.translate`: the common letters are stored, the rest is worked out."""

    def __missing__(self, code: int) -> int:
        return _fold(code)


_FOLD: Final = _FoldTable({code: _fold(code) for code in range(0x530)})


def _mark(code: int) -> int:
    """What separates words and is seen: the mark, of full width as ASCII; 0: it is none."""
    if 0xFF01 <= code <= 0xFF5E:
        code -= 0xFEE0
    if _fold(code) != 0x20:
        return 0
    seen = (
        0x21 <= code <= 0x7E
        or 0xA1 <= code <= 0xF7
        or 0x2010 <= code <= 0x2027
        or 0x2030 <= code <= 0x205E
        or 0x3001 <= code <= 0x303F
    )
    return code if seen else 0


def _apart(code: int) -> int | str:
    mark = _mark(code)
    return f" {chr(mark)} " if mark else _fold(code)


class _MarkTable(dict[int, "int | str"]):
    """The same, with marks as words."""

    def __missing__(self, code: int) -> int | str:
        return _apart(code)


_MARKS: Final = _MarkTable({code: _apart(code) for code in range(0x530)})


def normalize(text: str, marks: bool = False) -> str:
    """Lower-cases by simple ranges, turns punctuation into spaces, joins words with one space.

    Latin, Greek and Cyrillic letters are lower-cased, full-width forms become ASCII, all
    other letters stay as they are. With `marks` each punctuation mark is a word.
    """
    return " ".join(_words(text, marks))


def _words(text: str, marks: bool = False) -> list[str]:
    return [word for word in text.translate(_MARKS if marks else _FOLD).split(" ") if word]


def fnv1a(data: bytes, state: int = FNV_OFFSET) -> int:
    """FNV-1a, 32 bit, of `data`, going on from `state`."""
    for byte in data:
        state = ((state ^ byte) * FNV_PRIME) & _MASK
    return state


def ngram_ids(text: str, config: NgramConfig) -> tuple[list[int], bool]:
    """The ids of `text`.

    Args:
        text: any text.
        config: which n-grams, how many buckets, how long.

    Returns:
        ids: `config.length` ints in ``[0, config.buckets)``, padded with 0 at the end.
        truncated: True when the text gave more ids than fit.
    """
    ids: list[int] = []
    room = config.length
    modulus = config.buckets - 1
    previous = ""
    for word in _words(text, config.marks):
        if len(ids) >= room:
            return ids[:room], True
        own = _word_ids(word, modulus, config.char_min, config.char_max)
        if config.pairs and previous:
            ids.append(own[0])
            ids.append(_pair_id(previous, word, modulus))
            ids += own[1:]
        else:
            ids += own
        previous = word
    missing = room - len(ids)
    if missing < 0:
        return ids[:room], True
    ids += [0] * missing
    return ids, False


# Words repeat (Zipf), and hashing is the cost: the last few thousand are remembered.
_REMEMBERED: Final = 8192
_LONGEST: Final = 40
"""Characters of a word that is worth remembering; it also bounds what the memory holds."""


def _word_ids(word: str, modulus: int, low: int, high: int) -> list[int]:
    if len(word) > _LONGEST:
        return _hash_word(word, modulus, low, high)
    return _remembered_word(word, modulus, low, high)


def _pair_id(first: str, second: str, modulus: int) -> int:
    if len(first) + len(second) > _LONGEST:
        return _hash_pair(first, second, modulus)
    return _remembered_pair(first, second, modulus)


def _hash_word(word: str, modulus: int, low: int, high: int) -> list[int]:
    """A word's own id, then those of its character n-grams by start, then by length."""
    ids = [1 + fnv1a(word.encode(), _START_WORD) % modulus]
    if high:
        pieces = [b" ", *(char.encode() for char in word), b" "]
        count = len(pieces)
        for first in range(count):
            state = _START_CHARS
            for index in range(first, min(first + high, count)):
                for byte in pieces[index]:
                    state = ((state ^ byte) * FNV_PRIME) & _MASK
                if index - first + 1 >= low:
                    ids.append(1 + state % modulus)
    return ids


def _hash_pair(first: str, second: str, modulus: int) -> int:
    return 1 + fnv1a(f"{first} {second}".encode(), _START_PAIR) % modulus


_START_WORD: Final = fnv1a(bytes([_WORD]))
_START_PAIR: Final = fnv1a(bytes([_PAIR]))
_START_CHARS: Final = fnv1a(bytes([_CHARS]))
_remembered_word = lru_cache(_REMEMBERED)(_hash_word)
_remembered_pair = lru_cache(_REMEMBERED)(_hash_pair)
