"""``/v1/feedback`` and ``/v1/field``: whether answers were right, and how often they are."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool

from contracts.answers import Noted
from contracts.errors import ErrorInfo, InputError, UnavailableError, from_info
from contracts.requests import FeedbackRequest
from fleet import field as fields
from fleet.accuracy import Estimate, Noise
from fleet.api import models, models_field
from fleet.api.auth import QUESTION, Operator, TheController, Viewer
from fleet.api.routes_queries import choose
from fleet.rollout import selector
from fleet.rollout.spec import NAME_PATTERN, VERSION_PATTERN
from fleet.store import bundles, selection
from fleet.store import field as store

ROUTER = APIRouter(prefix="/v1", tags=["feedback"])

_NOISE = Annotated[
    float,
    Query(ge=0, le=0.4, description="share of feedback that is itself wrong; it is taken out"),
]
_SECONDS = Annotated[float, Query(gt=0, le=400 * 24 * 3600, description="of the last how many")]


@ROUTER.post("/feedback", dependencies=[QUESTION])
async def give_feedback(
    controller: TheController, token: Operator, feedback: models_field.Feedback
) -> models_field.NotedModel:
    """Tells a device whether an answer of a while ago was right; only counts leave the device.

    Errors of the device come with its code: `no-such-answer`, `answer-too-old`, `unknown-label`,
    `already-judged`, `wrong-task`, `rate-limited`.
    """
    given = (feedback.right, feedback.label, feedback.labels, feedback.text)
    if sum(one is not None for one in given) != 1:
        raise InputError(
            "bad-feedback", "feedback needs exactly one of right, label, labels and text"
        )
    query = models.Query(devices=[feedback.device], op="status", text="")
    online = await run_in_threadpool(choose, controller, query)
    request = FeedbackRequest(
        answer=feedback.answer,
        right=feedback.right,
        label=feedback.label,
        labels=feedback.labels,
        text=feedback.text,
        sampled=feedback.sampled,
        requester=token.name[:64],
    )
    answers = controller.asker.ask(
        list(online),
        "feedback",
        request,
        feedback.timeout_s,
        offline=lambda device: not online[device],
    )
    async with aclosing(answers):
        async for answer in answers:
            if answer.noted is not None:
                return _noted(answer.device, answer.noted)
            raise from_info(
                answer.error or ErrorInfo("no-answer", "the device said something else")
            )
    raise UnavailableError("no-answer", f"{feedback.device} did not answer")


def _noted(device: str, noted: Noted) -> models_field.NotedModel:
    ref = models.Ref(
        name=noted.bundle.name,
        version=noted.bundle.version,
        manifest_sha256=noted.bundle.manifest_sha256,
    )
    return models_field.NotedModel(
        device=device, bundle=ref, label=noted.label, right=noted.right, again=noted.again
    )


@ROUTER.get("/field")
def get_field(
    controller: TheController,
    _token: Viewer,
    seconds: _SECONDS = fields.WEEK_S,
    selector_: Annotated[str | None, Query(alias="selector", max_length=4000)] = None,
    noise: _NOISE = 0.0,
) -> models_field.FieldPage:
    """How often versions are right in the field, by what people say of their answers."""
    since = controller.clock() - seconds
    with controller.store.read() as connection:
        chosen = None if selector_ is None else selection.means(selector.parse(selector_))
        found = fields.versions(connection, since, chosen, Noise(noise, noise))
        refused = store.refused(connection, since)
    return models_field.FieldPage(
        since=since, versions=[_version(one) for one in found], refused=refused
    )


@ROUTER.get("/field/{name}/{version}")
def get_field_of(
    controller: TheController,
    _token: Viewer,
    name: Annotated[str, Path(pattern=NAME_PATTERN)],
    version: Annotated[str, Path(pattern=VERSION_PATTERN)],
    slot: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
    seconds: _SECONDS = fields.WEEK_S,
    by: Annotated[
        str | None, Query(max_length=80, description="a label of devices: site, own:board, ...")
    ] = None,
    noise: _NOISE = 0.0,
) -> models_field.FieldDetail:
    """How often one version is right, by label, and by the values of a label of devices."""
    since = controller.clock() - seconds
    with controller.store.read() as connection:
        published = bundles.find(connection, name, version)
        sha256 = published.ref.manifest_sha256
        slot = slot or published.manifest.slot
        wrong = Noise(noise, noise)
        said = store.by_device(connection, slot, [sha256], since)
        of = fields.version_of(slot, sha256, published.ref, said, wrong)
        judged = store.labels(connection, slot, sha256, since)
        groups = fields.by_group(connection, slot, sha256, since, by, wrong) if by else []
    return models_field.FieldDetail(
        **_version(of).model_dump(),
        since=since,
        labels=[_line(one) for one in fields.by_label(judged, wrong)],
        confusions=[
            models_field.ConfusionModel(given=given, right=right, count=count)
            for given, right, count in fields.confusions(judged)
        ],
        groups=[_line(one) for one in groups],
    )


def _version(one: fields.Version) -> models_field.FieldVersion:
    return models_field.FieldVersion(
        slot=one.slot,
        bundle=one.bundle,
        name=one.ref.name if one.ref else "",
        version=one.ref.version if one.ref else "",
        right=one.judged.right,
        wrong=one.judged.wrong,
        sampled_right=one.judged.sampled_right,
        sampled_wrong=one.judged.sampled_wrong,
        estimate=_estimate(one.all),
        sampled=_estimate(one.sampled),
        apart=[
            models_field.ApartModel(device=device, accuracy=own, judged=int(judged))
            for device, own, judged in one.apart
        ],
    )


def _estimate(one: Estimate | None) -> models_field.EstimateModel | None:
    if one is None:
        return None
    return models_field.EstimateModel(
        accuracy=one.value,
        low=one.low,
        high=one.high,
        judged=int(one.judged),
        devices=one.devices,
        enough=fields.enough(one),
    )


def _line(one: fields.Line) -> models_field.LineModel:
    found = _estimate(one.estimate)
    assert found is not None
    return models_field.LineModel(name=one.name, right=one.right, wrong=one.wrong, estimate=found)
