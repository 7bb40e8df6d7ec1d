"""A document of a checkpoint whose every key is used, or known to be harmless, or refused.

A key that nobody read may change what the model computes: a checkpoint with such a key would
import with a wrong model and no error.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from contracts.errors import InputError

_MISSING: Any = object()
_MOST = 2**53  # beyond it a JSON number is no whole number any more


class Keys:
    """Reads a JSON object key by key, and remembers which.

    Args:
        document: the object.
        where: its name in messages.
    """

    def __init__(self, document: dict[str, Any], where: str) -> None:
        self._document = document
        self._read: set[str] = set()
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._document.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is; null counts as missing."""
        self._read.add(key)
        value = self._document.get(key)
        return default if value is None else value

    def _typed(self, key: str, default: Any, kinds: tuple[type, ...], what: str) -> Any:
        value = self.get(key, default)
        if value is _MISSING:
            raise InputError("bad-weights", f"{self.where} lacks the key {key}")
        if value is None or value is default:
            return value
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError("bad-weights", f"{self.where}: {key} must be {what}")
        return value

    def number(self, key: str, default: float = _MISSING) -> float:
        """A finite number."""
        value = float(self._typed(key, default, (int, float), "a number"))
        if not math.isfinite(value):
            raise InputError("bad-weights", f"{self.where}: {key} must be a finite number")
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """`count` positive numbers."""
        value = self._typed(key, _MISSING, (list,), "a list")
        if len(value) != count or not all(
            isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in value
        ):
            raise InputError("bad-weights", f"{self.where}: {key} must be {count} positive numbers")
        return [float(n) for n in value]

    def whole(self, key: str, default: int = _MISSING) -> int:
        """A whole number."""
        value = self._typed(key, default, (int, float), "a whole number")
        if not abs(value) <= _MOST or int(value) != value:
            raise InputError("bad-weights", f"{self.where}: {key} must be a whole number")
        return int(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A truth value."""
        return bool(self._typed(key, default, (bool,), "true or false"))

    def text(self, key: str, default: str | None = _MISSING) -> str | None:
        """A text."""
        value = self._typed(key, default, (str,), "a text")
        return None if value is None else str(value)

    def refuse(self, key: str, why: str) -> None:
        """Refuses the document when it has `key`, unless that is false, 0 or empty."""
        if self.get(key):
            raise InputError("unknown-architecture", f"{self.where} has {key}: {why}")

    def neutral(self, key: str, value: Any) -> None:
        """Refuses the document when `key` is there and not `value`."""
        found = self.get(key, value)
        if found != value:
            raise InputError(
                "unknown-architecture",
                f"{self.where}: {key} is {str(found)[:40]!r}; only {value!r} is supported",
            )

    def finish(self, harmless: Collection[str] = ()) -> None:
        """Refuses what nobody read, unless it is off (null, false) or on the list.

        Raises:
            InputError: ``unknown-architecture``, with the key.
        """
        for key, value in self._document.items():
            if key in self._read or key in harmless or value is None or value is False:
                continue
            raise InputError(
                "unknown-architecture",
                f"{self.where} has the key {key[:60]!r}, which is not known here and may change "
                "what the model computes; where you know that it does not, take it out",
            )
