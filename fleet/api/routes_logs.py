"""``/v1/devices/{device}/logs``: lines of a device's log, once or for a while."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import APIRouter

from contracts.answers import Logged
from contracts.errors import ShoalError
from fleet import logtail
from fleet.api import models_logs
from fleet.api.auth import QUESTION, Operator, TheController
from fleet.api.stream import Stream
from fleet.store.entries import Actor

ROUTER = APIRouter(prefix="/v1/devices", tags=["devices"])


@ROUTER.post("/{device}/logs", dependencies=[QUESTION], response_model=models_logs.LogPage)
async def read_logs(
    controller: TheController, token: Operator, device: str, asked: models_logs.LogsAsked
) -> Stream:
    """Lines of a device's log as newline-delimited JSON, one `LogPage` a line.

    The device redacts them before they leave it; its owner may refuse (`logs-not-shared`). Who
    asked is in the audit log. What goes wrong later is the last line.
    """
    wanted = logtail.Wanted(asked.lines, asked.level, asked.after, asked.boot, asked.follow_s)
    pages = logtail.read(controller, device, wanted, Actor(token.name, token.role))
    first = await anext(pages)
    return Stream(_lines(first, pages), "application/x-ndjson")


async def _lines(first: Logged, pages: AsyncGenerator[Logged, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(pages):
        try:
            yield _line(first)
            async for one in pages:
                yield _line(one)
        except ShoalError as error:
            yield msgspec.json.encode(error.body()) + b"\n"


def _line(found: Logged) -> bytes:
    return models_logs.page(found).model_dump_json().encode() + b"\n"
