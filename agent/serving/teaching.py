"""The operation ``teach``: a label from a few examples, beside the model that serves."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.runtime.classifier import UNKNOWN
from agent.runtime.model import expect_model_task
from agent.serving.lessons import Kept, Lessons
from agent.serving.models import Models
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from contracts.answers import Taught
from contracts.errors import InputError, RefusedError
from contracts.messages import Lesson
from contracts.requests import TeachRequest


class Teaching:
    """Takes lessons. On the worker, as their examples go through the model.

    Args:
        models: that serve.
        lessons: that are kept.
        now: seconds since the epoch.
        changed: told when the lessons are others.
    """

    def __init__(
        self,
        models: Models,
        lessons: Lessons,
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._models = models
        self._lessons = lessons
        self._now = now
        self._changed = changed

    def register(self, registry: Registry) -> None:
        """Adds the operation."""
        registry.add(Operation("teach", TeachRequest, self.teach))

    def teach(self, request: TeachRequest, reply: Reply) -> None:
        """``req/teach``.

        Raises:
            InputError: ``bad-lesson``, ``id-in-use``, ``no-such-lesson``, ``too-large``,
                ``bad-text``, ``wrong-task``.
            RefusedError: ``other-model``, ``too-many-lessons``, ``model-failed``.
            UnavailableError: ``no-model``, ``lesson-not-kept``.
        """
        began = time.perf_counter()
        if request.action == "add":
            self._add(request, reply)
            self._changed()
        elif request.action == "undo":
            if request.lesson is None:
                raise InputError("bad-lesson", "undo needs the name of a lesson")
            self._lessons.undo(request.slot, request.lesson)
            self._changed()
        took = round((time.perf_counter() - began) * 1000, 1)
        reply.finish(taught=Taught(request.slot, self._lessons.of(request.slot), took))

    def _add(self, request: TeachRequest, reply: Reply) -> None:
        label = request.label
        if request.lesson is None or label is None or not request.texts:
            raise InputError("bad-lesson", "a lesson needs a name, a label and its texts")
        if label == UNKNOWN or label != label.strip() or not label.isprintable():
            raise InputError("bad-lesson", "that is no label: printable, without space around it")
        if any(not text.strip() for text in request.texts):
            raise InputError("bad-lesson", "an example is empty")
        with self._models.use(request.slot) as model:
            expect_model_task(model, "classify")
            if request.model not in (None, model.ref.name):
                raise RefusedError("other-model", f"{model.ref} serves here, not {request.model}")
            examples = []
            for text in dict.fromkeys(request.texts):
                reply.check()
                examples.append(model.features(text))
            lesson = Lesson(
                request.lesson, label, len(examples), round(self._now(), 3), model.ref,
                by=request.requester,
            )  # fmt: skip
            self._lessons.add(Kept(request.slot, lesson, examples))
