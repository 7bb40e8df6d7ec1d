"""What a chat template may cost: units for steps and copies, and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined

from contracts.errors import InputError

STEPS_UNITS: Final = 8_000_000
"""Units of a rendering whatever its input; a unit takes at most about 5 bytes."""

UNITS_A_CHARACTER: Final = 64
"""More units for each character of the input."""

SECONDS: Final = 5.0
"""Of a rendering, at most. A slow device comes here before the units are spent."""

ITEM: Final = 8
"""Units of an item of a list."""

PAIR: Final = 32
"""Units of a pair of a mapping."""

_STEP = 32
_LOOK = 24
_MAX_BITS = 256
_MAX_DEPTH = 32
_END = object()


class Budget:
    """What a rendering may still cost.

    Args:
        units: about one for a character that is read or made, 8 for an item of a list, 32 for a
            step.
        seconds: from now.
        clock: seconds.
    """

    def __init__(
        self, units: int, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._units = units
        self._clock = clock
        self._seconds = seconds
        self._until = clock() + seconds

    def spend(self, units: int) -> None:
        """Pays for a step and `units` more.

        Raises:
            InputError: ``bad-template``; there is not enough left, or no time.
        """
        self._units -= _STEP + units
        if self._units < 0:
            raise InputError("bad-template", "the chat template makes too much of these messages")
        if self._late():
            raise InputError("bad-template", f"the chat template takes over {self._seconds:g} s")

    def _late(self) -> bool:
        return self._clock() > self._until

    def weigh(self, value: Any, *, text: bool = True) -> int:
        """Pays for reading a value with all that is in it, as often as it is in it.

        Args:
            value: any.
            text: the value must have a text of its own; else it may be a namespace or a macro.

        Returns:
            Its weight in units, at least 1.

        Raises:
            InputError: ``bad-template``; as above.
            SecurityError: a number or a depth beyond all use, or a value without a text.
        """
        weight = seen = 0
        stack: list[Iterator[Any]] = [iter((value,))]
        while stack:
            item = next(stack[-1], _END)
            if item is _END:
                stack.pop()
                continue
            seen += 1
            if weight + _LOOK * seen > self._units or (seen % 4096 == 0 and self._late()):
                break
            if isinstance(item, str):
                weight += len(item) + 1
            elif item is None or isinstance(item, (bool, float, Undefined)):
                weight += 1
            elif isinstance(item, int):
                weight += 1
                check_number(item)
            elif isinstance(item, (list, tuple, dict)):
                if len(stack) > _MAX_DEPTH:
                    raise SecurityError(f"lists are more than {_MAX_DEPTH} deep")
                weight += 1 + (PAIR if isinstance(item, dict) else ITEM) * len(item)
                stack.append(chain(item, item.values()) if isinstance(item, dict) else iter(item))
            elif text or len(stack) > 1:
                raise SecurityError(f"a {type(item).__name__} is no text")
            else:
                weight += 1
        self.spend(weight + _LOOK * (seen - 1))
        return weight


def check_number(value: Any) -> Any:
    """The value itself.

    Raises:
        SecurityError: it is a whole number beyond all use.
    """
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise SecurityError(f"a number has more than {_MAX_BITS} bits")
    return value
