"""The documents of alerts: rules, alerts, and how deliveries went."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fleet.alerts.rule import MAX_EMAILS, MAX_HOLD_S, MAX_TITLE, Kind
from fleet.api.models import Answer, Given, Name

Email = Annotated[str, Field(max_length=254)]
Hold = Annotated[float, Field(ge=0, le=MAX_HOLD_S)]


class NewRule(Given):
    """An alert rule to add; what is left out is as usual for its kind."""

    id: Name | None = Field(None, description="its name in commands; else one is made")
    title: Annotated[str, Field(max_length=MAX_TITLE)] = ""
    kind: Kind
    selector: Annotated[str, Field(min_length=1, max_length=4000)] = "all"
    threshold: float | None = Field(None, description="in the unit of the kind")
    hold_s: Hold | None = Field(None, description="seconds for which it must be wrong")
    clear_s: Hold | None = Field(None, description="seconds for which it must be good again")
    emails: Annotated[list[Email], Field(max_length=MAX_EMAILS)] = Field(
        [], description="who gets mail; empty: those of `mail.to` in fleet.yaml"
    )


class RuleModel(Answer):
    """An alert rule, and how many alerts of it are open."""

    id: str
    title: str
    kind: str
    unit: str = Field("", description="of the threshold")
    selector: str
    threshold: float
    hold_s: float
    clear_s: float
    emails: list[str] = Field([])
    silenced_until: float = 0.0
    created_at: float
    created_by: str
    open: int = 0


class RulePage(Answer):
    """All alert rules."""

    items: list[RuleModel]


class Silence(Given):
    """For how long nobody is told of a rule's alerts; 0: they are told again."""

    seconds: Annotated[float, Field(ge=0, le=366 * 24 * 3600)]


class AlertModel(Answer):
    """An alert that is open, or was."""

    id: int
    rule: str
    title: str
    kind: str
    subject: str
    device: str | None = None
    status: Literal["open", "resolved"]
    since: float = Field(description="since when it is wrong")
    opened_at: float
    resolved_at: float | None = None
    value: float = Field(description="when it opened")
    message: str
    told: bool = False


class AlertPage(Answer):
    """Alerts, newest first."""

    items: list[AlertModel]
    next: str | None = None


class NewTest(Given):
    """A test message, to webhooks that get alerts and by mail."""

    emails: Annotated[list[Email], Field(max_length=MAX_EMAILS)] = Field(
        [], description="instead of those of `mail.to` in fleet.yaml"
    )


class TestModel(Answer):
    """What a test put on its way; `GET /v1/alerts/deliveries` says how it went."""

    webhooks: int
    mails: list[int]


class DeliveryModel(Answer):
    """How one delivery went, or goes."""

    way: Literal["webhook", "mail"]
    id: int
    event: str
    to: str = Field(description="an address, or a webhook's scheme, host and port")
    attempts: int
    next_at: float | None = Field(None, description="of the next try; null: there is none")
    delivered_at: float | None = None
    error: str | None = None


class DeliveryPage(Answer):
    """Deliveries of alerts, the newest of each way first."""

    items: list[DeliveryModel]
