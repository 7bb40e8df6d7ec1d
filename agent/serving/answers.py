"""Answers of a while ago, so that somebody may say whether they were right.

In memory: an id, the label, who gave it, and what the shadow would have said; the text only where
hard examples are kept (:mod:`agent.serving.examples`). A restart forgets them; what was said of
them before is counted already.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from agent.runtime.classifier import UNKNOWN
from agent.serving.examples import Examples
from agent.telemetry.recorder import Recorder
from contracts.answers import Classified, Noted
from contracts.errors import InputError
from contracts.judged import WHOLE
from contracts.manifest import Manifest
from contracts.messages import BundleRef
from contracts.requests import FeedbackRequest

MAX_ANSWERS: Final = 1000
"""Answers of a slot that are kept; the oldest is forgotten first."""

MAX_AGE_S: Final = 24 * 3600.0
"""Seconds for which an answer may be judged."""

MAX_TEXT_BYTES: Final = 512 * 1024
"""UTF-8 bytes of texts that wait for a correction, where hard examples are kept."""

_MAX_BUNDLES: Final = 8


class _Kept(msgspec.Struct, gc=False):
    """One answer. `said`: the verdict, and what is right where somebody said it.

    `given`: its labels, where it may have several; without ``unknown``.
    """

    slot: str
    bundle: BundleRef
    label: str
    at: float
    confidence: float = 0.0
    labels: frozenset[str] | None = None
    digest: bytes = b""
    shadow: BundleRef | None = None
    shadow_label: str | frozenset[str] = ""
    said: tuple[bool, str | frozenset[str] | None] | None = None
    given: frozenset[str] | None = None
    sampled: bool = False
    source: str = ""


class Answers:
    """Keeps answers, and counts what is said of them. Safe from any thread.

    Args:
        recorder: counts.
        monotonic: seconds that only grow.
        examples: keeps the texts of answers that are corrected; None: none is kept.
    """

    def __init__(
        self,
        recorder: Recorder,
        monotonic: Callable[[], float],
        examples: Examples | None = None,
    ) -> None:
        self._recorder = recorder
        self._examples = examples
        self._texts: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._text_bytes = 0
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._slots: dict[str, OrderedDict[str, _Kept]] = {}
        self._labels: dict[BundleRef, frozenset[str] | None] = {}

    # What was answered. ---------------------------------------------------------------------

    def classified(
        self,
        slot: str,
        answer_id: str,
        answer: Classified,
        manifest: Manifest,
        text: str = "",
        source: str = "",
        taught: frozenset[str] = frozenset(),
    ) -> None:
        """Keeps the answer of a classifier; its text where hard examples are kept.

        `source`: that the text came from; empty: somebody asked. `taught`: labels that the device
        knows beside those of the bundle.
        """
        labels = self._labels_of(answer.bundle, manifest)
        if labels is not None and not taught <= labels:
            labels |= taught
        kept = _Kept(
            slot, answer.bundle, answer.label, self._monotonic(), answer.confidence, labels,
            source=source, given=answer.given if isinstance(answer.given, frozenset) else None,
        )  # fmt: skip
        self._keep(answer_id, kept, text if self._examples is not None else None)

    def generated(self, slot: str, answer_id: str, bundle: BundleRef, text: str) -> None:
        """Keeps that a generator answered; of its text a hash alone."""
        self._keep(answer_id, _Kept(slot, bundle, WHOLE, self._monotonic(), digest=_digest(text)))

    def shadowed(
        self, slot: str, answer_id: str, bundle: BundleRef, label: str | frozenset[str]
    ) -> None:
        """Adds what the shadow says of the same text; it may be judged by now."""
        with self._lock:
            kept = self._slots[slot].get(answer_id) if slot in self._slots else None
            if kept is not None and kept.shadow is None:
                kept.shadow, kept.shadow_label = bundle, label
                self._score_shadow(kept)

    def _labels_of(self, bundle: BundleRef, manifest: Manifest) -> frozenset[str] | None:
        with self._lock:
            if bundle not in self._labels:
                facts = manifest.classifier
                known = frozenset([*facts.labels, UNKNOWN]) if facts is not None else None
                newest = list(self._labels.items())[1 - _MAX_BUNDLES :]
                self._labels = {**dict(newest), bundle: known}
            return self._labels[bundle]

    def _keep(self, answer_id: str, kept: _Kept, text: str | None = None) -> None:
        with self._lock:
            self._forget_text((kept.slot, answer_id))
            if text is not None:
                self._texts[kept.slot, answer_id] = text
                self._text_bytes += _bytes(text)
                while self._text_bytes > MAX_TEXT_BYTES:
                    self._forget_text(next(iter(self._texts)))
            of_slot = self._slots.setdefault(kept.slot, OrderedDict())
            of_slot.pop(answer_id, None)  # an id that is used again means the newer answer
            of_slot[answer_id] = kept
            if len(of_slot) > MAX_ANSWERS:
                of_slot.popitem(last=False)

    def _forget_text(self, key: tuple[str, str]) -> str | None:
        text = self._texts.pop(key, None)
        self._text_bytes -= 0 if text is None else _bytes(text)
        return text

    # What is said of it. --------------------------------------------------------------------

    def judge(self, request: FeedbackRequest) -> Noted:
        """Counts a verdict.

        Raises:
            InputError: ``bad-feedback``, ``no-such-answer``, ``answer-too-old``, ``wrong-task``,
                ``unknown-label``, ``already-judged``; nothing is counted.
        """
        given = (request.right, request.label, request.labels, request.text)
        if sum(one is not None for one in given) != 1:
            raise InputError(
                "bad-feedback", "feedback needs exactly one of right, label, labels and text"
            )
        with self._lock:
            kept = self._find(request.answer)
            said = _verdict(kept, request)
            right, meant = said
            noted = Noted(kept.bundle, kept.label, right, again=kept.said is not None)
            if kept.said == said:
                return noted
            if kept.said is not None:
                raise InputError(
                    "already-judged", "another verdict on this answer was counted: the first stays"
                )
            kept.said, kept.sampled = said, request.sampled
            self._recorder.judged(
                kept.slot,
                kept.bundle,
                _whole(kept),
                meant,
                right=right,
                sampled=request.sampled,
                # Of several labels the surest one's says nothing of all of them.
                confidence=(
                    None if kept.label == WHOLE or kept.given is not None else kept.confidence
                ),
            )
            self._score_shadow(kept)
            text = self._forget_text((kept.slot, request.answer))
        if text is not None and not right and self._examples is not None:
            self._examples.corrected(
                kept.slot, text, _name(_whole(kept)), kept.confidence, kept.bundle,
                None if meant is None else _name(meant), kept.source,
            )  # fmt: skip
        return noted

    def _find(self, answer_id: str) -> _Kept:
        found = [of[answer_id] for of in self._slots.values() if answer_id in of]
        if not found:
            raise InputError(
                "no-such-answer",
                f"this device knows no such answer: it keeps the last {MAX_ANSWERS} of a slot, "
                "until it starts again",
            )
        kept = max(found, key=lambda one: one.at)
        if self._monotonic() - kept.at > MAX_AGE_S:
            raise InputError(
                "answer-too-old", f"an answer may be judged for {MAX_AGE_S / 3600:g} hours"
            )
        return kept

    def _score_shadow(self, kept: _Kept) -> None:
        """Judges the shadow's label by the same word, where that tells whether it is right.

        Of a wrong answer whose right label nobody said it tells so only of a shadow that agrees.
        """
        if kept.shadow is None or kept.said is None:
            return
        right, meant = kept.said
        truth = _whole(kept) if right else meant
        if truth is None and kept.shadow_label != _whole(kept):
            return
        holds = kept.shadow_label == truth
        self._recorder.judged(
            kept.slot,
            kept.shadow,
            kept.shadow_label,
            None if holds else truth,
            right=holds,
            sampled=kept.sampled,
        )


def _whole(kept: _Kept) -> str | frozenset[str]:
    return kept.label if kept.given is None else kept.given


def _name(labels: str | frozenset[str]) -> str:
    """One name, as of :attr:`Classified.whole`."""
    return labels if isinstance(labels, str) else " + ".join(sorted(labels)) or UNKNOWN


def _verdict(kept: _Kept, request: FeedbackRequest) -> tuple[bool, str | frozenset[str] | None]:
    """Whether the answer is right, and if not the right label, where it is said."""
    if request.right is not None:
        return request.right, None
    if (request.text is not None) != (kept.label == WHOLE):
        has = "a text" if kept.label == WHOLE else "a label"
        raise InputError("wrong-task", f"that answer is {has}: say right, or what is right")
    if request.text is not None:
        return _digest(request.text) == kept.digest, None
    if kept.given is not None or request.labels is not None:
        return _verdict_on_several(kept, request)
    assert request.label is not None
    if kept.labels is not None and request.label not in kept.labels:
        raise InputError(
            "unknown-label",
            f"{kept.bundle} has no such label: see shoal inspect, or say right: false",
        )
    right = request.label == kept.label
    return right, None if right else request.label


def _verdict_on_several(
    kept: _Kept, request: FeedbackRequest
) -> tuple[bool, frozenset[str] | None]:
    """An answer with several labels is right when they are all that are right, and no others."""
    if kept.given is None:
        raise InputError("wrong-task", f"{kept.bundle} gives a text one label: say label")
    said = [request.label] if request.label is not None else request.labels or []
    truth = frozenset(said) - {UNKNOWN}
    strange = sorted(truth - (kept.labels or truth))
    if strange:
        raise InputError(
            "unknown-label",
            f"{kept.bundle} has no label {strange[0][:60]!r}: see shoal inspect, or say "
            "right: false",
        )
    right = truth == kept.given
    return right, None if right else truth


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()
