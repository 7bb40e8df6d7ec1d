"""Work that devices do for a request, ended when nobody waits for its answer any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from fastapi import HTTPException, Request

T = TypeVar("T")
_GONE: Final = 499
"""Of nginx: the client closed the connection. Nobody reads it."""


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the request's client leaves.

    Clients give up after some time and ask again: each time a device would have one more answer
    to make that nobody reads.

    Args:
        request: whose body was read.
        work: awaited here.

    Raises:
        HTTPException: the client has left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HTTPException(_GONE, "the client has left")
        return working.result()
    finally:
        for one in (working, leaving):
            one.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
