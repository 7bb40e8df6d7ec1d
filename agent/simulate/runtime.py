"""The fake runtime: models that answer from a script, drawn from a scenario and a baseline."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final, Protocol

from agent.generate.confidence import Confidence
from agent.generate.stop import Stop
from agent.runtime.classifier import UNKNOWN
from agent.runtime.lessons import Features
from agent.simulate.scenario import Behaviour
from contracts.answers import CallPiece, Classified, Embedded, Generated, Selftested
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from contracts.manifest import Manifest
from contracts.messages import BundleRef, Scored
from contracts.requests import GenerateRequest

SPREAD: Final = 0.25
"""Of the logarithm of latencies, around their median."""

_TEXT = "a simulated device says one word after the other until it has said enough"
_WORDS: Final = tuple(_TEXT.split())


class Board(Protocol):
    """What a scripted model knows of the device that it runs on."""

    @property
    def index(self) -> int:
        """Which of the simulation's devices it is."""

    @property
    def chance(self) -> random.Random:
        """Of the device."""

    @property
    def slowness(self) -> float:
        """Factor on all times."""

    @property
    def flowing(self) -> bool:
        """Whether local requests of some time are counted at once: none of them takes any."""

    @property
    def shown(self) -> tuple[ScriptedModel, str, str] | None:
        """Who answered last, what it was asked, and its label."""

    @shown.setter
    def shown(self, answer: tuple[ScriptedModel, str, str] | None) -> None: ...

    def pause(self, seconds: float) -> None:
        """Takes so long."""

    def monotonic(self) -> float:
        """Seconds that only grow."""


class ScriptedModel:
    """One bundle on one device (:class:`agent.runtime.model.Model`).

    Args:
        bundle: which.
        behaviour: how it does.
        board: the device.
        holds: share of the golden vectors that hold.
        tokens_per_s: of a generator.
    """

    __slots__ = (
        "_board", "_confidences", "_holds", "_labels", "_tokens_per_s", "_weights", "behaviour",
        "manifest", "ref", "runtime",
    )  # fmt: skip

    def __init__(
        self,
        bundle: Bundle,
        behaviour: Behaviour,
        board: Board,
        *,
        holds: float,
        tokens_per_s: float,
    ) -> None:
        self.ref: BundleRef = bundle.ref
        self.manifest: Manifest = bundle.manifest
        self.runtime = "simulated"
        self.behaviour = behaviour
        self._board = board
        self._holds = holds
        self._tokens_per_s = tokens_per_s
        facts, baseline = bundle.manifest.classifier, bundle.manifest.baseline
        shares = behaviour.labels or (baseline.labels if baseline else {})
        if not shares:
            shares = dict.fromkeys(facts.labels if facts else ["yes", "no"], 1.0)
        self._labels = tuple(shares)
        self._weights = tuple(shares.values()) if any(shares.values()) else (1.0,) * len(shares)
        self._confidences = _confidences(behaviour, bundle.manifest)

    def classify(self, text: str, top_k: int = 3) -> Classified:
        """Labels for a text, best first: the same for the same text and labels.

        Beside another version of its bundle, which has just answered the same, it disagrees as
        often as the scenario says.
        """
        board = self._board
        chance = board.chance if board.flowing else random.Random(f"{self.ref.name}/{text}")
        latency_us = self.behaviour.latency_us * board.slowness
        latency_us *= board.chance.lognormvariate(0, SPREAD)
        if not board.flowing:
            board.pause(latency_us / 1e6)
        if board.chance.random() < self.behaviour.error_rate:
            raise RefusedError("model-failed", "simulated: the model gave no answer")
        best = self._best(text, chance)
        confidence = chance.choices(self._confidences[0], weights=self._confidences[1])[0]
        top = [Scored(best, round(confidence, 4))]
        if top_k > 1:
            top += self._others(best, confidence, chance)[: top_k - 1]
        unknown = board.chance.random() < self.behaviour.unknown_rate
        label = UNKNOWN if unknown else best
        board.shown = (self, text, label)
        labels: list[Scored] | None = None
        if self.manifest.classifier is not None and self.manifest.classifier.cuts:
            labels = [] if unknown else top[:1]
        return Classified(label, confidence, top, self.ref, round(latency_us, 1), labels=labels)

    def features(self, text: str) -> Features:
        """No simulated model can be taught."""
        del text
        raise InputError("wrong-task", "simulated models learn nothing")

    def embed(self, text: str) -> Embedded:
        """No simulated model is an encoder."""
        del text
        raise InputError("no-embedding", "simulated models give no embeddings")

    def _best(self, text: str, chance: random.Random) -> str:
        shown = self._board.shown
        if shown is not None:
            who, what, label = shown
            if who is not self and what == text and who.ref.name == self.ref.name:
                self._board.shown = None
                if self._board.chance.random() >= self.behaviour.disagreement:
                    return label
                return next((other for other in self._labels if other != label), UNKNOWN)
        return chance.choices(self._labels, weights=self._weights)[0]

    def _others(self, best: str, confidence: float, chance: random.Random) -> list[Scored]:
        others = [label for label in self._labels if label != best]
        chance.shuffle(others)
        rest, found = 1.0 - confidence, []
        for label in others:
            rest /= 2
            found.append(Scored(label, round(min(rest, confidence), 4)))
        return found

    def generate(
        self,
        request: GenerateRequest,
        emit: Callable[[str], None] = lambda piece: None,
        checkpoint: Callable[[], None] = lambda: None,
        *,
        tell: Callable[[CallPiece], None] = lambda piece: None,
    ) -> Generated:
        """Says one word after the other; it calls no tool."""
        board = self._board
        pause = board.slowness / self._tokens_per_s
        began = board.monotonic()
        length = min(request.max_tokens, 12 + board.chance.randrange(20))
        finish = "length" if length == request.max_tokens else "stop"
        words: list[str] = []
        first = began
        facts = self.manifest.generator
        confidence = Confidence(request, emit, facts.calibration if facts else ())
        if request.min_confidence is not None:
            drawn = board.chance.choices(self._confidences[0], weights=self._confidences[1])[0]
            confidence.count(math.log(max(drawn, 1e-9)))
        try:
            for index in range(length):
                board.pause(pause)
                checkpoint()
                word = _WORDS[(board.index + index) % len(_WORDS)]
                words.append(word if not words else f" {word}")
                if len(words) == 1:
                    first = board.monotonic()
                confidence.push(words[-1])
        except Stop as stop:
            finish = stop.reason
        seconds = max(board.monotonic() - began, 1e-9)
        said = Generated(
            text="".join(words),
            finish_reason=finish,  # type: ignore[arg-type]
            prompt_tokens=len((request.prompt or "").split()),
            tokens=len(words),
            bundle=self.ref,
            first_token_ms=round((first - began) * 1000, 2),
            tokens_per_s=round(len(words) / seconds, 1),
        )
        return confidence.judged(said)

    def probe(self) -> None:
        """Nothing: it has no tokenizer."""

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def selftest(self, bundle: Bundle, checkpoint: Callable[[], None] = lambda: None) -> Selftested:
        """So many of the golden vectors hold as the scenario says."""
        vectors = len(bundle.golden())
        for _ in range(vectors):
            checkpoint()
        return Selftested(self.ref, vectors, round(vectors * self._holds), 0, self.runtime)

    def close(self) -> None:
        """There is nothing to free."""


def _confidences(
    behaviour: Behaviour, manifest: Manifest
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values and weights that confidences are drawn from."""
    baseline = manifest.baseline
    if behaviour.confidence is None and baseline is not None and baseline.confidence.count:
        counts = baseline.confidence.counts
        return tuple((int(k) + 0.5) / 20 for k in counts), tuple(float(c) for c in counts.values())
    mean = 0.9 if behaviour.confidence is None else behaviour.confidence
    return tuple(min(max(mean + step / 50, 0.0), 1.0) for step in range(-3, 4)), (1.0,) * 7


def requests_in(mean: float, chance: random.Random) -> int:
    """How many requests come in a time in which so many are expected (Poisson)."""
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    # Knuth: exact, and cheap for small means.
    limit, count, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        count += 1
        product *= chance.random()
    return count
