"""What every page needs: the data, and who is signed in."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import Request

from contracts.errors import InputError
from fleet.dashboard.data import Data
from fleet.dashboard.session import COOKIE, Sessions
from fleet.dashboard.work import Work
from fleet.store.tokens import Role, Token

PREFIX: Final = "/ui"


class Site(msgspec.Struct, frozen=True):
    """The dashboard of one controller."""

    data: Data
    sessions: Sessions
    work: Work

    async def visit(self, request: Request) -> Visit:
        """The visit of a request that the gate let in."""
        cookie = request.cookies.get(COOKIE)
        seen = await self.sessions.token(cookie)
        return Visit(self, cookie, request.cookies.get("shoal_theme", ""), seen)


class Visit(msgspec.Struct, frozen=True):
    """One person's look at one page."""

    site: Site
    cookie: str | None
    theme: str
    opened_by: Token | None

    async def token(self) -> Token | None:
        """Who looks now; None once the session or its token has ended. Before every action."""
        return await self.site.sessions.token(self.cookie)

    async def signed_in(self) -> Token:
        """As :meth:`token`, for an action.

        Raises:
            InputError: ``signed-out``.
        """
        token = await self.token()
        if token is None:
            raise InputError("signed-out", "The session has ended: sign in again.")
        return token

    def may(self, role: Role) -> bool:
        """Whether the page was opened by somebody of a role: what it shows goes by that."""
        return self.opened_by is not None and self.opened_by.may(role)
