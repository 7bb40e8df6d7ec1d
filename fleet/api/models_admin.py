"""The API's documents on who may do what, and who did: tokens, webhooks, the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fleet.api.models import Answer, Given


class AuditModel(Answer):
    """One change, and who made it; or what was refused or failed: `outcome` is its error's code.

    Failures of a kind within a minute are one entry: `times`, up to `until`.
    """

    id: int
    at: float
    actor: str
    role: str
    action: str
    target: str
    detail: dict[str, Any] = Field({})
    outcome: str = "done"
    times: int = 1
    until: float | None = None


class AuditPage(Answer):
    """Changes, newest first."""

    items: list[AuditModel]
    next: str | None = None


class TokenModel(Answer):
    """A token, without its secret."""

    id: str
    name: str
    role: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None


class TokenPage(Answer):
    """All tokens."""

    items: list[TokenModel]


class NewToken(Given):
    """A token to make."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    role: Literal["pooled", "viewer", "operator", "admin"]
    seconds: Annotated[float, Field(gt=0, le=10 * 366 * 24 * 3600)] | None = None


class MadeToken(Answer):
    """A new token: the only time that its secret is shown."""

    token: str


class NewWebhook(Given):
    """A webhook to add. `events` are kinds of events, or ``*``."""

    url: Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s]+$")]
    events: Annotated[
        list[Annotated[str, Field(pattern=r"^(\*|[a-z][a-z-]{0,63})$")]],
        Field(min_length=1, max_length=50),
    ] = Field(["*"])
    secret: Annotated[str, Field(min_length=16, max_length=128)] | None = None


class WebhookModel(Answer):
    """A webhook; its secret is shown when it is made, never again."""

    id: str
    url: str
    events: list[str]
    created_at: float
    secret: str | None = None


class WebhookPage(Answer):
    """All webhooks."""

    items: list[WebhookModel]


class Me(Answer):
    """Who the token is."""

    fleet: str
    name: str
    role: str


class ExpiryModel(Answer):
    """Something that runs out."""

    kind: Literal["role", "certificate", "list", "device", "application", "token", "enrolment"]
    name: str
    expires: float
    todo: str
    warning_days: int | None = Field(None, description="30, 7, 1, or 0 once it has run out")


class ExpiryPage(Answer):
    """All that runs out, the first end first."""

    items: list[ExpiryModel]
