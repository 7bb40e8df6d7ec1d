"""How long to rest between rounds of work that costs little more for much than for little."""

from __future__ import annotations

from typing import Final

_STEP: Final = 1.03
"""By how much a rest grows after a round that found something, and shrinks after one that did not:
work that comes now and then is done soon, and only what comes all the time is gathered."""


class Pace:
    """Rests: for one thread.

    Args:
        least_s: seconds to rest while there is seldom anything to do.
        most_s: seconds to rest while there always is.
        many: so much in one round that the next begins at once.
    """

    def __init__(self, least_s: float, most_s: float, many: int) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._many = many
        self._rest_s = least_s

    def rest(self, done: int) -> float:
        """Seconds until the next round.

        Args:
            done: how much there was to do in the last one.
        """
        if done >= self._many:
            return 0.05
        longer = self._rest_s * (_STEP if done else 1 / _STEP)
        self._rest_s = min(self._most_s, max(self._least_s, longer))
        return self._rest_s
