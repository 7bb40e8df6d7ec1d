"""``/v1/queries``: ask devices; collect the answers or stream them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from contracts import codec, requests, wording
from contracts.answers import Answer
from contracts.errors import InputError, ShoalError
from fleet.api import models, views
from fleet.api.auth import QUESTION, Operator, TheController
from fleet.api.stream import Stream
from fleet.api.waiting import while_connected
from fleet.controller import Controller
from fleet.query.ask import votes
from fleet.rollout import selector
from fleet.store import devices, selection
from fleet.store.schema import DEVICE

ROUTER = APIRouter(prefix="/v1", tags=["queries"])
_TYPES: dict[str, type[requests.Request]] = {
    "classify": requests.ClassifyRequest,
    "embed": requests.EmbedRequest,
    "generate": requests.GenerateRequest,
    "selftest": requests.SelftestRequest,
    "status": requests.StatusRequest,
}
_OURS = frozenset({"id", "reply_to", "deadline_ms", "requester"})


def build_request(query: models.Query, requester: str) -> requests.Request:
    """The wire's request.

    Raises:
        InputError: ``bad-message``.
    """
    fields: dict[str, Any] = {k: v for k, v in query.options.items() if k not in _OURS}
    fields["requester"] = requester[:64]
    if query.op in ("classify", "embed"):
        fields["text"] = query.text
    elif query.op == "generate" and "messages" not in fields:
        fields["prompt"] = query.text
    if (
        query.op in ("classify", "embed", "generate")
        and "messages" not in fields
        and not query.text
    ):
        raise InputError("bad-message", f"{query.op} needs a text")
    if len(query.text.encode("utf-8", "surrogatepass")) > 16 * 1024:
        raise InputError("too-large", "the text is over 16384 bytes")
    codec.encode_given(fields, what=f"the {query.op} request")
    try:
        return codec.convert(fields, _TYPES[query.op])
    except msgspec.ValidationError as error:
        raise InputError(
            "bad-message", f"the {query.op} request is not valid: {wording.of(error)}"
        ) from None


def choose(controller: Controller, query: models.Query) -> dict[str, bool]:
    """The devices that are asked, with whether each is online.

    Raises:
        InputError: ``bad-query``, ``no-such-device``, ``no-devices``.
    """
    if (query.selector is None) == (query.devices is None):
        raise InputError("bad-query", "a query needs either a selector or devices")
    with controller.store.read() as connection:
        if query.devices is not None:
            found = devices.contacts(connection, DEVICE.c.id.in_(query.devices))
            for name in query.devices:
                if name not in found:
                    raise InputError("no-such-device", f"no device is called {name!r}")
            hint = ""
        else:
            assert query.selector is not None
            wanted = selector.parse(query.selector)
            found = devices.contacts(connection, selection.means(wanted))
            hint = "" if found else selection.hint(connection, wanted)
    online = {device: up for device, up in found.items() if up is not None}
    if not online:
        raise InputError("no-devices", f"the query means no device that may be asked{hint}")
    return online


@ROUTER.post("/queries", dependencies=[QUESTION], response_model=models.QueryResult)
async def ask_devices(
    http: Request, controller: TheController, token: Operator, query: models.Query
) -> Any:
    """Asks devices, and answers with all answers together and votes over the labels.

    With `stream`, answers come as newline-delimited JSON, one `QueryAnswer` a line, as the
    devices give them.
    """
    request = build_request(query, token.name)
    online = await run_in_threadpool(choose, controller, query)
    answers = controller.asker.ask(
        list(online),
        query.op,
        request,
        query.timeout_s,
        offline=lambda device: not online[device],
    )
    if query.stream:
        return Stream(_lines(answers), "application/x-ndjson")
    began = time.monotonic()

    async def whole() -> list[Answer]:
        async with aclosing(answers):
            return [answer async for answer in answers if answer.done]

    final = await while_connected(http, whole())
    final.sort(key=lambda answer: answer.device)
    failed = sum(answer.error is not None for answer in final)
    counted = votes(final)
    return models.QueryResult(
        asked=len(online),
        answered=len(final) - failed,
        failed=failed,
        seconds=time.monotonic() - began,
        answers=[views.answer(answer) for answer in final],
        votes=models.Votes(**counted) if counted else None,
    )


async def _lines(answers: AsyncGenerator[Answer, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(answers):
        try:
            async for answer in answers:
                yield views.answer(answer).model_dump_json(exclude_none=True).encode() + b"\n"
        except ShoalError as error:
            # The status line is gone: the error becomes the last line.
            yield msgspec.json.encode(error.body()) + b"\n"
