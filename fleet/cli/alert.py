"""``shoal fleet alert``: rules, what is open, silence, and a test of who is told."""

from __future__ import annotations

import re
import time
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from contracts.errors import InputError, UnavailableError
from fleet.alerts.rule import KINDS
from fleet.api import models_alerts
from fleet.cli.options import AsJson, with_client
from fleet.cli.output import ago, emit_json, safe, table
from fleet.client import Client
from fleet.rollout.spec import describe

app = typer.Typer(no_args_is_help=True, help="Alerts: rules, what is open, who is told.")

_WAIT_S: Final = 90.0
_LOOK_S: Final = 0.5
_DURATION: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(s|m|h|d)?")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Rule = Annotated[str, typer.Argument(help="The rule's id.")]


def seconds(text: str) -> float:
    """A duration as people write it: ``90``, ``10m``, ``8h``, ``2d``.

    Raises:
        InputError: ``bad-time``.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InputError("bad-time", f"{text[:40]!r} is no duration: expected 90s, 10m, 8h or 2d")
    return float(found[1]) * _SECONDS[found[2] or "s"]


@app.command()
@with_client
def add(
    client: Client,
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))],
    selector: Annotated[str, typer.Option(help="Which devices.")] = "all",
    threshold: Annotated[
        float | None, typer.Option(help="In the unit of the kind; else what is usual.")
    ] = None,
    hold: Annotated[
        str | None, typer.Option("--for", help="How long it must be wrong: 5m, 2h.")
    ] = None,
    clear: Annotated[str | None, typer.Option(help="How long it must be good again.")] = None,
    title: Annotated[str, typer.Option(help="For people.")] = "",
    name: Annotated[str | None, typer.Option(help="Its id in commands; else one is made.")] = None,
    email: Annotated[
        list[str] | None,
        typer.Option(help="Who gets mail; may be repeated. Else mail.to of fleet.yaml."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Adds an alert rule."""
    try:
        new = models_alerts.NewRule.model_validate(
            {
                "id": name,
                "title": title,
                "kind": kind,
                "selector": selector,
                "threshold": threshold,
                "hold_s": None if hold is None else seconds(hold),
                "clear_s": None if clear is None else seconds(clear),
                "emails": email or [],
            }
        )
    except ValidationError as error:
        raise InputError("bad-rule", f"the rule is not valid: {describe(error)}") from None
    made = client.add_rule(new)
    if as_json:
        emit_json(made)
        return
    typer.echo(f"Added {made.id}: {safe(made.title)}, {made.kind} {made.threshold:.10g}")


@app.command("list")
@with_client
def show(
    client: Client,
    past: Annotated[bool, typer.Option("--past", help="What is over, too.")] = False,
    deliveries: Annotated[
        bool, typer.Option("--deliveries", help="How deliveries went (admin).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Lists rules and alerts."""
    if deliveries:
        _deliveries(client.deliveries(), as_json)
        return
    rules, found = client.rules(), client.alerts("all" if past else "open")
    if as_json:
        emit_json({"rules": rules, "alerts": found})
        return
    now = time.time()
    table(
        ("rule", "kind", "threshold", "for", "devices", "open", "silent"),
        [
            (
                one.id,
                one.kind,
                f"{one.threshold:.10g}",
                f"{one.hold_s:g} s",
                one.selector,
                one.open,
                _until(one.silenced_until, now),
            )
            for one in rules
        ],
    )
    if not found:
        typer.echo("\nNothing is wrong by these rules.")
        return
    typer.echo("")
    table(
        ("alert", "rule", "status", "since", "what"),
        [(one.id, one.rule, one.status, ago(one.since), one.message) for one in found],
    )


def _until(moment: float, now: float) -> str:
    left = moment - now
    return f"{left / 60:.0f} min more" if left > 0 else ""


@app.command()
@with_client
def remove(
    client: Client,
    rule: Rule,
    as_json: AsJson = False,
) -> None:
    """Removes an alert rule; its open alerts are over."""
    client.remove_rule(rule)
    if as_json:
        emit_json({"removed": rule})
        return
    typer.echo(f"Removed {rule}.")


@app.command()
@with_client
def silence(
    client: Client,
    rule: Rule,
    duration: Annotated[
        str, typer.Option("--for", help="30m, 8h, 2d; 0: told again from now on.")
    ] = "1h",
    as_json: AsJson = False,
) -> None:
    """Has nobody told of a rule's alerts for a while; what is open after it is told then."""
    length = seconds(duration)
    found = client.silence_rule(rule, length)
    if as_json:
        emit_json(found)
        return
    typer.echo(f"{rule} is silent for {duration}." if length else f"{rule} is told again.")


@app.command()
@with_client
def test(
    client: Client,
    email: Annotated[
        list[str] | None, typer.Option(help="Instead of mail.to of fleet.yaml; may be repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for how it went.")] = True,
    as_json: AsJson = False,
) -> None:
    """Sends a test message in every way in which alerts are told, and says how it went."""
    newest = max((one.id for one in client.deliveries() if one.way == "webhook"), default=0)
    sent = client.test_alerts(email or [])
    found = _outcomes(client, sent, newest, wait)
    _deliveries(found, as_json)
    if bad := [one for one in found if wait and one.delivered_at is None]:
        reason = bad[0].error or "not tried yet: is the controller ready? `shoal fleet doctor`"
        raise UnavailableError("not-delivered", f"{bad[0].to}: {reason}")


def _outcomes(
    client: Client, sent: models_alerts.TestModel, after: int, wait: bool
) -> list[models_alerts.DeliveryModel]:
    """Deliveries of a test, once each was tried, or after a while."""
    until = time.monotonic() + _WAIT_S
    while True:
        found = [
            one
            for one in client.deliveries()
            if one.event == "alert-test"
            and (one.id in sent.mails if one.way == "mail" else one.id > after)
        ]
        tried = all(one.attempts or one.next_at is None for one in found)
        if not wait or tried or time.monotonic() > until:
            return found
        time.sleep(_LOOK_S)


def _deliveries(found: list[models_alerts.DeliveryModel], as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    table(
        ("way", "event", "to", "tries", "outcome"),
        [(one.way, one.event, one.to, one.attempts, _outcome(one)) for one in found],
    )


def _outcome(one: models_alerts.DeliveryModel) -> str:
    if one.delivered_at is not None:
        return f"delivered {ago(one.delivered_at)}"
    if one.next_at is None:
        return f"given up: {one.error}"
    return f"is tried again: {one.error}" if one.error else "waits"
