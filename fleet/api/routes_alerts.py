"""``/v1/alerts``: what is wrong, the rules that say so, and who was told."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Response

from fleet.alerts import rule as rules
from fleet.alerts.rule import Rule
from fleet.api import models_alerts, paging
from fleet.api.auth import Admin, Operator, TheController, Viewer
from fleet.lookout import commands
from fleet.rollout.spec import NAME_PATTERN
from fleet.store import alerts
from fleet.store.entries import Actor

ROUTER = APIRouter(prefix="/v1/alerts", tags=["alerts"])
_Id = Annotated[str, Path(pattern=NAME_PATTERN)]
_Name = Annotated[str | None, Query(pattern=NAME_PATTERN)]


@ROUTER.get("")
def list_alerts(
    controller: TheController,
    _token: Viewer,
    which: Literal["open", "past", "all"] = "open",
    device: _Name = None,
    rule: _Name = None,
    cursor: paging.Cursor = None,
    limit: paging.Limit = 100,
) -> models_alerts.AlertPage:
    """Alerts that are open, or were, newest first."""
    before = paging.decode_number(cursor)
    with controller.store.read() as connection:
        found, following = alerts.page(connection, which, before, limit, device=device, rule=rule)
    return models_alerts.AlertPage(
        items=[models_alerts.AlertModel(**msgspec.structs.asdict(one)) for one in found],
        next=paging.encode_cursor(following),
    )


@ROUTER.get("/rules")
def list_rules(controller: TheController, _token: Viewer) -> models_alerts.RulePage:
    """All alert rules, each with how many alerts are open."""
    with controller.store.read() as connection:
        found, counts = alerts.rules(connection), alerts.counts(connection)
    return models_alerts.RulePage(items=[_rule(one, counts.get(one.id, 0)) for one in found])


@ROUTER.post("/rules", status_code=201)
def add_rule(
    controller: TheController, token: Admin, new: models_alerts.NewRule
) -> models_alerts.RuleModel:
    """Adds an alert rule."""
    rule = rules.new(
        new.id or f"r{secrets.token_hex(4)}",
        new.kind,
        now=controller.clock(),
        by=token.name,
        title=new.title,
        selected=new.selector,
        threshold=new.threshold,
        hold_s=new.hold_s,
        clear_s=new.clear_s,
        emails=new.emails,
    )
    commands.add(controller.store, rule, Actor(token.name, token.role), controller.clock())
    return _rule(rule, 0)


@ROUTER.delete("/rules/{rule}", status_code=204)
def remove_rule(controller: TheController, token: Admin, rule: _Id) -> Response:
    """Removes an alert rule; its open alerts are over."""
    commands.remove(controller.store, rule, Actor(token.name, token.role), controller.clock())
    return Response(status_code=204)


@ROUTER.post("/rules/{rule}/silence")
def silence_rule(
    controller: TheController, token: Operator, rule: _Id, new: models_alerts.Silence
) -> models_alerts.RuleModel:
    """Has nobody told of a rule's alerts for a while; what is open after it is told then."""
    actor, now = Actor(token.name, token.role), controller.clock()
    return _rule(commands.silence(controller.store, rule, new.seconds, actor, now), 0)


@ROUTER.post("/test")
def send_test(
    controller: TheController, token: Admin, new: models_alerts.NewTest
) -> models_alerts.TestModel:
    """Sends a test message in every way in which alerts are told."""
    actor = Actor(token.name, token.role)
    hooks, mails = commands.test(
        controller.store, controller.lookout, new.emails, actor, controller.clock()
    )
    return models_alerts.TestModel(webhooks=hooks, mails=mails)


@ROUTER.get("/deliveries")
def list_deliveries(
    controller: TheController, _token: Admin, limit: paging.Limit = 100
) -> models_alerts.DeliveryPage:
    """How deliveries of alerts went: webhooks and mail."""
    found = commands.deliveries(controller.store, limit)
    return models_alerts.DeliveryPage(
        items=[models_alerts.DeliveryModel(**msgspec.structs.asdict(one)) for one in found]
    )


def _rule(rule: Rule, count: int) -> models_alerts.RuleModel:
    return models_alerts.RuleModel(**msgspec.structs.asdict(rule), unit=rule.about.unit, open=count)
