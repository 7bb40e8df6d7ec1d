"""The newest lines of the agent's log, in memory, as they may leave the device.

What a line may say is a list of facts, not a list of what it may not: a value under another name
is taken out before the line is kept, and so is what looks like a secret within the others.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, get_args

import msgspec

from contracts import limits
from contracts.answers import Logged, LogLine
from contracts.redacted import EMAIL, REDACTED
from contracts.requests import LogLevel

LEVELS: Final[tuple[LogLevel, ...]] = get_args(LogLevel)
"""The least first."""

MAX_LINES: Final = 400
"""Lines that are kept; the oldest goes first."""

MAX_CHARS: Final = 96 * limits.KIB
"""Characters of all lines that are kept."""

FACTS: Final = frozenset({
    "boot", "bundle", "bytes", "code", "exception", "file", "kind", "messages", "network",
    "queue", "reason", "seconds", "session", "session_present", "slot", "source", "state", "topic",
    "why", "worker_silent_s",
})  # fmt: skip
"""Facts of a line that leave. None is what somebody asked, named or answered."""

_SECRETS: Final = (
    (
        re.compile(r"-----BEGIN [^-]{1,40}-----.*?(?:-----END [^-]{1,40}-----|$)", re.DOTALL),
        REDACTED,
    ),
    (re.compile(r"(?<=://)[^/\s@]{1,200}@"), f"{REDACTED}@"),
    (re.compile(r"(?<=\?)[^\s\"']*=[^\s\"']+"), REDACTED),
    (re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE), rf"\1 {REDACTED}"),
    (
        re.compile(
            r"\b(pass(?:word|wd|phrase)?|secret|token|api[_-]?key|cookie|authorization)\b"
            r"[\"']?\s*[:=]\s*\S+",
            re.IGNORECASE,
        ),
        rf"\1={REDACTED}",
    ),
    (re.compile(r"\bshoal_\w{8,}"), REDACTED),
    (re.compile(r"[^\s@<>]{1,64}@[^\s@<>]{1,255}"), EMAIL),
    # A digest is known by its beginning; other long runs of signs may be keys.
    (re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b"), r"\1…"),
    (re.compile(r"[A-Za-z0-9+_=-]{40,}"), REDACTED),
)  # fmt: skip


def clean(words: str, most: int = limits.MAX_LOG_CHARS) -> str:
    """What may leave of it: no secrets, no control characters, and not too much."""
    words = words[: 4 * most]
    for pattern, instead in _SECRETS:
        words = pattern.sub(instead, words)
    words = "".join(c if c.isprintable() else " " for c in words)
    return words if len(words) <= most else words[: most - 1] + "…"


class Tail:
    """Keeps the newest lines; any thread may add one, and any may read.

    Args:
        now: seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._lines: deque[LogLine] = deque()
        self._chars = 0
        self._next = 0

    def processor(
        self, _: Any, level: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A step of structlog: keeps a line, and gives it on as it came."""
        self.note(level, str(event.get("event", "")), str(event.get("module", "")), event)
        return event

    def note(
        self, level: str, event: str, module: str = "", facts: Mapping[str, Any] | None = None
    ) -> None:
        """Keeps a line."""
        kept = {
            key: _said(value) if key in FACTS else REDACTED
            for key, value in (facts or {}).items()
            if key not in ("event", "module", "level", "timestamp")
        }
        kept = dict(sorted(kept.items())[: limits.MAX_LOG_FACTS])
        line = LogLine(
            seq=0,
            at=self._now(),
            level=level if level in LEVELS else "error",
            event=clean(event),
            module=clean(module, limits.MAX_ID_CHARS),
            facts=kept,
        )
        with self._lock:
            self._lines.append(msgspec.structs.replace(line, seq=self._next))
            self._next += 1
            self._chars += _chars(line)
            while len(self._lines) > MAX_LINES or self._chars > MAX_CHARS:
                self._chars -= _chars(self._lines.popleft())

    def page(self, boot: str, after: int | None, most: int, level: LogLevel) -> Logged:
        """Lines of a level and above.

        Args:
            boot: of this run.
            after: those that came after this one, the first of them; None: the newest.
            most: how many.
            level: the least.
        """
        with self._lock:
            lines, newest = list(self._lines), self._next - 1
        first = lines[0].seq if lines else newest + 1
        least = LEVELS.index(level)
        fit = [one for one in lines if LEVELS.index(one.level) >= least]
        missed = 0
        if after is not None:
            missed = max(0, min(first, newest + 1) - (after + 1)) if after <= newest else 0
            fit = [one for one in fit if one.seq > after]
        found: list[LogLine] = []
        left = limits.MAX_LOG_BYTES
        for one in fit[:most] if after is not None else reversed(fit[-most:]):
            left -= 4 * _chars(one) + 100  # a character has four bytes at most
            if left < 0:
                break
            found.append(one)
        if after is None:
            found.reverse()
        more = after is not None and len(found) < len(fit)
        last = found[-1].seq if more and found else newest
        return Logged(boot=boot, lines=found, last=last, missed=missed, more=more)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):  # an exception: its kind, its words, its innermost place
        frames = value.get("frames") or [""]
        parts = [value.get("type", ""), value.get("message", ""), frames[-1]]
        return clean(", ".join(str(part) for part in parts if part))
    if isinstance(value, float):
        return f"{value:.6g}"
    return clean(str(value))


def _chars(entry: LogLine) -> int:
    return (
        len(entry.event)
        + len(entry.module)
        + sum(len(key) + len(value) for key, value in entry.facts.items())
    )
