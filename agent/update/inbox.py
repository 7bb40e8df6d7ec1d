"""Which desired documents count: newer ones alone, and none that would shut out all later ones.

Fences and revisions only grow, so whoever gets one document of the highest number through would
keep a device from every later one. So both may grow by a bounded step alone, a higher fence
begins the revisions anew, and what is refused is told, for as long as it lasts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from agent.system.clock import Clock
from agent.system.log import logger
from agent.update.waiting import Waiting
from contracts import limits
from contracts.desired import Desired
from contracts.errors import ErrorInfo
from contracts.messages import Wait

log = logger(__name__)

OUTRUN: Final = frozenset({"old-fence", "old-revision", "other-content"})
"""Refusals that the owner's own document may meet, when another's counts: then nothing gets on."""


def judge(desired: Desired, known: Desired | None) -> Literal["newer", "same"] | ErrorInfo:
    """Whether a document counts, by the newest that was accepted; else why it does not."""
    fence, revision = (known.fence, known.revision) if known else (0, 0)
    if desired.fence < fence:
        return _refusal("old-fence", "its fence is lower than one that was seen", desired, known)
    if desired.fence > fence + limits.MAX_FENCE_STEP:
        why = f"its fence is over {limits.MAX_FENCE_STEP} above the last"
        return _refusal("fence-jump", why, desired, known)
    anew = known is None or desired.fence > fence
    first = anew or fence == 0  # a controller without a fence leaps when it was restored
    step = limits.MAX_FIRST_REVISION if first else limits.MAX_REVISION_STEP
    if desired.revision > step + (0 if anew else revision):
        why = f"its revision is over {step} above the last"
        return _refusal("revision-jump", why, desired, known)
    if anew or desired.revision > revision:
        return "newer"
    if desired.revision < revision:
        return _refusal("old-revision", "its revision is lower than the last", desired, known)
    if known is not None and _content(desired) != _content(known):
        why = "it says something else under the same revision"
        return _refusal("other-content", why, desired, known)
    return "same"


def _content(desired: Desired) -> tuple[object, ...]:
    """What may not differ under one revision."""
    return desired.slots, desired.rollout, desired.groups


def _refusal(code: str, why: str, desired: Desired, known: Desired | None) -> ErrorInfo:
    fence, revision = (known.fence, known.revision) if known else (0, 0)
    return ErrorInfo(
        code,
        f"a desired document was refused: {why} (fence {desired.fence}, revision "
        f"{desired.revision}; the last that counts: fence {fence}, revision {revision})",
        {
            "fence": desired.fence,
            "revision": desired.revision,
            "known_fence": fence,
            "known_revision": revision,
        },
    )


class Inbox:
    """The newest document that came and was not taken yet. Safe from any thread.

    Args:
        known: the newest document that was accepted.
        clock: the time.
    """

    def __init__(self, known: Callable[[], Desired | None], clock: Clock) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._offered: Desired | None = None
        self._taken: Desired | None = None
        self._refused = Waiting(clock)
        self._news = False

    def offer(self, desired: Desired) -> bool:
        """A document came from the broker; whether it counts."""
        with self._lock:
            # What was taken counts before it is written down: the broker may send it twice, once
            # as what it retains, and the second must not break off the download that it asks for.
            verdict = judge(desired, self._offered or self._taken or self._known())
            if isinstance(verdict, ErrorInfo):
                self._note(verdict)
                return False
            # The right document stands at the broker again, or a newer one does.
            self._news = self._refused.end() or self._news
            if verdict == "newer":
                self._offered = desired
            return True

    def refuse(self, reason: ErrorInfo) -> None:
        """What came is no desired document."""
        with self._lock:
            self._note(reason)

    def _note(self, reason: ErrorInfo) -> None:
        log.warning("desired document refused", code=reason.code, reason=reason.message)
        self._news = self._refused.begin(reason) or self._news

    def take(self) -> Desired | None:
        """The document, if it is still newer than what was accepted."""
        with self._lock:
            desired, self._offered = self._offered, None
            if desired is None or judge(desired, self._known()) != "newer":
                return None
            self._taken = desired
        return desired

    def give_back(self, desired: Desired) -> None:
        """It could not be accepted now; one that came meanwhile is newer."""
        with self._lock:
            self._taken = None
            self._offered = self._offered or desired

    @property
    def waiting(self) -> bool:
        """Whether there is one to take."""
        with self._lock:
            return self._offered is not None

    def news(self) -> bool:
        """Whether something was refused, or is no longer, since this was asked last."""
        with self._lock:
            news, self._news = self._news, False
        return news

    def waits(self) -> list[Wait]:
        """What was refused last, until the right document comes."""
        return [
            msgspec.structs.replace(wait, blocks=wait.reason.code in OUTRUN)
            for wait in self._refused.now()
        ]
