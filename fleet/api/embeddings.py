"""``/v1/embeddings`` as OpenAI's clients know it, answered by devices with an encoder.

The model of a request is a selector, as for completions; the device that gives the first vector
gives them all, since vectors of two bundles cannot be compared.
Source: OpenAI API reference, embeddings.
"""

from __future__ import annotations

import base64
import struct
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, Tag

from contracts import codec, limits, wording
from contracts.answers import Embedded
from contracts.errors import InputError, ShoalError, UnavailableError, from_info
from contracts.requests import EmbedRequest
from fleet.api.auth import QUESTION, Operator, TheController
from fleet.api.openai_devices import candidates
from fleet.api.openai_strict import TEXT_OR_LIST, TEXTS, Body
from fleet.api.waiting import while_connected
from fleet.controller import Controller

ROUTER = APIRouter(prefix="/v1", tags=["openai"])
MAX_INPUTS: Final = 256
"""Texts of one request; a device embeds them one after the other."""

TIMEOUT_S: Final = 30.0
"""Seconds that one text may take."""

_TRIES: Final = 3
_RETRY: Final = frozenset(
    {"busy", "device-offline", "no-answer", "no-model", "no-embedding", "shutting-down"}
    | {"unknown-operation", "wrong-task"}
)
_Input = Annotated[str, Field(min_length=1, max_length=limits.MAX_TEXT_BYTES), Tag("text")]
_Inputs = Annotated[list[_Input], Field(min_length=1, max_length=MAX_INPUTS), Tag("list")]


class Embeddings(Body):
    """The body of ``/v1/embeddings``."""

    input: Annotated[_Input | _Inputs, TEXT_OR_LIST, TEXTS]
    encoding_format: Literal["float", "base64"] = "float"


async def _one(controller: Controller, device: str, text: str, requester: str) -> Embedded:
    """One vector of one device.

    Raises:
        ShoalError: what the device said.
    """
    fields = {"text": text, "requester": requester[:64]}
    codec.encode_given(fields, what="the request")
    try:
        request = codec.convert(fields, EmbedRequest)
    except msgspec.ValidationError as error:
        raise InputError("bad-message", f"the request is not valid: {wording.of(error)}") from None
    asked = controller.asker.ask([device], "embed", request, TIMEOUT_S)
    async with aclosing(asked):
        async for answer in asked:
            if answer.error is not None:
                raise from_info(answer.error)
            if answer.embedded is not None:
                return answer.embedded
    raise UnavailableError("no-answer", "the device ended its answer without a result")


async def _all(
    controller: Controller, model: str, texts: list[str], requester: str
) -> list[Embedded]:
    online = await run_in_threadpool(candidates, controller, model, "classify", "a classifier")
    names = online[:_TRIES]
    for place, name in enumerate(names):
        try:
            found = [await _one(controller, name, texts[0], requester)]
        except ShoalError as error:
            if place + 1 < len(names) and error.code in _RETRY:
                continue
            raise
        for text in texts[1:]:
            one = await _one(controller, name, text, requester)
            if one.bundle != found[0].bundle:
                raise UnavailableError("no-answer", "the device's bundle changed; ask again")
            found.append(one)
        return found
    raise UnavailableError("device-offline", "no device answered")


def _encoded(vector: list[float], kind: str) -> list[float] | str:
    """The numbers, or little-endian float32 in base64, which clients ask for to save bytes."""
    if kind == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@ROUTER.post("/embeddings", dependencies=[QUESTION], response_model=None)
async def create_embeddings(
    http: Request, controller: TheController, token: Operator, body: Embeddings
) -> dict[str, Any]:
    """Texts as vectors of length 1, from one of the devices that `model` (a selector) means."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    found = await while_connected(http, _all(controller, body.model, texts, token.name))
    tokens = sum(one.tokens for one in found)
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(one.embedding, body.encoding_format),
        }
        for index, one in enumerate(found)
    ]
    return {
        "object": "list",
        "data": rows,
        "model": f"{found[0].bundle.name} {found[0].bundle.version}",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
