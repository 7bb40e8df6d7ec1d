"""The operations that every device answers: classify, embed, selftest, status, cancel."""

from __future__ import annotations

from collections.abc import Callable

from agent.runtime.classifier import UNKNOWN
from agent.runtime.model import expect_model_task
from agent.serving.answers import Answers
from agent.serving.examples import Examples
from agent.serving.lessons import Lessons
from agent.serving.models import Models
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from agent.serving.worker import Worker
from agent.system.log import logger
from agent.telemetry.recorder import Recorder
from contracts.answers import Classified, Embedded
from contracts.errors import ShoalError
from contracts.messages import Reported
from contracts.requests import (
    CancelRequest,
    ClassifyRequest,
    EmbedRequest,
    SelftestRequest,
    StatusRequest,
)

log = logger(__name__)


class Answering:
    """What answers need.

    Args:
        models: that are loaded.
        recorder: counts.
        worker: whose jobs can be cancelled.
        reported: makes the reported document.
        answers: that may be judged later.
        examples: keeps texts with hard answers; None: none is kept.
        lessons: what was taught beside models; None: nothing is.
    """

    def __init__(
        self,
        models: Models,
        recorder: Recorder,
        worker: Worker,
        reported: Callable[[], Reported],
        answers: Answers,
        examples: Examples | None = None,
        lessons: Lessons | None = None,
    ) -> None:
        self._models = models
        self._recorder = recorder
        self._worker = worker
        self._reported = reported
        self._answers = answers
        self._examples = examples
        self._lessons = lessons
        self._thresholds: dict[str, float] = {}

    def register(self, registry: Registry) -> None:
        """Adds the operations."""
        registry.add(Operation("classify", ClassifyRequest, self.classify))
        registry.add(Operation("embed", EmbedRequest, self.embed))
        registry.add(Operation("selftest", SelftestRequest, self.selftest))
        registry.add(Operation("status", StatusRequest, self.status, queued=False))
        registry.add(Operation("cancel", CancelRequest, self.cancel, queued=False))

    def label(
        self,
        slot: str,
        text: str,
        top_k: int = 3,
        *,
        times: int = 1,
        answer_id: str = "",
        source: str = "",
    ) -> Classified:
        """Classifies a text with a slot's model, and counts the answer.

        Args:
            slot: whose model.
            text: what.
            top_k: how many labels to list.
            times: how often the same was asked.
            answer_id: under which the answer may be judged later; empty: it may not.
            source: that the text came from; empty: somebody asked.

        Raises:
            UnavailableError: ``no-model``.
            InputError: ``too-large``, ``bad-text``, ``wrong-task``.
            RefusedError: ``model-failed``.
        """
        with self._models.use(slot) as model:
            expect_model_task(model, "classify")
            head = self._lessons.head(slot, model.ref) if self._lessons is not None else None
            answer: Classified = (
                model.classify(text, top_k) if head is None else model.classify(text, top_k, head)
            )
            self._recorder.answered(
                slot,
                answer.bundle,
                answer.latency_us,
                label=answer.label,
                also=answer.said[1:],
                confidence=answer.confidence,
                unknown=answer.label == UNKNOWN,
                baseline=model.manifest.baseline,
                times=times,
            )
            if answer_id:
                taught = self._lessons.labels(slot, model.ref) if head and self._lessons else None
                self._answers.classified(
                    slot, answer_id, answer, model.manifest, text, source, taught or frozenset()
                )
                facts = model.manifest.classifier
                self._thresholds[slot] = facts.threshold if facts else 0.0
        return answer

    def shadow(
        self,
        slot: str,
        text: str,
        shown: Classified,
        *,
        times: int = 1,
        answer_id: str = "",
        source: str = "",
    ) -> None:
        """What comes after an answer: the shadow's, and whether the text is a hard example.

        Of the shadow only the disagreement is counted, and what is said of the answer
        `answer_id` judges it too.
        """
        hidden = self._hidden(slot, text, shown, times, answer_id)
        if answer_id and self._examples is not None:
            threshold = self._thresholds.get(slot, 0.0)
            self._examples.consider(slot, text, shown, threshold, hidden, source)

    def _hidden(
        self, slot: str, text: str, shown: Classified, times: int, answer_id: str
    ) -> str | None:
        """What the shadow says, whole; None: there is no shadow, or it failed."""
        name = f"{slot}/shadow"
        bundle = self._models.ref(name)
        if bundle is None:
            return None
        try:
            with self._models.use(name) as model:
                hidden: Classified = model.classify(text, 1)
        except ShoalError as error:
            log.warning("shadow failed", slot=slot, code=error.code)
            self._recorder.shadowed(slot, bundle, disagrees=True, times=times)
            return None
        disagrees = hidden.whole != shown.whole
        self._recorder.shadowed(slot, hidden.bundle, disagrees=disagrees, times=times)
        if answer_id:
            self._answers.shadowed(slot, answer_id, hidden.bundle, hidden.given)
        return hidden.whole

    def classify(self, request: ClassifyRequest, reply: Reply) -> None:
        """``req/classify``."""
        answer = self.label(request.slot, request.text, request.top_k, answer_id=reply.id)
        reply.finish(classified=answer)
        self.shadow(request.slot, request.text, answer, answer_id=reply.id)

    def embed(self, request: EmbedRequest, reply: Reply) -> None:
        """``req/embed``; counted as a request without a label."""
        with self._models.use(request.slot) as model:
            expect_model_task(model, "classify")
            answer: Embedded = model.embed(request.text)
            self._recorder.answered(request.slot, answer.bundle, answer.latency_us)
        reply.finish(embedded=answer)

    def selftest(self, request: SelftestRequest, reply: Reply) -> None:
        """``req/selftest``."""
        with self._models.use(request.slot) as model:
            bundle = self._models.bundle(request.slot)
            reply.finish(selftested=model.selftest(bundle, reply.check))

    def status(self, request: StatusRequest, reply: Reply) -> None:
        """``req/status``."""
        del request
        reply.finish(reported=self._reported())

    def cancel(self, request: CancelRequest, reply: Reply) -> None:
        """``req/cancel``."""
        reply.finish(cancelled=self._worker.cancel(request.cancel))
