"""The texts in an answer, however the model wrote them down."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Final

_MOST: Final = 200
"""Texts that are taken from one answer."""

_STRING: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"(?!\s*:)')
_ITEM: Final = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+(.*\S)\s*$")
_KEYS: Final = ("text", "texts", "message", "sentence", "utterance", "query", "content")
_QUOTES: Final = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "‘": "’", "`": "`"}


def texts_of(answer: str) -> list[str]:
    """Texts of an answer: JSON in any shape, JSON that is cut off, or a list with marks.

    Nothing is taken from an answer of another kind, such as an apology.
    """
    whole = _document(answer)
    if whole is not None:
        found = _strings(whole)
    elif any(mark in answer for mark in "[{"):
        found = _broken(answer)
    else:
        found = [m[1] for line in answer.splitlines() if (m := _ITEM.match(line))]
        found = found if len(found) > 1 else []
    return [text for text in (tidy(one) for one in found[:_MOST]) if text]


def tidy(text: str) -> str:
    """One line, composed (NFC), without marks of a list and without quotes around it."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    item = _ITEM.match(text)
    text = item[1] if item else text
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def _document(answer: str) -> Any:
    """The first JSON list or object that is whole, with whatever stands around it; or None."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"[\[{]", answer):
        try:
            return decoder.raw_decode(answer, match.start())[0]
        except (ValueError, RecursionError):
            if answer[match.start()] == "{":
                return None  # what is inside a broken object is no list of texts by itself
    return None


def _strings(value: Any) -> list[str]:
    """Texts in a document: a list of strings, of objects with one, or an object of such."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        if lists:
            return _strings(max(lists, key=len))
        named = [value[key] for key in _KEYS if isinstance(value.get(key), str)]
        return named[:1] or [item for item in value.values() if isinstance(item, str)]
    return []


def _broken(answer: str) -> list[str]:
    """The whole strings of JSON that is cut off or has a fault; no names of keys."""
    found: list[str] = []
    for match in _STRING.finditer(answer, max(0, answer.find("["))):
        try:
            found.append(json.loads(f'"{match[1]}"'))
        except ValueError:
            continue
    return found
