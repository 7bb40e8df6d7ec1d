"""JSON in and out, with caps: the only place where bytes become typed values.

Decoding never raises anything but :class:`contracts.errors.InputError`.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import yaml

from contracts import limits
from contracts.errors import InputError

T = TypeVar("T")

_ENCODER = msgspec.json.Encoder(order="deterministic")


def encode(value: Any) -> bytes:
    """`value` as compact JSON (UTF-8), keys sorted, so that equal values give equal bytes."""
    return _ENCODER.encode(value)


def pretty(value: Any) -> bytes:
    """`value` as indented JSON with a final newline, for files that people read."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def _reject(what: str, error: Exception) -> InputError:
    return InputError("bad-message", f"{what} is not valid: {str(error)[:500]}")


def decode(payload: bytes, kind: type[T], *, what: str, cap: int = limits.MAX_MESSAGE_BYTES) -> T:
    """Decodes and validates one JSON document.

    Args:
        payload: UTF-8 JSON.
        kind: the msgspec type that it must have.
        what: its name in an error, for example ``"a classify request"``.
        cap: the most bytes that are accepted.

    Raises:
        InputError: ``too-large``, or ``bad-message`` with what is wrong where.
    """
    if len(payload) > cap:
        raise InputError(
            "too-large", f"{what} has {len(payload)} bytes; at most {cap} are accepted"
        )
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _reject(what, error) from None


def convert_yaml(text: bytes, kind: type[T], *, what: str, cap: int = limits.MAX_CONFIG_BYTES) -> T:
    """Decodes and validates one YAML document (safe subset; no tags, no code).

    Raises:
        InputError: ``too-large``, or ``bad-message`` with what is wrong where.
    """
    if len(text) > cap:
        raise InputError("too-large", f"{what} has {len(text)} bytes; at most {cap} are accepted")
    try:
        return msgspec.convert(load_yaml(text, what=what), type=kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _reject(what, error) from None


def load_yaml(text: bytes | str, *, what: str) -> Any:
    """Parses one YAML document (safe subset; no tags, no code) into plain values.

    Raises:
        InputError: ``bad-message`` with what is wrong where.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise _reject(what, error) from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML leaks these from scalars: an impossible date, a number of 5,000 digits.
        raise _reject(what, error) from None
