"""What a validator says of a value, in words for people: no regular expressions, no type names."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

PATTERNS: Final = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": "a name: up to 64 of A-Z, a-z, 0-9, dot, dash and "
    "underscore, a letter or digit first",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$": "the id of an answer",
    r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$": "a version of three numbers, for example 1.0.0",
    r"^[0-9a-f]{64}$": "a SHA-256 of 64 hexadecimal digits",
    r"^([0-9a-f]{64})?$": "a SHA-256 of 64 hexadecimal digits, or nothing",
    r"^[0-9a-f]{32}$": "an id of 32 hexadecimal digits",
    r"^[A-Za-z0-9_-]{1,64}$": "a name: up to 64 of A-Z, a-z, 0-9, dash and underscore",
    r"^[A-Za-z0-9_-]{0,64}$": "a name: up to 64 of A-Z, a-z, 0-9, dash and underscore",
    r"^[0-9]{1,7}$": "the number of a token",
    r"^[A-Za-z_][A-Za-z0-9_]{0,63}$": "a variable's name: up to 64 of A-Z, a-z, 0-9 and "
    "underscore, no digit first",
    r"^cp3[0-9]{1,2}\Z": "a Python as wheels name it, for example cp313",
    r"^cp3[0-9]{1,2}$": "a Python as wheels name it, for example cp313",
    r"^[A-Za-z0-9][A-Za-z0-9_.]*(-[A-Za-z0-9_.+!]+){4,5}\.whl\Z": "the name of a wheel",
    r"^[A-Za-z0-9_]{1,40}\.(mpy|py)\Z": "the name of an .mpy or .py file",
    r"^[a-z0-9]{2,16}\Z": "a platform: 2 to 16 small letters and digits",
    r"^mpy[0-9]{2}\Z": "a version of .mpy files, for example mpy06",
    r"^(none|auto|/.{1,255})$": "none, auto, or the absolute path of a library",
    r"^([01]\d|2[0-3]):[0-5]\d$": "a time of day, for example 22:00",
    r"^[a-z-]{1,16}$": "a word of small letters",
    r"^https?://[^\s]+$": "a URL that begins with http:// or https://",
    r"^(\*|[a-z][a-z-]{0,63})$": "a kind of event in small letters, or *",
}
"""Every pattern that values are held against, and what to write."""

_TYPES: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "array": "a list",
    "object": "keys with values",
    "bytes": "base64 text",
}
_REGEX: Final = re.compile(r"`str` matching regex (.*)$")
_BOUND: Final = re.compile(r"`(str|array|object|bytes)` of length (<=|>=) ([0-9]+)")
_SIGNS: Final = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
_SIGN: Final = re.compile(r"` (<=|>=|<|>) ")
_LENGTHS: Final = {"str": "characters", "array": "entries", "object": "keys", "bytes": "bytes"}
_TYPE: Final = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$\.?(.*?)`$")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_ENUM: Final = re.compile(r"Invalid enum value (.*)")
_SHOULD: Final = "String should match pattern '"
_SHORT: Final = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?")


def of(error: Exception, kind: Any = None, document: Any = None) -> str:
    """What is wrong where, in words.

    Args:
        error: of msgspec; others are told as they are.
        kind: the type that was expected; of a choice its values are told.
        document: what was given, as plain values; of a version that is nearly one the whole is
            told.
    """
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return text
    match = _PLACE.search(text)
    place = match[1] if match else ""
    what = _what(text[: match.start()] if match else text, kind, place)
    if place.rpartition(".")[2] == "version":
        what += whole(_at(document, place))
    return f"{place}: {what}" if place else what


def pattern(message: str) -> str:
    """A message of pydantic, in words where it shows a pattern or speaks of inputs."""
    if message == "Extra inputs are not permitted":
        return "this key is not known"
    if not message.startswith(_SHOULD):
        return message
    words = PATTERNS.get(message.removeprefix(_SHOULD).removesuffix("'"))
    return f"expected {words}" if words else message


def whole(value: Any) -> str:
    """How a version is written that has fewer than three numbers; empty for any other value."""
    match = None if isinstance(value, bool) else _SHORT.fullmatch(str(value))
    return f'; for {match[0]} write "{match[1]}.{match[2] or 0}.0"' if match else ""


def _what(text: str, kind: Any, place: str) -> str:
    if match := _MISSING.fullmatch(text):
        return f"{match[1]!r} is missing"
    if match := _UNKNOWN.fullmatch(text):
        import difflib  # an agent does without until something is wrong

        fields = [one.encode_name for kind_ in _types(kind, place) for one in _fields(kind_)]
        near = difflib.get_close_matches(match[1][:60], fields, n=1)
        return f"the key {match[1]!r} is not known" + (f"; is {near[0]} meant?" if near else "")
    if match := _ENUM.fullmatch(text):
        known = _choices(kind, place)
        return f"expected one of {', '.join(known)}, found {match[1]}" if known else text
    if match := _REGEX.search(text):
        words = {repr(one): words for one, words in PATTERNS.items()}.get(match[1])
        return f"expected {words}" if words else text
    text = _BOUND.sub(lambda m: f"{_SIGNS[m[2]]} {m[3]} {_LENGTHS[m[1]]}", text)
    text = _SIGN.sub(lambda m: f"` of {_SIGNS[m[1]]} ", text)
    text = _TYPE.sub(lambda m: " or ".join(_TYPES.get(t, t) for t in m[1].split(" | ")), text)
    return text.replace("Expected ", "expected ").replace(", got ", ", found ")


def _at(document: Any, place: str) -> Any:
    for key in place.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document


@functools.cache
def _info(kind: Any) -> msgspec.inspect.Type:
    """Looked up once: that takes milliseconds."""
    return msgspec.inspect.type_info(kind)


def _choices(kind: Any, place: str) -> list[str]:
    """The values of a choice below a structure; none: it is not found."""
    return [
        str(value)
        for one in _types(kind, place)
        if isinstance(one, msgspec.inspect.LiteralType)
        for value in one.values
    ]


def _types(kind: Any, place: str) -> list[Any]:
    """What may stand at a place below a structure; none: it is not found."""
    if kind is None:
        return []
    types = _parts([_info(kind)])
    for key in filter(None, re.sub(r"\[[^]]*\]", "", place).split(".")):
        found = [one.type for kind_ in types for one in _fields(kind_) if one.encode_name == key]
        types = _parts(found)
    return types


def _fields(kind: Any) -> Sequence[msgspec.inspect.Field]:
    return getattr(kind, "fields", ())


def _parts(types: list[Any]) -> list[Any]:
    """Types with what is inside unions, lists and objects of any keys."""
    found: list[Any] = []
    for one in types:
        if isinstance(one, msgspec.inspect.UnionType):
            found += _parts(list(one.types))
        elif isinstance(one, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
            found += _parts([one.item_type])
        elif isinstance(one, msgspec.inspect.DictType):
            found += _parts([one.value_type])
        else:
            found.append(one)
    return found
