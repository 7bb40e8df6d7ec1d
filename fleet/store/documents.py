"""JSON documents in text columns."""

from __future__ import annotations

from typing import Any, TypeVar

from contracts import codec

T = TypeVar("T")


def dump(value: Any) -> str:
    """`value` as the text of a JSON column."""
    return codec.encode(value).decode()


def load(text: str, kind: type[T]) -> T:
    """The inverse of :func:`dump`. What is stored was checked before: an error is a defect."""
    return codec.decoder(kind).decode(text)
