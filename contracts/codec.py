"""JSON in and out, with caps: the only place where bytes become typed values.

Decoding never raises anything but :class:`contracts.errors.InputError`.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, TypeVar

import msgspec

from contracts import __version__, limits, wording
from contracts.errors import InputError

T = TypeVar("T")

_ENCODER = msgspec.json.Encoder(order="deterministic")
_AS_GIVEN = msgspec.json.Encoder()
_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}
_MAKING = threading.Lock()


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The decoder of a type, made once.

    msgspec 0.22 works a Struct out at its first use and crashes the process when two threads
    do that at once; what is known already can be used by any number of threads.
    """
    known = _DECODERS.get(kind)
    if known is None:
        with _MAKING:
            known = _DECODERS[kind] = msgspec.json.Decoder(kind)
    return known


def encode(value: Any) -> bytes:
    """`value` as compact JSON (UTF-8), keys sorted, so that equal values give equal bytes."""
    return _ENCODER.encode(value)


def encode_given(value: Any, *, what: str) -> bytes:
    """`value` as JSON, where its texts and numbers are somebody's and may be impossible.

    Keys keep their order: of a JSON schema it is the order in which a model writes them.

    Raises:
        InputError: ``bad-text``, a text is no UTF-8 (half a surrogate pair);
            ``bad-message``, nested too deeply; ``too-large``, over what a message may have.
    """
    try:
        payload = _AS_GIVEN.encode(value)
    except UnicodeEncodeError:
        raise InputError(
            "bad-text", f"{what} holds half a surrogate pair, which is not UTF-8"
        ) from None
    except RecursionError as error:
        raise _reject(what, error) from None
    if len(payload) > limits.MAX_MESSAGE_BYTES:
        raise InputError(
            "too-large",
            f"{what} has {len(payload)} bytes; at most {limits.MAX_MESSAGE_BYTES} are accepted",
        )
    return payload


def pretty(value: Any) -> bytes:
    """`value` as indented JSON with a final newline, for files that people read."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def newer(value: Any, kind: Any, what: str) -> InputError | None:
    """The error for a document of a later version, whose other fields may mean anything.

    Args:
        value: the document, plain values.
        kind: the msgspec type that it should have; its field ``schema`` says what is known.
        what: its name in the error.

    Returns:
        The error (``newer-format``); None: it is of no later version.
    """
    found = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        return None
    known = _newest_schema(kind)
    if known is None or found <= known:
        return None
    return InputError(
        "newer-format",
        f"{what} has schema {found}, written for a newer version of Shoal; this is Shoal "
        f"{__version__}, which knows schemas up to {known}: install a newer version",
    )


@functools.cache
def _newest_schema(kind: Any) -> int | None:
    """The newest schema that a type knows. Looked up once: that takes milliseconds."""
    return max(
        (
            field.type.le
            for one in map(msgspec.inspect.type_info, getattr(kind, "__args__", None) or [kind])
            for field in getattr(one, "fields", ())
            if getattr(field, "encode_name", "") == "schema"
            and isinstance(field.type, msgspec.inspect.IntType)
            and field.type.le is not None
        ),
        default=None,
    )


def _newer_json(payload: bytes, kind: Any, what: str) -> InputError | None:
    if b'"schema"' not in payload:
        return None
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return newer(value, kind, what)


def _reject(what: str, error: Exception, kind: Any = None, value: Any = None) -> InputError:
    words = wording.of(error, kind, value)[:500]
    return InputError("bad-message", f"{what} is not valid: {words}")


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
        return decoder(kind).decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _newer_json(payload, kind, what) or _reject(what, error, kind) from None


def convert_yaml(text: bytes, kind: type[T], *, what: str, cap: int = limits.MAX_CONFIG_BYTES) -> T:
    """Decodes and validates one YAML document (safe subset; no tags, no code).

    Raises:
        InputError: ``too-large``, or ``bad-message`` with what is wrong where.
    """
    if len(text) > cap:
        raise InputError("too-large", f"{what} has {len(text)} bytes; at most {cap} are accepted")
    value = load_yaml(text, what=what)
    try:
        return convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise newer(value, kind, what) or _reject(what, error, kind, value) from None


def convert(value: Any, kind: type[T], *, from_attributes: bool = False) -> T:
    """Plain values (or objects with attributes) as a msgspec type.

    Raises:
        msgspec.ValidationError: what is wrong where.
    """
    decoder(kind)
    return msgspec.convert(value, type=kind, from_attributes=from_attributes)


def load_yaml(text: bytes | str, *, what: str) -> Any:
    """Parses one YAML document (safe subset; no tags, no code) into plain values.

    Raises:
        InputError: ``bad-message`` with what is wrong where.
    """
    import yaml  # 1 MB that a program without YAML files does without

    # libyaml's is seven times as fast and bounds how deep a document nests; some boards have none.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, loader)  # noqa: S506  (both are safe: no tags, no code)
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise _reject(what, error) from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML leaks these from scalars: an impossible date, a number of 5,000 digits.
        raise _reject(what, error) from None
