"""What every page needs: the data, and who is signed in."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import Request

from fleet.dashboard.data import Data
from fleet.dashboard.session import COOKIE, Sessions
from fleet.store.tokens import Role, Token

PREFIX: Final = "/ui"


class Site(msgspec.Struct, frozen=True):
    """The dashboard of one controller."""

    data: Data
    sessions: Sessions

    def visit(self, request: Request) -> Visit:
        """The visit of a request that the gate let in."""
        return Visit(self, request.cookies.get(COOKIE), request.cookies.get("shoal_theme", ""))


class Visit(msgspec.Struct, frozen=True):
    """One person's look at one page."""

    site: Site
    cookie: str | None
    theme: str

    @property
    def token(self) -> Token | None:
        """Who looks; None once the session or its token has ended."""
        return self.site.sessions.token(self.cookie)

    def may(self, role: Role) -> bool:
        """Whether the person has a role now; asked again before every action."""
        token = self.token
        return token is not None and token.may(role)
