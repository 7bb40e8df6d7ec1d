"""A streamed response that closes what it streams, whatever ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Stream(StreamingResponse):
    """Starlette leaves the generator of a broken-off response to the garbage collector.

    Ours hold a query, which must be given back and cancelled at once.

    Args:
        content: pieces of the body.
        media_type: of the body.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(content, media_type=media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._content.aclose()
