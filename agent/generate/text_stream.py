"""Tokens to text as they come: whole characters only, and stop strings held back.

A token may end in the middle of a character, and a stop string may begin in one token and end
in another; what may still become part of either is not given out yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTEXT_TOKENS = 4
_MAX_UNSURE = 3
_LONGEST_WINDOW = 32


class TextStream:
    """The text of one answer, piece by piece.

    Args:
        decode: token ids to text (byte-level: half a character becomes U+FFFD at the end).
        stop: strings that end the answer; they are not part of it.
        opening: those that end it only where nothing but blanks is before them.

    Attributes:
        text: what was given out so far.
        stopped: a stop string was found.
        stopped_by: which.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop: Sequence[str] = (),
        opening: Sequence[str] = (),
    ) -> None:
        self._decode = decode
        self._stop = list(stop)
        self._opening = list(opening)
        self._ids: list[int] = []
        self._start = 0  # first token of the window that is decoded again
        self._unsure = 0  # tokens in a row after which a character may have been half
        self._known = 0  # characters of the window's text that are in `_pending` or `text`
        self._pending = ""
        self.text = ""
        self.stopped = False
        self.stopped_by = ""

    def push(self, token: int) -> str:
        """Adds a token; the text that is now certain (may be empty)."""
        if self.stopped:
            return ""
        self._ids.append(token)
        return self._take(self._decode(self._ids[self._start :]), final=False)

    def finish(self) -> str:
        """The rest, at the end of the answer."""
        if self.stopped:
            return ""
        return self._take(self._decode(self._ids[self._start :]), final=True)

    def _take(self, window: str, *, final: bool) -> str:
        # Up to three bytes at the end may be the beginning of a character.
        unsure = 0 if final else min(len(window) - len(window.rstrip(_REPLACEMENT)), _MAX_UNSURE)
        self._unsure = self._unsure + 1 if unsure else 0
        if 0 < self._unsure <= _MAX_UNSURE:
            # SentencePiece's byte fallback gives up whole characters before half a one, too.
            return self._release(final=final)
        certain = max(self._known, len(window) - unsure)
        self._pending += window[self._known : certain]
        self._known = certain
        if unsure:
            return self._release(final=final)
        # Decoding only the last few tokens keeps the cost of a token constant; some before the
        # new ones stay, because a decoder may treat the first token of a text differently.
        for size in range(_CONTEXT_TOKENS, _CONTEXT_TOKENS + _MAX_UNSURE + 1):
            start = len(self._ids) - size
            if start <= self._start:
                break
            tail = self._decode(self._ids[start:])
            # One of them begins where a character does.
            clean = window.endswith(tail) and _REPLACEMENT not in tail
            if clean or len(self._ids) - self._start > _LONGEST_WINDOW:
                self._start, self._known = start, len(tail)
                break
        return self._release(final=final)

    @property
    def tokens(self) -> int:
        """How many of the tokens the text is of: those of a stop string are not among them."""
        count = len(self._ids)
        while self.stopped and count and self._decode(self._ids[: count - 1]).startswith(self.text):
            count -= 1
        return count

    def _release(self, *, final: bool) -> str:
        if self._opening and (self.text + self._pending).strip():
            begun = (self.text + self._pending).lstrip()
            if not any(s.startswith(begun) or begun.startswith(s) for s in self._opening):
                self._opening = []
        stops = [*self._stop, *self._opening]
        found = [(at, s) for at, s in ((self._pending.find(s), s) for s in stops) if at >= 0]
        if found:
            first, self.stopped_by = min(found)
            self.stopped = True
            out, self._pending = self._pending[:first], ""
        else:
            held = 0 if final else max((_overlap(self._pending, s) for s in stops), default=0)
            cut = len(self._pending) - held
            out, self._pending = self._pending[:cut], self._pending[cut:]
        self.text += out
        return out


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that may be the beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
