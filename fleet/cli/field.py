"""``shoal fleet feedback | accuracy``: whether answers were right, and how often they are."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import ValidationError

from contracts.errors import InputError
from fleet.api import models_field
from fleet.cli.options import AsJson, with_client
from fleet.cli.output import emit_json, safe, table
from fleet.client import Client
from fleet.rollout.spec import describe

_DAY_S = 24 * 3600.0


@with_client
def feedback(
    client: Client,
    device: Annotated[str, typer.Argument(help="That gave the answer.")],
    answer: Annotated[str, typer.Argument(help="The id of the answer; a query tells it.")],
    right: Annotated[
        bool | None, typer.Option("--right/--wrong", help="Whether the answer is right.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="The right label; repeatable, where a text may have several."),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="No label is right, where a text may have several.")
    ] = False,
    text: Annotated[str | None, typer.Option(help="The right completion, of a generator.")] = None,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="It was picked before anybody looked at it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Says whether an answer was right. The device counts it; only counts leave the device."""
    several = [] if none else label if label and len(label) > 1 else None
    one = label[0] if label and several is None else None
    if none and label:
        raise InputError("bad-feedback", "--none and --label: one of them")
    try:
        given = models_field.Feedback(
            device=device, answer=answer, right=right, label=one, labels=several, text=text,
            sampled=sampled,
        )  # fmt: skip
    except ValidationError as error:
        message = f"the feedback is not valid: {describe(error)}"
        raise InputError("bad-feedback", message) from None
    noted = client.feedback(given)
    if as_json:
        emit_json(noted)
        return
    verdict = "right" if noted.right else "wrong"
    before = ", as was said before" if noted.again else ""
    of = f"{noted.bundle.name} {noted.bundle.version}"
    typer.echo(f"{device} counts {safe(noted.label)} of {of} as {verdict}{before}")


@with_client
def accuracy(
    client: Client,
    name: Annotated[str | None, typer.Argument(help="A bundle; else all.")] = None,
    version: Annotated[str | None, typer.Argument(help="Of the bundle: shows its labels.")] = None,
    by: Annotated[
        str | None, typer.Option(help="With a version: by a label of devices, as site.")
    ] = None,
    days: Annotated[float, typer.Option(help="Of the last how many.", min=0.05, max=400)] = 7.0,
    selector: Annotated[str | None, typer.Option(help="Which devices; else all.")] = None,
    noise: Annotated[
        float,
        typer.Option(help="Share of feedback that is itself wrong; taken out.", min=0, max=0.4),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Shows how often versions are right in the field, with 95 % intervals.

    By what people say of answers: where they judge what annoys them, versions are better than that.
    `sampled` counts only answers that were picked before anybody looked.
    """
    if name is not None and version is not None:
        _one(client.field_of(name, version, days * _DAY_S, by=by, noise=noise), as_json)
        return
    found = client.field(days * _DAY_S, selector, noise=noise)
    found.versions = [one for one in found.versions if name in (None, one.name)]
    if as_json:
        emit_json(found)
        return
    table(
        ("slot", "model", "right", "wrong", "accuracy", "sampled", "devices apart"),
        [
            (
                one.slot,
                f"{one.name} {one.version}" if one.name else one.bundle[:12],
                one.right,
                one.wrong,
                _shown(one.estimate),
                _shown(one.sampled),
                ", ".join(f"{a.device} {a.accuracy:.0%}" for a in one.apart[:3]),
            )
            for one in found.versions
        ],
    )
    for code, count in found.refused.items():
        typer.echo(f"did not count: {count} {safe(code)}")


@with_client
def pooled(
    client: Client,
    name: Annotated[str, typer.Argument(help="A bundle.")],
    version: Annotated[str, typer.Argument(help="Of the bundle.")],
    week: Annotated[str | None, typer.Option(help="As 2026-W48; else the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Shows confusion and calibration of whole groups of devices, in a week.

    A token with the role `pooled` reads this and nothing else. What is told of a week stays as it
    was told. Groups, their least size and noise: `pooled` in fleet.yaml.
    """
    found = client.pooled(name, version, week)
    if as_json:
        emit_json(found)
        return
    noise = f"noise of epsilon {found.epsilon:g}" if found.epsilon else "no noise"
    typer.echo(
        f"{found.week}, by {safe(found.by)}: of {found.least} devices and more, at most "
        f"{found.cap} verdicts of each, {noise}"
    )
    if not found.groups:
        typer.echo(f"nothing is told: fewer than {found.least} devices had answers judged")
        return
    rows = [
        (
            safe(one.name),
            f"{one.devices}+" if found.epsilon else one.devices,
            one.right,
            one.wrong,
            "-" if one.accuracy is None else f"{one.accuracy:.1%}",
            _calibration(one),
        )
        for one in found.groups
    ]
    table((found.by, "devices", "right", "wrong", "accuracy", "sure: right"), rows)
    pairs = [
        (safe(one.name), safe(pair.given), safe(pair.right), pair.count)
        for one in found.groups
        for pair in one.confusion
        if pair.given != pair.right
    ]
    if pairs:
        table((found.by, "answered", "right is", "times"), pairs)


def _calibration(one: models_field.PooledGroup) -> str:
    """How often answers are right of which the model was so sure."""
    return ", ".join(
        f"{tenth.low:.0%}+: {tenth.right / judged:.0%}"
        for tenth in one.calibration
        if (judged := tenth.right + tenth.wrong)
    )


def _one(found: models_field.FieldDetail, as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    typer.echo(f"all feedback: {_shown(found.estimate)}; sampled: {_shown(found.sampled)}")
    for title, lines in (("label", found.labels), ("group", found.groups)):
        if lines:
            rows = [(safe(o.name), o.right, o.wrong, _shown(o.estimate)) for o in lines]
            table((title, "right", "wrong", "accuracy"), rows)
    if found.confusions:
        pairs = [(safe(o.given), safe(o.right), o.count) for o in found.confusions]
        table(("answered", "right is", "times"), pairs)


def _shown(estimate: models_field.EstimateModel | None) -> str:
    """An estimate with its interval, or that there is not enough yet."""
    if estimate is None or not estimate.enough:
        return f"not enough yet ({0 if estimate is None else estimate.judged} judged)"
    ends = f"{estimate.low:.1%} to {estimate.high:.1%}"
    return f"{estimate.accuracy:.1%} ({ends})"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (feedback, accuracy, pooled):
        app.command(command.__name__)(command)
