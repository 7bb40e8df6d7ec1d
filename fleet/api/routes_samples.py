"""``/v1/samples``: hard examples of devices, and labels of people. Texts need an operator."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Path, Query, Response
from fastapi.concurrency import run_in_threadpool

from contracts.errors import InputError
from fleet import improvements
from fleet.api import models, models_samples
from fleet.api.auth import Admin, Operator, TheController
from fleet.rollout import selector
from fleet.rollout.spec import NAME_PATTERN
from fleet.samples import collect, labelling
from fleet.store import audit, devices, samples, selection
from fleet.store.entries import Actor
from fleet.store.samples import Ask, Text
from fleet.store.tokens import Token

ROUTER = APIRouter(prefix="/v1/samples", tags=["samples"])
NEXT = APIRouter(prefix="/v1/improvements", tags=["samples"])

_Name = Annotated[str, Query(pattern=NAME_PATTERN)]
_Key: Final = r"^[0-9a-f]{32}$"


def _actor(token: Token) -> Actor:
    return Actor(token.name, token.role)


@ROUTER.post("/asks", status_code=201)
async def ask_for_samples(
    controller: TheController, token: Operator, new: models_samples.NewAsk
) -> models_samples.AskModel:
    """Asks devices for hard examples of a model, and stores what their owners consent to."""
    made = await run_in_threadpool(_make, controller, token, new)
    gave = await collect.collect(controller, made, _actor(token))
    return _ask(made, gave)


def _make(controller: TheController, token: Token, new: models_samples.NewAsk) -> Ask:
    wanted = selector.parse(new.selector)
    ask = Ask(
        f"ask-{secrets.token_hex(6)}",
        new.model,
        new.selector,
        new.most,
        new.why,
        token.name[:64],
        controller.clock(),
    )
    with controller.store.write() as connection:
        if not devices.contacts(connection, selection.means(wanted)):
            hint = selection.hint(connection, wanted)
            raise InputError("no-devices", f"the request means no device{hint}")
        samples.add_ask(connection, ask)
        audit.note_by(
            connection,
            _actor(token),
            "samples.ask",
            new.model,
            ask.at,
            ask=ask.name,
            selector=new.selector,
            most=new.most,
        )
    return ask


@ROUTER.get("/asks")
def list_asks(controller: TheController, _token: Operator) -> models_samples.AskPage:
    """Requests that go on, and how many samples there are of each model."""
    found = collect.open_asks(controller)
    with controller.store.read() as connection:
        counts = samples.models(connection)
    return models_samples.AskPage(items=[_ask(one, []) for one in found], models=counts)


@ROUTER.post("/asks/{ask}/collect")
async def collect_samples(
    controller: TheController,
    token: Operator,
    ask: Annotated[str, Path(pattern=NAME_PATTERN)],
) -> models_samples.AskModel:
    """Asks again: owners may have approved it since. The controller does so every few minutes."""
    found = await run_in_threadpool(collect.open_asks, controller)
    known = next((one for one in found if one.name == ask), None)
    if known is None:
        raise InputError("no-such-request", f"no request {ask!r} goes on")
    return _ask(known, await collect.collect(controller, known, _actor(token)))


@ROUTER.get("")
def list_texts(
    controller: TheController, _token: Operator, model: _Name
) -> models_samples.TextPage:
    """All texts of a model with what people say of them."""
    with controller.store.read() as connection:
        found = samples.texts(connection, model)
    return models_samples.TextPage(model=model, items=[_text(one) for one in found])


@ROUTER.delete("")
def delete_samples(
    controller: TheController,
    token: Admin,
    model: _Name,
    device: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
    key: Annotated[str | None, Query(pattern=_Key)] = None,
) -> models_samples.Deleted:
    """Deletes samples of a model: all, of one device, or of one text."""
    with controller.store.write() as connection:
        count = samples.delete(connection, model=model, device=device, key=key)
        audit.note_by(
            connection,
            _actor(token),
            "samples.delete",
            model,
            controller.clock(),
            samples=count,
            device=device or "",
            key=key or "",
        )
    return models_samples.Deleted(samples=count)


@ROUTER.get("/queue")
def get_queue(
    controller: TheController,
    token: Operator,
    model: _Name,
    limit: Annotated[int, Query(ge=1, le=labelling.MAX_QUEUE)] = 20,
) -> models_samples.QueueModel:
    """What you should label next, the most useful first."""
    found = labelling.queue(controller, model, token.name, limit)
    return models_samples.QueueModel(
        model=model,
        labels=found.labels,
        items=[_text(one) for one in found.items],
        left=found.left,
        labelled=found.labelled,
        disputed=found.disputed,
    )


@ROUTER.post("/labels", status_code=204)
def say_label(controller: TheController, token: Operator, new: models_samples.NewLabel) -> Response:
    """Says the label of a text, or passes it over. What you said of it before is replaced."""
    labelling.say(controller, _actor(token), new.model, new.key, new.label)
    return Response(status_code=204)


@ROUTER.delete("/labels", status_code=204)
def unsay_label(
    controller: TheController,
    token: Operator,
    model: _Name,
    key: Annotated[str, Query(pattern=_Key)],
) -> Response:
    """Takes back what you said of a text."""
    labelling.unsay(controller, _actor(token), model, key)
    return Response(status_code=204)


@NEXT.post("", status_code=202)
def improve_model(
    controller: TheController, token: Admin, new: models_samples.NewImprovement
) -> models_samples.ImprovementPage:
    """Starts `shoal improve` for a model, as a program of its own; its recipe is the last time's.

    It builds, compares with the version that runs, signs, and rolls out behind gates, or stops.
    """
    improvements.start(controller.fleet, controller.store, _actor(token), new.model)
    return list_improvements(controller, token)


@NEXT.get("")
def list_improvements(
    controller: TheController, _token: Operator
) -> models_samples.ImprovementPage:
    """Next versions, made or being made, the newest first."""
    found = improvements.every(controller.fleet)
    items = [models_samples.ImprovementModel(**msgspec.structs.asdict(one)) for one in found]
    return models_samples.ImprovementPage(items=items)


def _ask(one: Ask, gave: list[collect.Gave]) -> models_samples.AskModel:
    return models_samples.AskModel(
        **msgspec.structs.asdict(one),
        devices=[
            models_samples.GaveModel(
                device=of.device,
                new=of.new,
                sent=of.sent,
                error=None if of.error is None else msgspec.to_builtins(of.error),
            )
            for of in gave
        ],
    )


def _text(one: Text) -> models_samples.TextModel:
    sample = one.sample
    return models_samples.TextModel(
        key=one.key,
        text=sample.text,
        answered=sample.label,
        best=sample.best,
        confidence=sample.confidence,
        bundle=models.Ref(
            name=sample.bundle.name,
            version=sample.bundle.version,
            manifest_sha256=sample.bundle.manifest_sha256,
        ),
        reasons=list(sample.reasons),
        times=one.times,
        devices=len(one.devices),
        meant=one.meant,
        said=[models_samples.SaidModel(**msgspec.structs.asdict(said)) for said in one.said],
        hints=[models_samples.HintModel(**msgspec.structs.asdict(hint)) for hint in one.hints],
        label=one.label,
        disputed=one.disputed,
    )
