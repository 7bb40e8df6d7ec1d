"""What is taken out of a text before it leaves: addresses, numbers, names, the owner's patterns.

The built-in rules read a text once and take time in proportion to it. Patterns of the owner are
regular expressions, of which some take for ever: they run in a process of their own
(:mod:`agent.sharing.child`), whose processor time is bounded. If that ends, nothing leaves.

A rule finds what looks like a name, not what is one: a name in small letters stays, unless it is
among the owner's words.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Final

from contracts import interpreter
from contracts.config import RedactConfig
from contracts.errors import InputError, RefusedError
from contracts.redacted import EMAIL, LINK, NAME, NUMBER, PLACE, REDACTED

CHILD_S: Final = 20.0
"""Seconds that the owner's patterns may take in all; their process has fewer of the processor."""

_LINK: Final = re.compile(r"(?:[a-z][a-z0-9+.-]{1,15}://|www\.)\S+", re.IGNORECASE)
_EMAIL: Final = re.compile(r"[^\s@<>]{1,64}@[^\s@<>]{1,255}")
_NUMBER: Final = re.compile(r"[+(]{0,2}\d(?:[\d.,:/()+-]|[ ](?=[\d(+]))*")
_WORD: Final = re.compile(r"[^\W\d_][\w'’-]*")
_PLAIN: Final = frozenset({"I", "I'm", "I'd", "I'll", "I've", "I’m", "I’d", "I’ll", "I’ve"})
_ENDS: Final = frozenset(".!?:;\n")
_OPENS: Final = frozenset("\"'“”„«»()[]*-–—")


def check(config: RedactConfig) -> None:
    """Refuses patterns that are none.

    Raises:
        InputError: ``bad-redaction``.
    """
    for number, pattern in enumerate(config.patterns):
        try:
            compiled = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(
                "bad-redaction", f"examples.redact.patterns[{number}] is no expression: {error}"
            ) from None
        if compiled.match(""):
            raise InputError(
                "bad-redaction",
                f"examples.redact.patterns[{number}] matches the empty text: that is everywhere",
            )


def redact(texts: Sequence[str], config: RedactConfig) -> list[str]:
    """The texts as they may leave.

    Raises:
        RefusedError: ``redaction-failed``; the owner's patterns took too long. Nothing may leave.
    """
    if config.patterns and texts:
        texts = _by_patterns(texts, config.patterns)
    return [_built_in(text, config) for text in texts]


def apply(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    """What the owner's patterns find becomes ``<redacted>``; the child calls it."""
    for pattern in patterns:
        text = pattern.sub(REDACTED, text)
    return text


def _by_patterns(texts: Sequence[str], patterns: Sequence[str]) -> list[str]:
    try:
        done = subprocess.run(
            interpreter.module("agent.sharing.child"),
            input=json.dumps({"patterns": list(patterns), "texts": list(texts)}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # an error of Python may show a text
            timeout=CHILD_S,
            check=True,
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        found = None
    if not isinstance(found, list) or len(found) != len(texts):
        raise RefusedError(
            "redaction-failed",
            "the patterns of examples.redact took too long or failed: nothing leaves. "
            "Make them simpler: no repetition within a repetition",
        )
    return [str(one) for one in found]


def _built_in(text: str, config: RedactConfig) -> str:
    # What was put in its place is no text of anybody: rules go over what is between.
    pieces, last = [], 0
    for place in PLACE.finditer(text):
        pieces += [_piece(text[last : place.start()], config), place.group()]
        last = place.end()
    return "".join([*pieces, _piece(text[last:], config)])


def _piece(text: str, config: RedactConfig) -> str:
    text = _LINK.sub(LINK, text)
    text = _between(text, lambda part: _EMAIL.sub(EMAIL, part))
    words = frozenset(word.casefold() for word in config.words)
    text = _between(text, lambda part: _names(part, words, guess=config.names))
    return _between(text, lambda part: _NUMBER.sub(_as_number, part))


def _between(text: str, change: object) -> str:
    assert callable(change)
    pieces, last = [], 0
    for place in PLACE.finditer(text):
        pieces += [change(text[last : place.start()]), place.group()]
        last = place.end()
    return "".join([*pieces, change(text[last:])])


def _as_number(found: re.Match[str]) -> str:
    """Signs at its end are the sentence's."""
    whole = found.group()
    kept = whole.rstrip(".,:/(+- ")
    return NUMBER + whole[len(kept) :]


def _names(text: str, words: frozenset[str], *, guess: bool) -> str:
    """Words with a capital that does not begin a sentence, those beside them, the owner's words."""
    found = list(_WORD.finditer(text))
    loud = sum(one.group().isupper() for one in found) * 2 > len(found) > 1
    capital = [guess and not loud and _is_capital(one.group()) for one in found]
    hidden = []
    for index, one in enumerate(found):
        own = one.group().casefold() in words
        named = capital[index] and not _begins(text, one.start())
        if capital[index] and not named:  # "Anna Berger called": the first of a whole name
            after = index + 1 < len(found) and text[one.end() : found[index + 1].start()] == " "
            named = bool(after and capital[index + 1])
        if own or named:
            hidden.append(one)
    pieces, last = [], 0
    for one in hidden:
        pieces += [text[last : one.start()], NAME]
        last = one.end()
    return "".join([*pieces, text[last:]])


def _is_capital(word: str) -> bool:
    return word[0].isupper() and word not in _PLAIN


def _begins(text: str, start: int) -> bool:
    """Whether a sentence begins there."""
    before = start - 1
    while before >= 0 and (text[before] in " \t" or text[before] in _OPENS):
        before -= 1
    return before < 0 or text[before] in _ENDS
