"""``/v1/lessons``: teaches devices a label from a few examples, and takes it back."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from contracts.answers import Answer
from contracts.requests import TeachRequest
from fleet.api import models, models_lessons
from fleet.api.auth import QUESTION, Operator, TheController
from fleet.api.routes_queries import choose
from fleet.controller import Controller
from fleet.store import audit, samples
from fleet.store.entries import Actor
from fleet.store.tokens import Token

ROUTER = APIRouter(prefix="/v1/lessons", tags=["lessons"])


@ROUTER.post("", dependencies=[QUESTION])
async def teach(
    controller: TheController, token: Operator, new: models_lessons.NewLesson
) -> models_lessons.TaughtPage:
    """Teaches devices a label from a few examples, until the next version of their model.

    Each answers with its lessons, or with an error: `other-model`, `too-many-lessons`,
    `id-in-use`, `lesson-not-kept`, `unknown-operation`. Devices keep no text; the controller
    keeps the examples as labelled texts of the model unless `keep` is false, once a device has
    learnt them.
    """
    request = TeachRequest(
        slot=new.slot,
        lesson=new.lesson,
        label=new.label,
        texts=list(new.texts),
        model=new.model,
        requester=token.name[:64],
    )
    asked = models.Query(selector=new.selector, devices=new.devices, op="status")
    return await _ask(
        controller, token, asked, request, new.timeout_s, "lesson.teach", kept=new.keep,
        model=new.model, label=new.label, examples=len(new.texts),
    )  # fmt: skip


@ROUTER.post("/undo")
async def undo(
    controller: TheController, token: Operator, old: models_lessons.OldLesson
) -> models_lessons.TaughtPage:
    """Takes a lesson back. Each device answers with what is left, or with `no-such-lesson`.

    Examples that were kept for the next version are forgotten, once a device has undone it.
    """
    request = TeachRequest(
        slot=old.slot, action="undo", lesson=old.lesson, requester=token.name[:64]
    )
    asked = models.Query(selector=old.selector, devices=old.devices, op="status")
    return await _ask(controller, token, asked, request, old.timeout_s, "lesson.undo")


async def _ask(
    controller: Controller,
    token: Token,
    asked: models.Query,
    request: TeachRequest,
    timeout_s: float,
    action: str,
    *,
    kept: bool = False,
    **detail: str | int,
) -> models_lessons.TaughtPage:
    online = await run_in_threadpool(choose, controller, asked)
    answers = controller.asker.ask(
        list(online), "teach", request, timeout_s, offline=lambda device: not online[device]
    )
    final = sorted([one async for one in answers if one.done], key=lambda one: one.device)
    done = [one.device for one in final if one.taught is not None]

    def note() -> None:
        with controller.store.write() as connection:
            learnt = next(
                (
                    lesson
                    for one in final
                    if one.taught is not None
                    for lesson in one.taught.lessons
                    if lesson.name == request.lesson
                ),
                None,
            )
            if kept and learnt is not None:
                samples.learn(
                    controller.store, connection, learnt, request.texts, token.name[:64],
                    controller.clock(),
                )  # fmt: skip
            elif request.action == "undo" and done:
                samples.unlearn(connection, request.lesson or "", token.name[:64])
            audit.note_by(
                connection,
                Actor(token.name, token.role),
                action,
                request.lesson or "",
                controller.clock(),
                devices=done,
                failed=len(final) - len(done),
                **detail,
            )

    await run_in_threadpool(note)
    return models_lessons.TaughtPage(devices=[_taught(one) for one in final])


def _taught(answer: Answer) -> models_lessons.TaughtModel:
    if answer.taught is None:
        error = answer.error
        info = models.ErrorInfo(
            code=error.code if error else "no-answer",
            message=error.message if error else f"{answer.device} said something else",
        )
        return models_lessons.TaughtModel(device=answer.device, error=info)
    return models_lessons.TaughtModel(
        device=answer.device,
        took_ms=answer.taught.took_ms,
        lessons=[
            models_lessons.LessonModel(
                name=one.name,
                label=one.label,
                examples=one.examples,
                at=one.at,
                bundle=str(one.bundle),
                serves=one.serves,
                by=one.by,
            )
            for one in answer.taught.lessons
        ],
    )
