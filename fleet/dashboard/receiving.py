"""Where a browser sends a bundle's file, part by part, within its session."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.concurrency import run_in_threadpool

from contracts.errors import InputError, ShoalError
from fleet.api.errors import ApiError
from fleet.dashboard.session import COOKIE
from fleet.dashboard.site import PREFIX, Site
from fleet.dashboard.uploads import MAX_PART_BYTES, REPORT

PATH = f"{PREFIX}/upload"


def add(app: FastAPI, site: Site) -> None:
    """Adds the route. Pages of other sites do not reach it: see the gate."""

    @app.post(PATH, include_in_schema=False)
    async def upload(
        request: Request,
        name: Annotated[str, Query(max_length=256)],
        size: Annotated[int, Query(ge=1)],
        offset: Annotated[int, Query(ge=0)] = 0,
        identifier: Annotated[str, Query(alias="id", max_length=64)] = "",
        report: Annotated[str, Query(max_length=64)] = "",
    ) -> dict[str, Any]:
        """A part; after the last one, what became of the file."""
        token = await site.sessions.token(request.cookies.get(COOKIE))
        if token is None:
            raise ApiError("unauthorized", "The session has ended: sign in again.")
        request.state.token = token
        if not token.may("admin"):
            raise ApiError("forbidden", "Publishing needs the role admin.")
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_PART_BYTES:
                raise InputError("too-large", f"a part has at most {MAX_PART_BYTES} bytes")
        found = await run_in_threadpool(
            site.work.receive, identifier, name, size, offset, bytes(data), token
        )
        if not found.whole or found.path.name.endswith(REPORT):
            return {"id": found.id, "done": found.done}
        try:
            ref = await run_in_threadpool(site.work.publish, found, token, report)
        except ShoalError as error:
            # It came whole; that it was refused is in the audit log already.
            return {"refused": str(error), "code": error.code}
        return {"published": f"{PREFIX}/models/{ref.name}/{ref.version}", "name": str(ref)}
